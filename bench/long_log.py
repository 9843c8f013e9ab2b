"""Gives an Azurite that keeps its state on disk a long log without writing it: one segment's record, many times over.

It knows Azurite's own file; nothing here goes through a blob request.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

PER_DAY = 1_000


def lengthen(folder: Path, container: str, segments: int) -> None:
    """Make the only segment of the container the last of so many, over as many days as that takes.

    Azurite must not be running on the folder. The checkpoint is not changed: the next run finds it behind.
    """
    path = folder / "__azurite_db_blob__.json"
    database = json.loads(path.read_bytes())
    blobs = next(each for each in database["collections"] if each["name"] == "$BLOBS_COLLECTION$")
    [last] = [
        blob for blob in blobs["data"] if blob["containerName"] == container and blob["name"].endswith("01.jsonl")
    ]
    channel, day, _ = last["name"].rsplit("/", 2)
    ends = date.fromisoformat(day.removeprefix("date="))
    next_id = max(blob["$loki"] for blob in blobs["data"]) + 1
    for number in range(1, segments):
        blobs["data"].append(_renamed({**last}, channel, ends, number, segments) | {"$loki": next_id + number})
    _renamed(last, channel, ends, segments, segments)
    blobs["maxId"] = next_id + segments
    blobs["idIndex"] = None
    for name, index in blobs["binaryIndices"].items():
        index["values"] = sorted(range(len(blobs["data"])), key=_by(blobs["data"], name))
    path.write_text(json.dumps(database), encoding="utf-8")


def _by(blobs: list[dict[str, Any]], name: str) -> Callable[[int], str]:
    return lambda place: str(blobs[place][name])


def _renamed(blob: dict[str, Any], channel: str, ends: date, number: int, segments: int) -> dict[str, Any]:
    day = ends - timedelta(days=(segments - number) // PER_DAY)
    blob["name"] = f"{channel}/date={day.isoformat()}/{number:012d}.jsonl"
    return blob
