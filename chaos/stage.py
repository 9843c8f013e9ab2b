"""The stage of one chaos: org, storage, two proxies, the app's processes; carries out what a round's plan says.

It judges nothing but conduct: that a run ends in time, with an exit code that the command line promises, and without a
traceback. Whether events are where they belong is for `check`.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.check import Findings, Published, compare
from chaos.log import Log
from chaos.plan import CHANNELS, GRACE_S, GROUPS, Moment, RoundPlan, RunPlan, is_noise, is_refusal
from chaos.processes import KILL, TERM, Process, Processes, processes
from emulator.azurite import azurite
from emulator.client import Emulator, start
from tests.faultproxy import FaultProxy, Spoil
from tests.harness import slowness

STARTING_S = 3.0  # for an interpreter and its imports, on a machine that does more than this
TICK_S = 0.01
QUIET_RUNS = 12
QUIET_S = 1.5
_ODD = (
    b'"Text":"lone \\ud83d surrogate","Emoji":"\\ud83d\\ude00","Plain":"\\u00fc \xe2\x98\x83"',
    b'"Huge":9007199254740993,"Exact":0.1000000000000000055511151231257827,"Exponent":1E400,"Zero":-0.0',
    b'"NotANumber":NaN,"Twice":1,"Twice":2,"":null',
    b'"Deep":' + b"[" * 300 + b"]" * 300,
    b'"Spaces" :\t[ 1 , 2 ] ,"Escapes":"\\/\\u0041\\n\\\\\\""',
)


@dataclass
class Tally:
    """What happened in all rounds."""

    faults: Counter[str] = field(default_factory=Counter)  # of the org, that struck
    network: Counter[str] = field(default_factory=Counter)
    moments: Counter[str] = field(default_factory=Counter)
    host: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    sessions: int = 0
    lost_sessions: int = 0
    runs: int = 0
    conduct: list[str] = field(default_factory=list)  # what a run must not do
    wrote: dict[str, str] = field(default_factory=dict)  # run id -> process


@contextmanager
def open_stage(seed: int, start_at: str) -> Iterator[Stage]:
    """Yield a stage of its own: temporary folder, free ports; everything that it started is stopped afterwards."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cdc-chaos-")))
        storage = stack.enter_context(azurite())
        org = stack.enter_context(start(seed=seed))
        before_org = stack.enter_context(FaultProxy(org.url))
        before_storage = stack.enter_context(FaultProxy(storage.url))
        environment = {
            "SALESFORCE_LOGIN_URL": before_org.stand_in_for(org.url),
            "SALESFORCE_CLIENT_ID": org.client_id,
            "SALESFORCE_CLIENT_SECRET": org.client_secret,
            "CDC_CHANNELS": GROUPS,
            "CDC_START": start_at,
            "CDC_STORAGE": before_storage.stand_in_for(storage.connection_string),
        }
        log = Log(storage.connection_string)
        stack.callback(log.close)
        running = stack.enter_context(processes(folder, environment))
        yield Stage(org, log, {"salesforce": before_org, "storage": before_storage}, running, start_at == "tip")


