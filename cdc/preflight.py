"""The preflight: tries settings, storage and Salesforce as a run would, and says of each what is wrong and what to do.

It writes nothing, creates nothing and lands nothing; what a channel delivers meanwhile is dropped. A failure hides only
what cannot be tried without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cdc import background, org_check
from cdc.errors import (
    ContainerMissing,
    LogError,
    LoginRefused,
    RunClosed,
    SalesforceError,
    SettingsInvalid,
    StorageError,
    StorageForbidden,
)
from cdc.events import TIP
from cdc.exchange import NETWORK_HINT
from cdc.finding import Finding, failed
from cdc.landing import ChannelLog, StorageLog
from cdc.rest import Rest, entity_of
from cdc.salesforce import Token
from cdc.session import CometDSession
from cdc.settings import Settings
from cdc.store import PROBE_NAME, Container

REQUEST_S = 15.0
DISCONNECT_S = 2.5
CLOCK_NOTED = timedelta(minutes=2)  # more than any network takes
CLOCK_REFUSED = timedelta(
    minutes=15
)  # Azure Storage refuses a signed request that is older ("Authorize with Shared Key")
ASSERTION_REFUSED = timedelta(minutes=3)  # our login assertion lives as long


@dataclass(frozen=True)
class Doors:
    """The outside, wired by `app`; `log` is closed, so that it can only be read.

    Without `open_session` no session is opened and nothing subscribed: a run that is going on does both by itself.
    """

    events: Container
    state: Container
    log: StorageLog
    storage_ahead: Callable[[], timedelta | None]
    fetch_token: Callable[[float], Token]
    is_assertion: bool
    open_rest: Callable[[Token], Rest]
    open_session: Callable[[Token], CometDSession] | None


SETTINGS = "settings"


def refused_settings(error: SettingsInvalid) -> Iterator[Finding]:
    """Yield a finding for each setting that cannot be used."""
    yield from (Finding(SETTINGS, "failed", problem, error.step_for(problem)) for problem in error.problems)


def unusable_settings(error: SettingsInvalid) -> Iterator[Finding]:
    """Yield why nothing else can be tried."""
    yield from refused_settings(error)
    yield Finding("storage and Salesforce", "skipped", "not tried with these settings")


def check_settings(settings: Settings, check_timeout: Callable[[], None]) -> Iterator[Finding]:
    """Yield what settings that can be used still leave to say."""
    channels = sum(len(group.channels) for group in settings.channel_groups)
    groups = len(settings.channel_groups)
    flow = "client-credentials" if settings.salesforce_client_secret else "JWT bearer"
    text = f"{channels} channel{'s' * (channels != 1)} in {groups} group{'s' * (groups != 1)}, {flow} flow"
    yield Finding(SETTINGS, "ok", f"{text}, storage by {settings.storage.source}")
    yield from (Finding(SETTINGS, "warning", name, "correct its name or remove it") for name in settings.unknown)
    try:
        check_timeout()
    except SettingsInvalid as error:
        yield from refused_settings(error)
    else:
        yield Finding("time limit", "ok", f"a run of {settings.cdc_run_seconds} s fits under functionTimeout")


def check_outside(channels: Sequence[str], doors: Doors) -> Iterator[Finding]:
    """Yield what storage and Salesforce say, asked side by side: the one's failure does not hide the other's."""
    containers = background.start_each(
        "check storage", [background.bind(_container, each) for each in (doors.events, doors.state)], at_once=2
    )
    signing_in = background.start("check token", lambda: _sign_in(doors))
    found = [future.result() for future in containers]
    yield from found
    logs: list[Finding | ChannelLog] = []
    if not any(finding.verdict == "failed" for finding in found):
        logs += _open_logs(channels, doors.log)
    yield from (each for each in logs if isinstance(each, Finding))
    token, salesforce_ahead = signing_in.result()
    yield from _clock({"Salesforce": salesforce_ahead, "storage": doors.storage_ahead()}, doors.is_assertion)
    if isinstance(token, SalesforceError):
        yield _not_signed_in(token)
        yield Finding(
            "session and channels" if doors.open_session else "channels", "skipped", "not tried without a token"
        )
        return
    yield Finding("token", "ok", f"granted for org {token.org_id or '?'}, user {token.user_id or '?'}")
    for each in logs:
        yield from _check_org(each, token) if isinstance(each, ChannelLog) else ()
    granted = org_check.look(channels, token, doors.open_rest)
    yield from granted.org
    if doors.open_session is None:
        yield from granted.channels.values()
    else:
        yield from _check_session(channels, doors.open_session(token), token, granted)


def _sign_in(doors: Doors) -> tuple[Token | SalesforceError, timedelta | None]:
    """Return the token, or why there is none, and how far Salesforce's clock is ahead of ours."""
    try:
        token = doors.fetch_token(REQUEST_S)
    except LoginRefused as error:
        return error, _ahead(error.server_time)
    except SalesforceError as error:
        return error, None
    return token, _ahead(token.server_time)


def _not_signed_in(error: SalesforceError) -> Finding:
    step = "check SALESFORCE_LOGIN_URL (Setup > My Domain) and the network path to it; see status.salesforce.com"
    return Finding("token", "failed", str(error), step if error.hint == NETWORK_HINT else error.hint)


def _ahead(server_time: datetime | None) -> timedelta | None:
    return server_time - datetime.now(UTC) if server_time else None


