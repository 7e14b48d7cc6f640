"""A ping to each of many addresses, five times a second, from the data centre's network.

It is the machine's own `ping`, one process for each address, inside the edge's namespace.  What went missing
is told by the numbers of the answers, so an answer that is late is not a lost one.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from mooring.lab import supervise
from mooring.lab.handle import LabHandle, entering
from mooring.lab.proofs import eventually

INTERVAL_S = 0.2
_HEARD_WITHIN_S = 30.0
_ENDS_WITHIN_S = 10.0
_ANSWER = re.compile(r"^\[(\d+\.\d+)\] \d+ bytes from .* icmp_seq=(\d+) ", re.MULTILINE)
_SENT = re.compile(r"^(\d+) packets transmitted", re.MULTILINE)


@dataclass(frozen=True)
class Heard:
    """What came back from one address: number and time of each answer, in turn, and how many were sent."""

    answers: list[tuple[int, float]]
    sent: int

    @property
    def doubled(self) -> int:
        """Answers that came more often than once, as they do when two have the address."""
        return len(self.answers) - len(dict(self.answers))

    def gaps(self) -> list[tuple[float, float]]:
        """Each time without answers: when the last one before it came, and the first one after it.

        The last ping of all may still be on its way and is no loss.
        """
        found = sorted(dict(self.answers).items())
        ends = [(0, 0.0), *found, *([(self.sent + 1, float("inf"))] if self._ends_early(found) else [])]
        return [(before, after) for (last, before), (first, after) in pairwise(ends) if first != last + 1]

    def _ends_early(self, found: list[tuple[int, float]]) -> bool:
        return self.sent - (found[-1][0] if found else 0) > 1


def heard_in(told: str) -> Heard:
    """Read what ping wrote to its end."""
    answers = [(int(number), float(at)) for at, number in _ANSWER.findall(told)]
    return Heard(answers, int(_SENT.findall(told)[-1]))


def answers_in(told: str) -> list[float]:
    """When each answer came, Unix seconds, in what ping has written so far."""
    return [float(at) for at, _ in _ANSWER.findall(told)]


@dataclass
class Pings:
    """What was heard, by address; filled when the pinging has ended."""

    heard: dict[str, Heard] = field(default_factory=dict)


@asynccontextmanager
async def pinged(handle: LabHandle, addresses: Iterable[str], directory: Path) -> AsyncIterator[Pings]:
    """Ping all of them meanwhile, from when each has answered once; `directory` gets ping's own words."""
    found = Pings()
    running: dict[str, asyncio.subprocess.Process] = {}
    try:
        for address in addresses:
            running[address] = await _ping(handle, address, directory / address)
        await eventually(lambda: _all_heard(directory, running), _HEARD_WITHIN_S)
        yield found
    finally:
        for process in running.values():
            process.send_signal(signal.SIGINT)
        for process in running.values():
            await asyncio.wait_for(process.wait(), _ENDS_WITHIN_S)
    for address in running:
        found.heard[address] = heard_in((directory / address).read_text())


async def _all_heard(directory: Path, addresses: Iterable[str]) -> tuple[None, str]:
    unheard = [one for one in addresses if not _ANSWER.search((directory / one).read_text())]
    return None, f"{', '.join(unheard)} have not answered a ping" if unheard else ""


async def _ping(handle: LabHandle, address: str, log: Path) -> asyncio.subprocess.Process:
    argv = [*entering(handle.plan, "edge"), "ping", "-n", "-D", "-i", str(INTERVAL_S), address]
    with log.open("wb") as output:
        return await asyncio.create_subprocess_exec(
            *argv, stdout=output, stderr=output, env=supervise.environment(handle.plan)
        )
