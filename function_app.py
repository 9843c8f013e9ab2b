"""The timer's door: one timer function per channel group reads the settings, wires a run and fails unless it is ok."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import azure.functions as func

from cdc import app as cdc_app
from cdc.errors import CdcError

ROOT = Path(__file__).parent

app = func.FunctionApp()
cdc_app.quiet_foreign_logs()


class CaptureFailed(Exception):
    """The invocation fails visibly: the run was not ok. The text is all that an operator needs first."""


def capture_of(group: str) -> Callable[[func.TimerRequest], None]:
    """Return the timer function of one channel group."""

    def capture(timer: func.TimerRequest) -> None:
        try:
            report = cdc_app.run_timer(group, ROOT)
        except CdcError as error:
            raise CaptureFailed(f"{error} (next step: {error.hint})") from None
        if report.outcome != "ok":
            raise CaptureFailed(report.summary())

    return capture


for _group in cdc_app.timer_groups():
    app.function_name(_group)(
        app.timer_trigger(arg_name="timer", schedule=cdc_app.timer_schedule(), use_monitor=True, run_on_startup=False)(
            capture_of(_group)
        )
    )