def _clock(ahead: dict[str, timedelta | None], is_assertion: bool) -> Iterator[Finding]:
    """Yield how our clock compares with those whose Date header was seen."""
    known = {name: each for name, each in ahead.items() if each is not None}
    if not known:
        return
    apart = {name: each for name, each in known.items() if abs(each) > CLOCK_NOTED}
    if not apart:
        yield Finding("clock", "ok", f"agrees with that of {' and of '.join(known)}")
        return
    refused = ASSERTION_REFUSED if is_assertion else CLOCK_REFUSED
    text = ", ".join(
        f"{abs(each).total_seconds() / 60:.0f} min {'behind' if each > timedelta() else 'ahead of'} that of {name}"
        for name, each in apart.items()
    )
    text += "".join(f", though in step with that of {name}" for name in known if name not in apart)
    yield Finding(
        "clock",
        "failed" if max(map(abs, apart.values())) > refused else "warning",
        text,
        "set this machine's clock by a time server (in Azure restart the app): signed requests are refused from 15 "
        "minutes on, login assertions from 3",
    )


# --- storage ---------------------------------------------------------------------------------------------------------


def _container(container: Container) -> Finding:
    subject = f"storage {container.name}"
    try:
        container.folders("quarantine/")
        container.head(PROBE_NAME)
    except ContainerMissing:
        return _missing(subject, container)
    except StorageError as error:
        return failed(subject, error)
    try:
        container.probe_write()
    except StorageForbidden as error:
        step = f"{error.hint}; Storage Blob Data Reader is enough for status alone"
        return Finding(subject, "failed", str(error), step)
    except StorageError as error:
        return failed(subject, error)
    return Finding(subject, "ok", "may be listed, read and written")


def _missing(subject: str, container: Container) -> Finding:
    """Say whether the first run can create it, as far as that shows without creating it."""
    try:
        try:
            container.probe_write()
        except ContainerMissing:
            container.probe_ensure()
    except StorageForbidden as error:
        return Finding(subject, "failed", f"does not exist, and may not be created: {error}", error.hint)
    except StorageError as error:
        return failed(subject, error)
    return Finding(subject, "warning", "does not exist yet; it will be created on the first run")


def _open_logs(channels: Sequence[str], log: StorageLog) -> Iterator[Finding | ChannelLog]:
    """Yield each channel's log, or why it cannot be read; before it, what the log itself warns of."""
    for channel in channels:
        warnings: list[str] = []
        reader = ChannelLog(log, channel, warnings.append)
        try:
            reader.derive()
        except RunClosed:
            continue  # a container is missing, and a closed log creates none: nothing is landed yet
        except (LogError, StorageError) as error:
            yield failed("log", error)
        else:
            yield reader
        yield from (Finding("log", "warning", text, "nothing: the next run mends it") for text in warnings)


def _check_org(log: ChannelLog, token: Token) -> Iterator[Finding]:
    try:
        log.check_org(token.org_id)
    except LogError as error:
        yield failed("log", error)


# --- Salesforce ------------------------------------------------------------------------------------------------------


def _check_session(
    channels: Sequence[str], session: CometDSession, token: Token, granted: org_check.Granted
) -> Iterator[Finding]:
    """Open a session, subscribe every channel at the tip, and free the session again."""
    try:
        failure = session.handshake(timeout_s=REQUEST_S).failure
        if failure is None:
            failure = session.connect(answer_within_ms=0, timeout_s=REQUEST_S).failure
        if failure is not None:
            yield failed("session", failure)
            yield Finding("channels", "skipped", "not tried without a session")
            return
        yield Finding("session", "ok", f"opened at {token.instance_url}")
        for channel in channels:
            yield from _channel(session, channel, granted.channels.get(channel))
    finally:
        if session.client_id and not session.is_gone:
            session.disconnect(timeout_s=DISCONNECT_S)
        session.close()


def _channel(session: CometDSession, channel: str, granted: Finding | None) -> Iterator[Finding]:
    """Yield what a subscribe brought, and what the org says of the channel where that says more."""
    if session.is_over:
        yield Finding(channel, "skipped", "not tried: the session is lost")
        return
    failure = session.subscribe(channel, TIP, timeout_s=REQUEST_S).failure
    if failure is not None:
        words = str(failure).removeprefix(f"subscribe {channel}: ")
        yield Finding(channel, "failed", words, _step_after(channel, words, granted) or failure.hint)
    elif granted is None or granted.verdict == "ok":
        yield Finding(channel, "ok", "may be subscribed" + (f"; {granted.text}" if granted else ""))
    else:
        yield granted


def _step_after(channel: str, words: str, granted: Finding | None) -> str:
    """Return the next step after a refused subscribe, "" where the session's own says it all."""
    entity = entity_of(channel)
    if words.startswith("400::The channel you requested to subscribe to doesn't exist"):
        if entity is None:
            return "make the channel, or correct its name in CDC_CHANNELS (names are case-sensitive)"
        if channel.startswith("/event/"):
            return f"correct the name in CDC_CHANNELS (names are case-sensitive), or deploy the platform event {entity}"
        return f"select {entity} in Setup > Change Data Capture, or correct its name in CDC_CHANNELS (case counts)"
    if granted is not None and granted.verdict != "ok":
        return granted.next_step
    if words.startswith("403") and not any(sign in words for sign in ("Restricted", "limit exceeded")):
        return f"give the run-as user {org_check.right_for(channel)}; if it has that, check the channel's name"
    return ""
