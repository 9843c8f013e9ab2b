"""The composition root: settings in, wired objects out. Both doors, function_app.py and the CLI, go through it.

It decides nothing; it only says which part is given to which.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cdc import answer, background, first_check, health, orders, overview, preflight, rest, salesforce, tail
from cdc.answer import Answer
from cdc.continuity import Policy
from cdc.errors import CdcError, SettingsInvalid, StorageUnavailable
from cdc.events import EARLIEST, TIP
from cdc.finding import Finding
from cdc.landing import StorageLog
from cdc.overview import Overview
from cdc.report import RunReport
from cdc.run import Plan, Ports, run
from cdc.session import CometDSession
from cdc.settings import (
    ChannelGroup,
    Settings,
    check_function_timeout,
    has_managed_identity,
    load_settings,
    timer_groups,
    timer_schedule,
)
from cdc.signals import Emit, bound, from_one_thread, log_event, log_json
from cdc.store import BlobService, Container, Patience, open_service
from cdc.waiting import Clock

_PATIENTLY, _BRIEFLY = Patience(), Patience(repetitions=1)  # briefly: where somebody waits for the answer
_AT_ONCE = Patience(connect_s=2, read_s=4, repetitions=1)  # a browser or a probe waits
_READ_S = 10.0  # after so long a door says that storage does not answer
_STARTS = {"tip": TIP, "earliest": EARLIEST, "stop": "stop"}


@contextmanager
def open_storage(settings: Settings, patience: Patience = _PATIENTLY) -> Iterator[BlobService]:
    """Yield the storage account that the settings name, and close its connections afterwards.

    Raises: SettingsInvalid, StorageError.
    """
    storage = settings.storage
    service = open_service(
        connection_string=storage.connection_string,
        account_url=storage.account_url,
        client_id=storage.client_id,
        has_managed_identity=has_managed_identity(),
        patience=patience,
    )
    try:
        yield service
    finally:
        service.close()


def credentials_of(settings: Settings) -> salesforce.Credentials:
    """Return what the token endpoint asks for."""
    secret, key = settings.salesforce_client_secret, settings.salesforce_private_key
    return salesforce.Credentials(
        login_url=settings.salesforce_login_url,
        client_id=settings.salesforce_client_id,
        client_secret=secret.get_secret_value() if secret else None,
        username=settings.salesforce_username,
        private_key=key.get_secret_value() if key else None,
    )


def group_named(settings: Settings, name: str) -> ChannelGroup:
    """Return a channel group by its name.

    Raises: SettingsInvalid.
    """
    for group in settings.channel_groups:
        if group.name == name:
            return group
    names = ", ".join(group.name for group in settings.channel_groups)
    raise SettingsInvalid([f"CDC_CHANNELS: there is no channel group {name}; the groups are {names}"])


def capture(
    settings: Settings,
    group: ChannelGroup,
    *,
    seconds: float | None = None,
    stop: Future[None] | None = None,
    emit: Emit = log_event,
    clock: Clock | None = None,
) -> RunReport:
    """Run one group's capture once and return the report. Raises no foreseeable error but SettingsInvalid."""
    clock = clock or Clock()
    run_id = f"{clock.now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    emit = bound(emit, run_id=run_id, group=group.name)
    for name in settings.unknown:
        emit("settings.unknown", level=logging.WARNING, setting=name)
    version = settings.salesforce_api_version
    credentials = credentials_of(settings)
    with open_storage(settings) as service:
        ports = Ports(
            fetch_token=lambda timeout_s: salesforce.fetch_token(credentials, timeout_s=timeout_s),
            open_session=lambda token: CometDSession(salesforce.Streaming(token, version)),
            open_rest=lambda token: rest.Rest(token, version),
            log=StorageLog(
                service.container(settings.cdc_events_container),
                service.container(settings.cdc_checkpoints_container),
                run_id=run_id,
                now=clock.now,
            ),
            emit=emit,
            clock=clock,
        )
        plan = Plan(
            group=group.name,
            channels=group.channels,
            run_seconds=settings.cdc_run_seconds if seconds is None else seconds,
            policy=Policy(start=_STARTS[settings.cdc_start], on_replay_expired=_STARTS[settings.cdc_on_replay_expired]),
            silence_check_s=60.0 * settings.cdc_silence_check_minutes,
        )
        return run(plan, ports, stop=stop)


def run_timer(group_name: str, root: Path) -> RunReport:
    """What the timer does: read the settings, check that the run fits under the host's limit, capture.

    The first run of a process logs beside it what `check` finds. Raises: SettingsInvalid.
    """
    with first_check.beside(lambda: check(root, with_sessions=False), log_json):
        settings = load_settings()
        check_function_timeout(settings, root / "host.json")
        return capture(settings, group_named(settings, group_name), emit=from_one_thread(log_json))


def check(root: Path, *, with_sessions: bool = True) -> Iterator[Finding]:
    """Yield what the preflight finds, as it is found; writes nothing. Raises nothing foreseeable.

    Without sessions it leaves out the handshake and the subscribes.
    """

    def open_session(token: salesforce.Token) -> CometDSession:
        return CometDSession(salesforce.Streaming(token, version))

    try:
        settings = load_settings()
        yield from preflight.check_settings(settings, lambda: check_function_timeout(settings, root / "host.json"))
        with open_storage(settings, _BRIEFLY) as service:
            events, state = _containers(settings, service)
            credentials, version = credentials_of(settings), settings.salesforce_api_version
            doors = preflight.Doors(
                events=events,
                state=state,
                log=_log_to_read(events, state),
                storage_ahead=service.clock_ahead,
                fetch_token=lambda timeout_s: salesforce.fetch_token(credentials, timeout_s=timeout_s),
                is_assertion=credentials.private_key is not None,
                open_rest=lambda token: rest.Rest(token, version),
                open_session=open_session if with_sessions else None,
            )
            channels = [channel for group in settings.channel_groups for channel in group.channels]
            yield from preflight.check_outside(channels, doors)
    except SettingsInvalid as error:
        yield from preflight.unusable_settings(error)


