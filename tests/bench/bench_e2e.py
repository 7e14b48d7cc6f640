"""From a running task to an answer through HAProxy: `python tests/bench/bench_e2e.py [SINGLES [BURST]]`.

A lab of its own and the real daemon, as a user would start them.  Two measurements:

Single.  An app of one instance is deployed and deleted, 50 times.  The clock starts when our own reader
sees the app's TASK_RUNNING on Marathon's stream and stops when HAProxy first answers for the app's
name with that task's id (asked every 5 ms).

Burst.  One app of 100 instances is deployed.  The clock starts when Marathon has accepted it and stops when
every one of the 100 has answered through HAProxy.

Each is split by stage.  When a sink had confirmed is taken from the daemon's log lines; when the health
check first passed, from the stream.  All stamps are this machine's wall clock.

Prints a table and writes `build/bench/e2e.json`; `docs/benchmarks.md` explains the keys.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import aiohttp

from mooring.lab import background, lifecycle, remains, supervise
from mooring.lab.handle import LabHandle
from mooring.lab.plan import LabPlan
from mooring.lab.proofs import eventually
from mooring.lab.sample import Operator, app, vhost

REPORT = Path(__file__).parents[2] / "build" / "bench" / "e2e.json"
STAGES = ("network", "names", "ledger", "webhook", "healthy", "haproxy", "nginx", "app_names")
POLL_S = 0.005
DEADLINE_S = 300.0


@dataclass(slots=True)
class Witness:
    """What our own subscription to Marathon's stream has seen, in wall-clock seconds by instance."""

    running: dict[str, float] = field(default_factory=dict)
    healthy: dict[str, float] = field(default_factory=dict)

    async def watch(self, url: str) -> None:
        """Read the stream until cancelled."""
        query = "/v2/events?event_type=status_update_event&event_type=instance_health_changed_event"
        headers = {"Accept": "text/event-stream"}
        timeout = aiohttp.ClientTimeout(total=None)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url + query, headers=headers) as answer,
        ):
            async for line in answer.content:
                if line.startswith(b"data:"):
                    self._note(json.loads(line[5:]), time.time())

    def _note(self, event: dict[str, object], now: float) -> None:
        if event.get("taskStatus") == "TASK_RUNNING":
            self.running.setdefault(str(event["taskId"]).rpartition("._app.")[0], now)
        elif event.get("healthy") is True:
            self.healthy.setdefault(str(event["instanceId"]), now)


@asynccontextmanager
async def bench_lab() -> AsyncIterator[tuple[LabPlan, Witness]]:
    """A lab with a running daemon, and somebody who listens."""
    plan = LabPlan("bench", Path("/var/lib/mooring-lab/bench"), 30000)
    lifecycle.down(plan)
    witness = Witness()
    try:
        await lifecycle.up(plan)
        await background.start(plan)
        listener = asyncio.create_task(witness.watch(plan.marathon_url))
        yield plan, witness
        listener.cancel()
        with suppress(asyncio.CancelledError):
            await listener
        await background.stop(plan)
    finally:
        lifecycle.down(plan)


def applied_times(plan: LabPlan) -> dict[str, dict[str, float]]:
    """When each sink last confirmed, from the daemon's log: instance -> sink -> Unix seconds."""
    times: dict[str, dict[str, float]] = defaultdict(dict)
    for line in supervise.log_file(plan, background.NAME).read_text().splitlines():
        entry = json.loads(line) if line.startswith("{") else {}
        if entry.get("event") == "applied" and entry.get("shows") != "nothing":
            at = datetime.fromisoformat(entry["timestamp"]).timestamp()
            # A member is confirmed as declared first; what counts is when it last changed.
            times[entry["instance"]][entry["sink"]] = at
    return times


