"""When a timer was last due, by NCRONTAB expressions."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cdc.schedule import last_due

pytestmark = pytest.mark.pure

THURSDAY = datetime(2026, 11, 26, 17, 5, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        ("0 */5 * * * *", "2026-11-26 17:05:00"),
        ("*/5 * * * *", "2026-11-26 17:05:00"),
        ("30 */5 * * * *", "2026-11-26 17:00:30"),
        ("*/10 * * * * *", "2026-11-26 17:05:10"),
        ("12 5 17 * * *", "2026-11-26 17:05:12"),
        ("13 5 17 * * *", "2026-11-25 17:05:13"),
        ("0 0 6-18/4 * * *", "2026-11-26 14:00:00"),
        ("0 0,30 9-17 * * *", "2026-11-26 17:00:00"),
        ("0 10/20 * * * *", "2026-11-26 16:50:00"),
        ("0 0 3 * * *", "2026-11-26 03:00:00"),
        ("0 0 9 * * 1-3", "2026-11-25 09:00:00"),
        ("0 0 9 * * Sat,Sun", "2026-11-22 09:00:00"),
        ("0 0 9 * * SUN", "2026-11-22 09:00:00"),
        ("0 0 0 31 * *", "2026-10-31 00:00:00"),
        ("0 0 0 1 jan *", "2026-01-01 00:00:00"),
        ("0 0 0 29 2 *", "2024-02-29 00:00:00"),
        ("0 0 0 13 * 5", "2026-11-13 00:00:00"),  # a Friday the 13th: both must match
    ],
)
def test_a_schedule_was_last_due(schedule: str, due: str) -> None:
    found = last_due(schedule, THURSDAY)
    assert found is not None
    assert f"{found:%Y-%m-%d %H:%M:%S}" == due


@pytest.mark.parametrize(
    "schedule",
    ["", "* * *", "0 60 * * * *", "0 0 24 * * *", "0 */0 * * * *", "0 5-1 * * * *", "0 0 0 31 2 *", "0 0 0 * * 7",
     "0 a * * * *", "0 0 0 * foo *", "0 ,1 * * * *", "%CDC_SCHEDULE%", "* * * * * * *"],
)  # fmt: skip
def test_what_cannot_be_read_or_never_comes_is_none(schedule: str) -> None:
    assert last_due(schedule, THURSDAY) is None
