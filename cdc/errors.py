"""Every exception that the product raises; each says what failed, why, and (`hint`) what the operator does next.

The type decides what a run does about it; the text is for people. This module never formats a secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime


class CdcError(Exception):
    """Root of all foreseeable failures; `hint` is the operator's next step, one sentence."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


# --- settings --------------------------------------------------------------------------------------------------------


class SettingsInvalid(CdcError):
    """One or more app settings are missing or malformed; `problems` names each, `steps` has what to do about some."""

    def __init__(self, problems: Sequence[str], *, steps: Mapping[str, str] | None = None) -> None:
        self.problems = tuple(problems)
        self._steps = dict(steps or {})
        hints = dict.fromkeys(self.step_for(problem) for problem in self.problems)
        super().__init__("reading the settings: " + "; ".join(self.problems), hint="; ".join(hints))

    def step_for(self, problem: str) -> str:
        """Return the next step for one of the problems."""
        return self._steps.get(problem, _CORRECT)


_CORRECT = "correct the settings named above: app settings in Azure, local.settings.json or the environment here"


# --- Salesforce ------------------------------------------------------------------------------------------------------


class SalesforceError(CdcError):
    """Root of what Salesforce, or the way to it, did."""


class LoginRefused(SalesforceError):
    """The token endpoint understood the request and said no: trying again changes nothing.

    `server_time` is its clock, None where no answer told it.
    """

    def __init__(self, message: str, *, hint: str, server_time: datetime | None = None) -> None:
        super().__init__(message, hint=hint)
        self.server_time = server_time


class RequestRefused(SalesforceError):
    """Salesforce says that the request itself is wrong (its API version, its size): trying again changes nothing."""


class RequestLost(SalesforceError):
    """A request got no complete answer (time-out, reset, EOF, 5xx, HTML): what it carried is gone for its session."""


class AnswerDamaged(RequestLost):
    """An answer holds messages with bytes that no JSON text has. It counts as lost; what comes again is believed."""

    def __init__(self, message: str, *, hint: str, damaged: frozenset[bytes]) -> None:
        super().__init__(message, hint=hint)
        self.damaged = damaged


class AnswerTooLarge(SalesforceError):
    """An answer exceeds what the product is willing to hold in memory."""


class AnswerUnreadable(SalesforceError):
    """An answer arrived complete but is not a JSON array of messages, not even leniently read; `body` is kept raw."""

    def __init__(self, message: str, *, hint: str, body: bytes) -> None:
        super().__init__(message, hint=hint)
        self.body = body


class SessionLost(SalesforceError):
    """The server has ended or forgotten the session: a new one with a fresh cookie jar is needed."""


class TokenInvalid(SalesforceError):
    """Salesforce no longer accepts the access token: a new token and a new session are needed."""


class ServerBusy(SalesforceError):
    """Salesforce asks to come back later (503, connection limits)."""


class AllocationExhausted(SalesforceError):
    """The org's rolling 24-hour event delivery allocation is used up; more requests only make it worse."""


class SubscribeRefused(SalesforceError):
    """One channel was refused (unknown, no permission); the session and its other channels live on."""


class ReplayIdRefused(SubscribeRefused):
    """Salesforce no longer knows the replay id from which a channel was to go on."""


class RestFailed(SalesforceError):
    """A REST question to the org was not answered; `status` is HTTP's or 0, `code` Salesforce's or ""."""

    def __init__(self, message: str, *, hint: str, status: int = 0, code: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code


class RestDenied(RestFailed):
    """The org refuses the question, or its answer lacks what was asked for: asking again soon is no use."""


# --- storage ---------------------------------------------------------------------------------------------------------


class StorageError(CdcError):
    """Root of what Blob Storage, or the way to it, did."""


class StorageUnavailable(StorageError):
    """Blob Storage cannot be reached, times out or answers 5xx."""


class StorageForbidden(StorageError):
    """Blob Storage refuses our credential or lacks a right (401, 403, no token to be had)."""


class ContainerMissing(StorageError):
    """The container does not exist (distinct from a missing blob, which is a value: None)."""


class BlobExists(StorageError):
    """A create-only write found a blob of that name. It may be our own: compare before concluding anything."""


class BlobChanged(StorageError):
    """A compare-and-swap write found another ETag than the one it expected, or no blob at all."""


# --- the log ---------------------------------------------------------------------------------------------------------


class LogError(CdcError):
    """Root of what is wrong with a channel's log; the channel is not captured until it is mended."""


class LogInconsistent(LogError):
    """The log, its generation records and its checkpoint contradict each other in a way that nobody may guess away."""


class OtherOrg(LogError):
    """The log belongs to another Salesforce org than the one these settings log in to."""


class Fenced(LogError):
    """Another run wrote the segment that this run was about to write: two apps share this storage."""


class LatePut(LogError):
    """A write of this very run, believed lost, or a redriven segment has the number: derive again, no alarm."""


class ContinuityStopped(LogError):
    """Continuity is broken and CDC_ON_REPLAY_EXPIRED=stop: the operator has to order a start."""


class OrderRefused(LogError):
    """What an operator ordered cannot be done as things are; nothing was changed."""


class RunClosed(LogError):
    """The run has ended: no write may start any more."""
