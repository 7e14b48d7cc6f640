"""An instance heals on another host, again and again, while a third host pings its address.

Each time its container is killed and Marathon relaunches it elsewhere, it has the same address, exactly one
port has that address anywhere, and the pings are answered again.  How long that takes, from the start of the
new container to the first answer, is measured and never judged here:

    make moves            50 times; prints p50, p99 and the longest, and writes build/bench/moves.json

`make test` does it five times.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import pytest

from mooring.lab import supervise
from mooring.lab.handle import LabHandle
from mooring.lab.plan import LabPlan
from mooring.lab.proofs import Proof, eventually
from mooring.lab.sample import Operator, app
from tests.e2e.evidence import DEADLINE_S, agreed, status, switch_ports
from tests.e2e.pings import answers_in

MOVES = int(os.environ.get("MOORING_TEST_MOVES", "5"))
REPORT = Path(__file__).parents[2] / "build" / "bench" / "moves.json"
MOVER, PINGER = "/moves/one", "/moves/pinger"
HOSTS, THIRD = ("agent-1", "agent-2"), "agent-3"
INTERVAL_S = 0.1
_ENDS_WITHIN_S = 10.0


@pytest.mark.timeout(200 + 20 * MOVES)
async def test_it_has_its_address_on_every_host_it_heals_on_and_leaves_no_port_behind(
    plan: LabPlan, handle: LabHandle, operator: Operator, tmp_path: Path
) -> None:
    await operator.deploy(app(PINGER, 1, 8080, constraints=[["hostname", "LIKE", THIRD]]))
    await operator.deploy(app(MOVER, 1, 8080, constraints=[["hostname", "LIKE", "|".join(HOSTS)]]))
    first, pinger = sorted(await agreed(handle, operator, [(MOVER, 1), (PINGER, 1)]), key=lambda one: one.app)
    log = tmp_path / "pings"
    gaps = []
    async with pinging(handle, pinger.task, first.address, log):
        here = first.host
        for number in range(MOVES):
            here = next(host for host in HOSTS if host != here)
            gaps.append(await moved(handle, operator, first, here, number + 2, log))
    assert len(gaps) == MOVES
    last = sorted(await agreed(handle, operator, [(MOVER, 1), (PINGER, 1)]), key=lambda one: one.app)[0]
    assert (last.address, last.host) == (first.address, here)
    report(gaps)


async def moved(
    handle: LabHandle, operator: Operator, one: Proof, target: str, incarnation: int, log: Path
) -> float:
    """One move: how long from the new container's start to the first answer."""
    instance = one.task.partition("._app.")[0]
    task = f"{instance}._app.{incarnation}"
    await operator.send("POST", f"/lab/instances/{instance}/move?host={target}")
    await eventually(lambda: _one_port(handle, one.address, task, target), DEADLINE_S)
    started = await started_at(handle, task)
    await eventually(lambda: _answered(log, started), DEADLINE_S)
    await eventually(lambda: _in_step(handle.plan), DEADLINE_S)
    return min(at for at in answers_in(log.read_text()) if at > started) - started


async def _one_port(handle: LabHandle, address: str, task: str, host: str) -> tuple[None, str]:
    """Whether no switch has a port besides the pinger's and the one that is due."""
    ports = [port for port in await switch_ports(handle) if port["mooring-app"] == MOVER]
    found = [(port["mooring-address"], port["mooring-task"], port["host"]) for port in ports]
    return None, "" if found == [(address, task, host)] else f"ports are {found}"


async def _answered(log: Path, since: float) -> tuple[None, str]:
    heard = any(at > since for at in answers_in(log.read_text()))
    return None, "" if heard else "no ping has been answered since the container was started"


async def _in_step(plan: LabPlan) -> tuple[None, str]:
    return None, "" if (await status(plan)).settled else "not in step yet"


async def started_at(handle: LabHandle, task: str) -> float:
    """When the engine started the task's container, Unix seconds."""
    told = await handle.container_started(task)
    whole, _, rest = told.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{rest or 0}")


@asynccontextmanager
async def pinging(handle: LabHandle, task: str, address: str, log: Path) -> AsyncIterator[None]:
    """Ping meanwhile, with the machine's own `ping`, from the network of a task's container."""
    network = f"--net=/proc/{await handle.container_pid(task)}/ns/net"
    argv = ["nsenter", network, "ping", "-n", "-D", "-i", str(INTERVAL_S), address]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=output, stderr=output, env=supervise.environment(handle.plan)
        )
    try:
        await eventually(lambda: _answered(log, 0.0), DEADLINE_S)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), _ENDS_WITHIN_S)


def report(gaps: list[float]) -> None:
    """Say and write down how long it took."""
    ranked = sorted(gaps)
    figures = {
        "moves": len(ranked),
        "gap_p50_s": round(ranked[(len(ranked) - 1) // 2], 3),
        "gap_p99_s": round(ranked[min(len(ranked) - 1, int(len(ranked) * 0.99))], 3),
        "gap_max_s": round(ranked[-1], 3),
    }
    print(f"\n{figures['moves']} moves; from start to answer: p50 {figures['gap_p50_s']:.2f} s, "
          f"p99 {figures['gap_p99_s']:.2f} s, longest {figures['gap_max_s']:.2f} s")  # fmt: skip
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(figures, indent=2) + "\n")
