"""The preflight: tries settings, storage and Salesforce as a run would, and says of each what is wrong and what to do.

It writes nothing, creates nothing and lands nothing; what a channel delivers meanwhile is dropped. A failure hides only
what cannot be tried without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cdc import background
from cdc.errors import CdcError, ContainerMissing, LogError, RunClosed, SalesforceError, SettingsInvalid, StorageError
from cdc.events import TIP
from cdc.landing import ChannelLog, StorageLog
from cdc.salesforce import Token
from cdc.session import CometDSession
from cdc.settings import Settings
from cdc.store import PROBE_NAME, Container

REQUEST_S = 15.0
DISCONNECT_S = 2.5

Verdict = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What became of one thing that was tried, and what to do about it."""

    subject: str
    verdict: Verdict
    text: str
    next_step: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the finding as `check --json` shows it."""
        fields = {"subject": self.subject, "verdict": self.verdict, "text": self.text}
        return fields | ({"hint": self.next_step} if self.next_step else {})


@dataclass(frozen=True)
class Doors:
    """The outside, wired by `app`; `log` is closed, so that it can only be read."""

    events: Container
    state: Container
    log: StorageLog
    fetch_token: Callable[[float], Token]
    open_session: Callable[[Token], CometDSession]


SETTINGS = "settings"


def _failed(subject: str, error: CdcError) -> Finding:
    return Finding(subject, "failed", str(error), error.hint)


def refused_settings(error: SettingsInvalid) -> Iterator[Finding]:
    """Yield a finding for each setting that cannot be used."""
    *first, last = error.problems
    yield from (Finding(SETTINGS, "failed", problem) for problem in first)
    yield Finding(SETTINGS, "failed", last, error.hint)


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
    token = background.start("check token", lambda: doors.fetch_token(REQUEST_S))
    found = [future.result() for future in containers]
    yield from found
    logs: list[Finding | ChannelLog] = []
    if not any(finding.verdict == "failed" for finding in found):
        logs += _open_logs(channels, doors.log)
    yield from (each for each in logs if isinstance(each, Finding))
    try:
        granted = token.result()
    except SalesforceError as error:
        yield _failed("token", error)
        yield Finding("session and channels", "skipped", "not tried without a token")
        return
    yield Finding("token", "ok", f"granted for org {granted.org_id or '?'}, user {granted.user_id or '?'}")
    for each in logs:
        yield from _check_org(each, granted) if isinstance(each, ChannelLog) else ()
    yield from _check_session(channels, granted, doors)


# --- storage ---------------------------------------------------------------------------------------------------------


def _container(container: Container) -> Finding:
    subject = f"storage {container.name}"
    try:
        container.folders("quarantine/")
        container.head(PROBE_NAME)
        container.probe_write()
    except ContainerMissing:
        return Finding(subject, "warning", "does not exist yet; it will be created on the first run")
    except StorageError as error:
        return _failed(subject, error)
    return Finding(subject, "ok", "may be listed, read and written")


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
            yield _failed("log", error)
        else:
            yield reader
        yield from (Finding("log", "warning", text, "nothing: the next run mends it") for text in warnings)


def _check_org(log: ChannelLog, token: Token) -> Iterator[Finding]:
    try:
        log.check_org(token.org_id)
    except LogError as error:
        yield _failed("log", error)


# --- Salesforce ------------------------------------------------------------------------------------------------------


def _check_session(channels: Sequence[str], token: Token, doors: Doors) -> Iterator[Finding]:
    """Open a session, subscribe every channel at the tip, and free the session again."""
    session = doors.open_session(token)
    try:
        failure = session.handshake(timeout_s=REQUEST_S).failure
        if failure is None:
            failure = session.connect(answer_within_ms=0, timeout_s=REQUEST_S).failure
        if failure is not None:
            yield _failed("session", failure)
            yield Finding("channels", "skipped", "not tried without a session")
            return
        yield Finding("session", "ok", f"opened at {token.instance_url}")
        for channel in channels:
            yield _channel(session, channel)
    finally:
        if session.client_id and not session.is_gone:
            session.disconnect(timeout_s=DISCONNECT_S)
        session.close()


def _channel(session: CometDSession, channel: str) -> Finding:
    if session.is_over:
        return Finding(channel, "skipped", "not tried: the session is lost")
    failure = session.subscribe(channel, TIP, timeout_s=REQUEST_S).failure
    if failure is None:
        return Finding(channel, "ok", "may be subscribed")
    return Finding(channel, "failed", str(failure).removeprefix(f"subscribe {channel}: "), failure.hint)
