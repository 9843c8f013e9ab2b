"""`rewind`: orders where a channel starts anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from cdc import app as cdc_app
from cdc.cli.asking import Yes, ask
from cdc.cli.looks import AsJson, data, progress, show_json, show_note
from cdc.errors import OrderRefused
from cdc.orders import Rewinding, read_target
from cdc.settings import load_settings


def _target(text: str) -> str:
    try:
        return read_target(text)
    except OrderRefused as error:
        raise typer.BadParameter(f"{error}; {error.hint}") from None


def rewind(
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="Like /data/AccountChangeEvent.")],
    start: Annotated[
        str, typer.Option("--to", callback=_target, metavar="earliest|tip|REPLAY_ID", help="Where it starts anew.")
    ],
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Start a channel anew: from the earliest event, the tip, or a replay id.

    It opens a new generation of the channel's log, and deletes nothing. The app may run meanwhile: a run under way goes
    on in the old generation, and the next run takes up the new one. Where events may be missing in between, a gap
    record says so.

    \b
    earliest   all that Salesforce still retains, up to 72 hours, lands again;
               every event counts against the org's delivery allocation
    tip        what was not fetched so far is left out, and a gap says so
    REPLAY_ID  the events after that one

    \b
    Examples:
      python -m cdc rewind /data/AccountChangeEvent --to earliest
      python -m cdc rewind /data/AccountChangeEvent --to 6227391 --yes --json

    \b
    Exit code:
      0  the generation is opened
      1  it could not be; the message says what was written
      2  bad settings or usage, or not confirmed
    """
    settings = load_settings()
    [channel] = cdc_app.channels_of(settings, [channel])
    with cdc_app.ordering(settings) as orders:
        plan = orders.plan_rewind(channel, start)
        for mark, style, text in _means(plan):
            show_note(progress, mark, style, text)
        ask(f"Open generation {plan.number} of {channel}?", yes)
        opened = orders.rewind(plan)
    if as_json:
        show_json(plan.to_json() | {"opened": opened.number, "afterSegment": opened.after_segment})
    else:
        text = f"{channel}: generation {opened.number} is opened; the next run starts {_where(opened.start)}"
        show_note(data, "✓", "green", text)


def _means(plan: Rewinding) -> Iterator[tuple[str, str, str]]:
    """Yield what the plan will do, and what that means, as marked lines."""
    position, t0 = plan.position, f"{plan.t0:%Y-%m-%d %H:%M:%S} UTC"
    last = f"last event {position.last_time:%Y-%m-%d %H:%M:%S} UTC" if position.last_time else "nothing landed"
    stands = f"generation {plan.number - 1}, segment {position.segment}, replay id {position.replay_id or '-'}, {last}"
    yield "-", "dim", f"{plan.channel} stands at {stands}"
    yield "-", "dim", f"generation {plan.number} will start {_where(plan.opening.start)}"
    if plan.opening.start == "-2":
        yield "!", "yellow", "up to 72 hours of events land again, and count again against the org's allocation"
    elif plan.opening.start == "-1":
        yield "!", "yellow", f"what was not fetched until {t0} is left out"
        yield "!", "yellow", "to find that moment, a session is sent all that is retained, which counts as delivered"
    else:
        yield "!", "yellow", "the events after it land again, as far as they are landed already"
        yield "!", "yellow", "if Salesforce does not know it, the app goes on as CDC_ON_REPLAY_EXPIRED says"
    if plan.opening.is_gap:
        since = f"{plan.opening.since:%Y-%m-%d %H:%M:%S}" if plan.opening.since else "an unknown time"
        yield "!", "yellow", f"events between {since} and {t0} may be missing: a gap record will say so"


def _where(start: str) -> str:
    return {"-1": "at the tip", "-2": "at the earliest retained event"}.get(start, f"after replay id {start}")