def status(settings: Settings) -> overview.Overview:
    """Return where every channel stands; reads storage alone. Raises: SettingsInvalid."""
    with open_storage(settings, _BRIEFLY) as service:
        return overview.read(_groups(settings), *_containers(settings, service), datetime.now(UTC))


def show_status(accept: str, form: str) -> Answer:
    """What `GET /api/status` answers, by the checkpoints container alone. Raises nothing foreseeable, is soon done."""
    seen, expected = _seen(lambda settings, state, now: overview.read_records(_groups(settings), state, now))
    return answer.status(seen, health.judge(seen, expected), as_html=answer.wants_html(accept, form))


def show_health() -> Answer:
    """What `GET /api/health` answers, by one run record per group. Raises nothing foreseeable, is soon done."""
    seen, expected = _seen(lambda settings, state, now: overview.read_runs(list(_groups(settings)), state, now))
    return answer.health(health.judge(seen, expected))


def _seen(read: Callable[[Settings, Container, datetime], Overview]) -> tuple[Overview, datetime]:
    """Return what `read` finds in the checkpoints container, and since when a run must have ended.

    What cannot be read is an overview with an error.
    """
    now = datetime.now(UTC)
    try:
        settings = load_settings()
        expected = health.expected_since(settings.cdc_schedule, settings.cdc_run_seconds, now)
        reading = background.start("status", background.bind(_read_state, settings, read, now))
        return reading.result(_READ_S), expected
    except TimeoutError:
        error: CdcError = StorageUnavailable(
            f"reading the records in container {settings.cdc_checkpoints_container}: no answer within {_READ_S:.0f} s",
            hint="check that Blob Storage can be reached from here: firewall, private endpoint, DNS, CDC_STORAGE",
        )
    except CdcError as unreadable:
        error = unreadable
    return Overview(now, error=error), now - timedelta(days=1)


def _read_state(
    settings: Settings, read: Callable[[Settings, Container, datetime], Overview], now: datetime
) -> Overview:
    with open_storage(settings, _AT_ONCE) as service:
        return read(settings, service.container(settings.cdc_checkpoints_container), now)


def _groups(settings: Settings) -> dict[str, tuple[str, ...]]:
    return {group.name: group.channels for group in settings.channel_groups}


@contextmanager
def ordering(settings: Settings) -> Iterator[orders.Orders]:
    """Yield what carries out an operator's orders, and reads gaps and quarantine. Raises: SettingsInvalid."""
    credentials = credentials_of(settings)
    with open_storage(settings, _BRIEFLY) as service:
        events, state = _containers(settings, service)
        yield orders.Orders(
            events,
            state,
            run_id=_new_id("operator-"),
            now=lambda: datetime.now(UTC),
            fetch_token=lambda timeout_s: salesforce.fetch_token(credentials, timeout_s=timeout_s),
        )


@contextmanager
def following(settings: Settings, channels: Sequence[str], segment: int | None) -> Iterator[list[tail.Follower]]:
    """Yield a follower of each channel, from now on or from a segment on.

    Raises: SettingsInvalid, StorageError, LogInconsistent.
    """
    with open_storage(settings, _BRIEFLY) as service:
        events, state = _containers(settings, service)
        yield [tail.start_at(events, state, channel, segment, datetime.now(UTC)) for channel in channels]


def channels_of(settings: Settings, named: Sequence[str] = ()) -> list[str]:
    """Return all channels of the settings, or those named, which must be among them.

    Raises: SettingsInvalid.
    """
    known = [channel for group in settings.channel_groups for channel in group.channels]
    strange = [channel for channel in named if channel not in known]
    if strange:
        raise SettingsInvalid([f"CDC_CHANNELS: there is no channel {strange[0]}; the channels are {', '.join(known)}"])
    return list(named) or known


def _new_id(kind: str = "") -> str:
    return f"{kind}{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def _log_to_read(events: Container, state: Container) -> StorageLog:
    """Return a log that is closed from the first: nothing can be written or created through it."""
    log = StorageLog(events, state, run_id="", now=lambda: datetime.now(UTC))
    log.close()
    return log


def _containers(settings: Settings, service: BlobService) -> tuple[Container, Container]:
    """Return the events and the checkpoints container."""
    return service.container(settings.cdc_events_container), service.container(settings.cdc_checkpoints_container)


def quiet_foreign_logs() -> None:
    """Silence the SDK's line for every HTTP request, and urllib3's URLs, which may hold a SAS."""
    for name in ("azure", "msal"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # its warnings quote malformed headers, cookies included


__all__ = [
    "Answer",
    "capture",
    "channels_of",
    "check",
    "credentials_of",
    "following",
    "group_named",
    "load_settings",
    "open_storage",
    "ordering",
    "quiet_foreign_logs",
    "run_timer",
    "show_health",
    "show_status",
    "status",
    "timer_groups",
    "timer_schedule",
]
