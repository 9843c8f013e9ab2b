"""What was asked of the org and how it answered, in order; a test reads it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

MAX_ENTRIES = 100_000


class Journal:
    """One entry per meta message, plus counts of everything."""

    def __init__(self) -> None:
        self.entries: deque[dict[str, Any]] = deque(maxlen=MAX_ENTRIES)
        self.counts: Counter[str] = Counter()
        self.rest: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self._number = 0

    def open(self, message: dict[str, Any], time_s: float, post: int, cookies: dict[str, str]) -> dict[str, Any]:
        """The entry of a message that has just arrived; it is pending until `close`."""
        self._number += 1
        channel = str(message.get("channel"))
        advice, ext = message.get("advice"), message.get("ext")
        entry: dict[str, Any] = {
            "n": self._number, "post": post, "time": round(time_s, 3), "channel": channel,
            "clientId": message.get("clientId"), "id": message.get("id"), "cookies": cookies, "state": "pending",
        }  # fmt: skip
        if "subscription" in message:
            entry["subscription"] = message["subscription"]
        if isinstance(ext, dict) and "replay" in ext:
            entry["replay"] = ext["replay"]
        if isinstance(advice, dict):
            entry["advice"] = advice
        self.entries.append(entry)
        self.counts[channel] += 1
        return entry

    def close(self, entries: Iterable[dict[str, Any]], status: int, events: int, fault: str,
              replies: list[dict[str, Any]]) -> None:  # fmt: skip
        """Note how the POST of these entries was answered. `events` counts what was dequeued, sent whole or not."""
        by_id = {(reply.get("channel"), str(reply.get("id"))): reply for reply in replies}
        for entry in entries:
            reply = by_id.get((entry["channel"], str(entry["id"])), {})
            entry.update(state="answered", status=status, events=events, successful=reply.get("successful"))
            if fault:
                entry.update(state="spoiled", fault=fault)
            if "error" in reply:
                entry["error"] = reply["error"]
            if entry["channel"] == "/meta/handshake" and reply.get("successful"):
                entry["clientId"] = reply.get("clientId")
            if "advice" in reply:
                entry["replyAdvice"] = reply["advice"]

    def clear(self) -> None:
        """Forget the entries; numbers and counts go on."""
        self.entries.clear()