class Stage:
    """Plays rounds, one after the other."""

    def __init__(
        self, org: Emulator, log: Log, proxies: dict[str, FaultProxy], running: Processes, is_at_tip: bool
    ) -> None:
        self.org = org
        self.log = log
        self.tally = Tally()
        self._proxies = proxies
        self._running = running
        self._knobs = org.knobs()
        self._older: dict[str, bytes] = {}  # checkpoints as they once were
        self._required_from = dict.fromkeys(CHANNELS, 0)
        self._not_started = set(CHANNELS) if is_at_tip else set[str]()

    # --- a round -----------------------------------------------------------------------------------------------------

    def play(self, plan: RoundPlan) -> None:
        """Play one round, slower where the machine is busy, and mend everything that it broke."""
        plan = plan.at_pace(slowness())
        for moment in plan.before:
            self._tamper(moment)
        for channel, rate in plan.rates.items():
            self.org.traffic(channel, rate)
        if plan.knobs:
            self.org.knobs(**plan.knobs)
        armed = self._arm(plan)
        began_s = time.monotonic()
        runs: list[Process] = []
        agenda = self._agenda(plan, runs)
        try:
            while agenda or any(run.code is None for run in runs):
                now_s = time.monotonic() - began_s
                while agenda and agenda[0][0] <= now_s:
                    agenda.pop(0)[1]()
                self._running.poll(TICK_S)
                for run in runs:
                    self._running.poll_cold(run)
                    self._watch(run)
        finally:
            self._mend(plan, armed)
        for run in runs:
            self._judge(run)
        self._note_tip()

    def _agenda(self, plan: RoundPlan, runs: list[Process]) -> list[tuple[float, Callable[[], None]]]:
        entries: list[tuple[float, Callable[[], None]]] = []
        for number, run in enumerate(plan.runs):
            entries.append((run.starts_s, self._starting(run, f"round {plan.number} run {number + 1}", runs)))
            if run.ending != "deadline":
                entries.append((run.ends_s, self._ending(run, runs)))
        for moment in plan.moments:
            entries.append((moment.at_s, self._happening(moment)))
            if moment.what == "away":
                proxy = self._proxies[moment.details["where"]]
                entries.append((moment.at_s + moment.details["for_s"], proxy.restore))
        self.tally.host["overlapping rounds"] += len(plan.runs) > 1
        return sorted(entries, key=lambda entry: entry[0])

    def _starting(self, run: RunPlan, name: str, runs: list[Process]) -> Callable[[], None]:
        def begin() -> None:
            runs.append(self._running.start(run, name.replace(" ", "-")))
            self.tally.runs += 1
            self.tally.host["wrong clocks"] += bool(run.clock_s)
            self.tally.host["clocks that jumped"] += bool(run.clock_jumps_s)
            self.tally.host["cold starts"] += run.is_cold

        return begin

    def _ending(self, run: RunPlan, runs: list[Process]) -> Callable[[], None]:
        def end() -> None:
            mine = next(each for each in runs if each.plan is run)
            if self._running.signal(mine, KILL if run.ending == "kill" else TERM):
                self.tally.host["kill -9" if run.ending == "kill" else "TERM"] += 1

        return end

    def _watch(self, run: Process) -> None:
        if run.code is not None or KILL in run.signals:
            return
        late_s = time.monotonic() - run.began_s - run.plan.seconds
        if late_s <= run.plan.limit_s + (STARTING_S * slowness() if run.plan.limit_s == GRACE_S else 0.0):
            return
        if run.plan.limit_s == GRACE_S:
            self.tally.conduct.append(
                f"{run.name}: still runs {late_s:.1f} s after its {run.plan.seconds} s\n{run.plan}"
            )
        if self._running.signal(run, KILL):
            self.tally.host["kill -9, late"] += 1

    def _judge(self, run: Process) -> None:
        tally, said, reports = self.tally, run.complaints(), run.reports()
        was_killed = KILL in run.signals
        if run.code not in (0, 1) and not (run.code == -KILL and was_killed) and TERM not in run.signals:
            tally.conduct.append(f"{run.name}: exit code {run.code}\n{said[-1_500:]}")
        if "Traceback" in said or "unexpected:" in said:
            tally.conduct.append(f"{run.name}: a traceback\n{said[-3_000:]}")
        tally.outcomes["killed" if run.code == -KILL else "ended by TERM" if run.code and run.code < 0 else ""] += 1
        for report in reports:
            if report["outcome"] != "ok" and not all(problem["hint"] for problem in report["errors"] or [{"hint": ""}]):
                tally.conduct.append(f"{run.name}: {report['outcome']}, and no word of what to do\n{said[-1_500:]}")
            tally.outcomes[report["outcome"]] += 1
            tally.sessions += report["sessions"]
            tally.lost_sessions += report["lostSessions"]
            tally.wrote[report["runId"]] = run.name

    def _note_tip(self) -> None:
        """A channel that began at the tip may lack what came before the end of the round of its start."""
        for channel in sorted(self._not_started):
            published = self.org.channels()[channel]["published"]
            if self.log.has_generation(channel):
                self._not_started.discard(channel)
            self._required_from[channel] = published

    # --- breaking and mending ----------------------------------------------------------------------------------------

    def _arm(self, plan: RoundPlan) -> Counter[str]:
        armed: Counter[str] = Counter()
        has_refusal = has_noise = False
        for fault in plan.faults:
            if is_noise(fault):
                if has_noise:
                    continue
                has_noise = True
            if is_refusal(fault):
                if has_refusal or len(plan.runs) > 1:
                    continue
                has_refusal = True
            self.org.fault(**fault)
            armed[_label(fault)] += 1
        for ambush in plan.ambushes:
            self._proxies[ambush.where].arm(ambush.spoil, after=ambush.after, times=ambush.times)
        return armed

    def _mend(self, plan: RoundPlan, armed: Counter[str]) -> None:
        self.tally.faults += armed - Counter(_label(fault) for fault in self.org.faults())
        self.org.clear_faults()
        for name, proxy in self._proxies.items():
            proxy.restore()
            proxy.clear()
            self.tally.network += Counter({f"{name} {kind}": count for kind, count in proxy.struck.items()})
            proxy.struck.clear()
        if plan.knobs:
            self.org.knobs(**{name: self._knobs[name] for name in plan.knobs})
            self.tally.moments.update(f"knob {name}" for name in plan.knobs)

    def _happening(self, moment: Moment) -> Callable[[], None]:
        details = moment.details

        def happen() -> None:
            label = f"{moment.what} {details.get('do', '')}".strip()
            if moment.what == "sessions":
                self.org.end_sessions(details["do"])
            elif moment.what == "revoke":
                self.org.revoke_tokens()
            elif moment.what == "burst":
                self.org.publish(details["channel"], details["count"], size=details["size"], kinds=details["kinds"])
            elif moment.what == "odd":
                self._publish_odd(details["channel"])
            elif moment.what == "strike":
                self._proxies[details["where"]].strike(Spoil(details["do"]))
                label = f"strike {details['where']} {details['do']}"
            elif moment.what == "away":
                self._proxies[details["where"]].go_away()
                label = f"{details['where']} gone"
            elif moment.what == "clock":
                self.org.advance_clock(details["by_s"])
                label = "org clock moved"
            self.tally.moments[label] += 1

        return happen

    def _publish_odd(self, channel: str) -> None:
        for members in _ODD:
            self.org.raw(
                channel,
                b'{"data":{"schema":"odd","payload":{"ChangeEventHeader":{"changeType":"UPDATE"},%b},"event":'
                b'{"replayId":{{replayId}}}},"channel":"%b"}' % (members, channel.encode()),
            )

    def _tamper(self, moment: Moment) -> None:
        if moment.what == "forget runs":
            for name in self.log.state_names("runs/"):
                self.log.delete(name)
        else:
            channel = str(moment.details["channel"])
            name = channel.removeprefix("/") + ".json"
            if not self.log.has_segments(channel):
                return  # nothing but the checkpoint says that nothing was landed yet
            now = self.log.read(name)
            if now is None:
                return
            if moment.what == "delete":
                self.log.delete(name)
            elif moment.what == "garble":
                self.log.write(name, now[: len(now) // 2])
            elif channel in self._older:
                self.log.write(name, self._older[channel])
            self._older[channel] = now
        self.tally.host[f"checkpoint: {moment.what}"] += 1

    # --- the end -----------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Stop the traffic and run in peace until nothing new is landed; a run that is not ok then is bad conduct."""
        for channel in CHANNELS:
            self.org.traffic(channel, 0)
        words = ""
        for number in range(QUIET_RUNS):
            seconds = QUIET_S * max(1, number) * slowness()  # a machine that does much else is given its time
            run = self._running.start(RunPlan(0.0, seconds), f"quiet-run-{number + 1}")
            while run.code is None:
                self._running.poll(TICK_S)
                if time.monotonic() - run.began_s > seconds + GRACE_S + STARTING_S:
                    self._running.signal(run, KILL)
            reports = run.reports()
            for report in reports:
                self.tally.wrote[report["runId"]] = run.name
            landed = sum(channel["events"] for report in reports for channel in report["channels"].values())
            is_ok = run.code == 0 and all(report["outcome"] == "ok" for report in reports)
            words = (
                "" if is_ok else f"{run.name}: not ok: {[report['errors'] for report in reports] or run.complaints()}"
            )
            if is_ok and not landed and number:
                return
        self.tally.conduct.append(words or f"after {QUIET_RUNS} quiet runs something new is still landed")

    def check(self) -> list[Findings]:
        """Compare each channel's ledger with its log."""
        found = []
        for channel in CHANNELS:
            bodies = self.org.deliveries(channel)
            ids = [row["replayId"] for row in self.org.ledger(channel)]
            published = [Published(replay_id, body) for replay_id, body in zip(ids, bodies, strict=True)]
            segments = self.log.segments(channel)
            found.append(compare(channel, published, segments, required_from=self._required_from[channel]))
        self.tally.conduct += [f"a new generation was opened: {name}" for name in self.log.generations()]
        return found

    def quarantined(self) -> int:
        """How many messages and answers were put aside."""
        return self.log.count("quarantine/")


def _label(fault: dict[str, Any]) -> str:
    like = fault.get("like") or ("refused id" if is_refusal(fault) else "")
    if fault["do"] == "reply" and not like:
        like = "refused channel" if fault["on"] == "subscribe" else "advice"
    return f"{fault['on']} {like or fault['do']}"
