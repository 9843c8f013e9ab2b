"""The host's doors: a timer function per channel group, which fails unless its run is ok; a status page; a probe."""

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


@app.function_name("status")
@app.route(route="status", methods=["GET"], auth_level=func.AuthLevel.FUNCTION)
def status(request: func.HttpRequest) -> func.HttpResponse:
    """Show where everything stands, to whoever has a function key."""
    return _response(cdc_app.show_status(request.headers.get("Accept", ""), request.params.get("format", "")))


@app.function_name("health")
@app.route(route="health", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
def health(request: func.HttpRequest) -> func.HttpResponse:
    """Tell a probe whether capture goes on."""
    return _response(cdc_app.show_health())


def _response(answer: cdc_app.Answer) -> func.HttpResponse:
    return func.HttpResponse(answer.body, status_code=answer.code, headers=answer.headers)
