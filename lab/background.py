"""The Mooring daemon of a lab, as a background process like the others.

It is started as any operator would start it, by its own command line and configuration file, and is asked
only through its public doors (health page, control socket).  `kill` is `kill -9`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import Any

import aiohttp

from mooring.lab import edges, supervise
from mooring.lab.plan import LabError, LabPlan
from mooring.lab.supervise import Part

NAME = "mooring"


def part(plan: LabPlan, *options: str) -> Part:
    """The daemon's process. It serves once its health page answers."""
    command = [sys.executable, "-m", "mooring.controller.cli", "--config", str(plan.daemon_config)]
    return Part(
        name=NAME,
        argv=[*command, "run", *options],
        ready=lambda: edges.answers(f"http://127.0.0.1:{plan.portal_port}/healthz"),
        where=f"http://127.0.0.1:{plan.portal_port}",
        env={"PYTHONUNBUFFERED": "1"},
        deadline_s=90.0,  # it asks every host first, and machines can be busy
    )


async def start(plan: LabPlan, *options: str) -> bool:
    """Start the daemon unless it runs; whether it was started."""
    if supervise.pid_of(plan, NAME) is not None:
        return False
    await supervise.start(plan, part(plan, *options))
    return True


async def stop(plan: LabPlan, signal_number: int = signal.SIGTERM, deadline_s: float = 30.0) -> None:
    """Signal the daemon and wait until it has ended."""
    pid = supervise.pid_of(plan, NAME)
    if pid is None:
        return
    os.kill(pid, signal_number)
    give_up = time.monotonic() + deadline_s
    while supervise.pid_of(plan, NAME) is not None:
        if time.monotonic() > give_up:
            raise LabError(f"the daemon did not end within {deadline_s:.0f} s of signal {signal_number}")
        await asyncio.sleep(0.02)


async def command(plan: LabPlan, *arguments: str, timeout_s: float = 60.0) -> tuple[int, str]:
    """Run a `mooring` command against the lab's daemon; exit status and output."""
    argv = [sys.executable, "-m", "mooring.controller.cli", "--config", str(plan.daemon_config), *arguments]
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=supervise.environment(plan),
    )
    output, _ = await asyncio.wait_for(process.communicate(), timeout_s)
    return process.returncode or 0, output.decode()


async def status(plan: LabPlan) -> dict[str, Any]:
    """Overview, instances, readiness and refusals. `LabError` when the daemon does not answer."""
    told: dict[str, Any] = await _ask(plan, "/status")
    return told


async def leases(plan: LabPlan) -> list[dict[str, Any]]:
    """Every address that is not free. `LabError` when the daemon does not answer."""
    told: list[dict[str, Any]] = await _ask(plan, "/leases")
    return told


async def _ask(plan: LabPlan, path: str) -> Any:
    """Ask the control socket as the commands do; a command for each poll would keep a processor busy."""
    connector = aiohttp.UnixConnector(path=str(plan.daemon_dir / "control.sock"))
    timeout = aiohttp.ClientTimeout(total=10)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.get(f"http://mooring{path}") as answer,
        ):
            answer.raise_for_status()
            return await answer.json()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise LabError(f"the daemon does not tell its {path[1:]}: {error}") from error