async def first_answer(handle: LabHandle, host: str) -> tuple[str, float]:
    """The instance that first answers for a name, and when."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        with suppress(aiohttp.ClientError, TimeoutError):  # nobody there yet
            page = await handle.via_haproxy(host)
            if page.status == 200:
                return page.body.strip().rpartition("._app.")[0], time.time()
        await asyncio.sleep(POLL_S)
    raise TimeoutError(f"{host} did not answer through HAProxy")


async def single(handle: LabHandle, operator: Operator, number: int) -> tuple[str, float]:
    """Deploy one app, wait for its first answer, delete it; the instance and the time of the answer.

    Nothing of it is left before the next one comes, so that no clean-up is in anybody's way.
    """
    name = f"/bench/single-{number}"
    await operator.deploy(app(name, 1, 8080))
    answered = await first_answer(handle, vhost(name))
    await operator.delete(name)
    await eventually(lambda: remains.nothing_left(handle), DEADLINE_S)
    return answered


async def singles(plan: LabPlan, witness: Witness, count: int) -> dict[str, float]:
    handle, operator = LabHandle(plan), Operator(plan)
    answers = [await single(handle, operator, number) for number in range(count)]
    totals = [at - witness.running[instance] for instance, at in answers]
    applied = applied_times(plan)
    stages: dict[str, list[float]] = defaultdict(list)
    for instance, _ in answers:
        moments = applied[instance] | {"healthy": witness.healthy[instance]}
        for stage in STAGES:
            if stage in moments:
                stages[stage].append(moments[stage] - witness.running[instance])
    numbers = {"single_p50_s": statistics.median(totals), "single_p99_s": _p99(totals)}
    return numbers | {f"single_{stage}_p50_s": statistics.median(times) for stage, times in stages.items()}


async def burst(plan: LabPlan, witness: Witness, count: int) -> dict[str, float]:
    """Deploy many instances at once; seconds until the last of them has reached each stage."""
    handle, operator = LabHandle(plan), Operator(plan)
    name = "/bench/burst"
    began = time.time()
    await operator.deploy(app(name, count, 8080))
    answered = await all_answer(handle, vhost(name), count)
    instances = {task.rpartition("._app.")[0] for task in answered}
    applied = applied_times(plan)
    numbers = {
        f"burst_{count}_s": max(answered.values()) - began,
        "burst_running_s": max(witness.running[instance] for instance in instances) - began,
        "burst_healthy_s": max(witness.healthy[instance] for instance in instances) - began,
    }
    for stage in STAGES:
        moments = [applied[instance][stage] for instance in instances if stage in applied[instance]]
        if moments:
            numbers[f"burst_{stage}_s"] = max(moments) - began
    await operator.delete(name)
    await eventually(lambda: remains.nothing_left(handle), DEADLINE_S)
    return numbers


async def all_answer(handle: LabHandle, host: str, count: int) -> dict[str, float]:
    """The time of the first answer of each task, once `count` have answered."""
    seen: dict[str, float] = {}
    deadline = time.monotonic() + DEADLINE_S
    while len(seen) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {len(seen)} of {count} answer through HAProxy")
        with suppress(aiohttp.ClientError, TimeoutError):  # nobody there yet
            page = await handle.via_haproxy(host)
            if page.status == 200:
                seen.setdefault(page.body.strip(), time.time())
                continue
        await asyncio.sleep(POLL_S)
    return seen


def peak_rss_mb(plan: LabPlan) -> float:
    """The daemon's highest resident memory so far."""
    pid = supervise.pid_of(plan, background.NAME)
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98] if len(values) > 1 else values[0]


async def measure(single_count: int, burst_count: int) -> dict[str, float]:
    async with bench_lab() as (plan, witness):
        numbers = await singles(plan, witness, single_count)
        numbers |= await burst(plan, witness, burst_count)
        numbers["rss_mb"] = peak_rss_mb(plan)
        return numbers


def main() -> None:
    counts = [int(argument) for argument in sys.argv[1:]]
    single_count, burst_count = (*counts, *(50, 100)[len(counts) :])
    numbers = asyncio.run(measure(single_count, burst_count))
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps({key: round(value, 4) for key, value in numbers.items()}, indent=2) + "\n")
    for key, value in numbers.items():
        print(f"{key:<26} {value:10.3f}")


if __name__ == "__main__":
    main()
