"""What end-to-end tests rest on: the word of containers and switches, and of the daemon's public doors.

`holders` asks every container for its addresses and every switch for its ports; Mooring's store is never
asked.  An address that two containers have at the same moment is found by looking twice: both must still
have it at the second look, so what was rightly handed over between two questions is no finding.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence, Set
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from mooring.controller.control_client import ControlClient
from mooring.core.errors import MooringError
from mooring.core.readmodel import InstanceRow, Phase, Status
from mooring.lab import supervise
from mooring.lab.handle import LabHandle
from mooring.lab.plan import LabError, LabPlan
from mooring.lab.proofs import Proof, eventually, proven, server_states
from mooring.lab.remains import nginx_addresses, zone_records
from mooring.lab.sample import Operator

DEADLINE_S = 90.0
_LOOK_EVERY_S = 0.2
_BELIEVED_WITHIN_S = 30.0

Holders = Mapping[str, frozenset[str]]


# -- containers and switches


async def container_addresses(handle: LabHandle) -> dict[str, list[str]]:
    """Every running container's own addresses, without prefix, by task id: `ip addr` inside it."""
    found: dict[str, list[str]] = {}
    for task, pid in (await handle.running_pids()).items():
        with suppress(LabError, ValueError):  # it ended while we asked
            found[task] = [address.partition("/")[0] for address in await handle.addresses_of(pid)]
    return found


async def switch_ports(handle: LabHandle) -> list[dict[str, str]]:
    """Every port that carries our mark, on every agent: its name, host and marks."""
    agents = [agent.hostname for agent in handle.plan.agents]
    found = await asyncio.gather(*(handle.ovs_marks(agent) for agent in agents))
    return [
        {"name": name, "host": agent, **marks}
        for agent, ports in zip(agents, found, strict=True)
        for name, marks in ports.items()
    ]


async def holders(handle: LabHandle, dead: str = "") -> tuple[Holders, Holders]:
    """Who has each address: containers by task id, and switch ports by host and name, but not of `dead`."""
    inside: dict[str, set[str]] = {}
    for task, addresses in (await handle.answered_addresses()).items():
        for address in addresses:
            inside.setdefault(address, set()).add(task)
    plugged: dict[str, set[str]] = {}
    for port in await switch_ports(handle):
        if port["host"] != dead:
            for key in ("mooring-address", "mooring-address6"):
                if key in port:
                    plugged.setdefault(port[key], set()).add(f"{port['host']} {port['name']}")
    return _frozen(inside), _frozen(plugged)


def _frozen(found: Mapping[str, set[str]]) -> Holders:
    return {address: frozenset(hands) for address, hands in found.items()}


async def in_two_hands(handle: LabHandle, dead: str = "") -> list[str]:
    """The addresses that two containers, or two switch ports, have at the same time; empty is right.

    The switch of a host without power (`dead`) is not asked.
    """
    first = await holders(handle, dead)
    if not any(len(hands) > 1 for kind in first for hands in kind.values()):
        return []
    second = await holders(handle, dead)
    return [
        f"{address}: {sorted(both)}"
        for before, after in zip(first, second, strict=True)
        for address, hands in before.items()
        if len(both := hands & after.get(address, frozenset())) > 1
    ]


@dataclass
class Watching:
    """What a watch has seen so far."""

    looks: int = 0
    findings: list[str] = field(default_factory=list)


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run this meanwhile; its failure is raised at the end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def watched_addresses(handle: LabHandle, dead: str = "") -> AsyncIterator[Watching]:
    """Look for addresses in two hands again and again; fails at the end if one was ever seen."""
    seen = Watching()
    async with beside(_look(handle, seen, dead)):
        yield seen
    assert seen.looks > 0
    assert seen.findings == []


async def _look(handle: LabHandle, seen: Watching, dead: str) -> None:
    while True:
        seen.findings += await in_two_hands(handle, dead)
        seen.looks += 1
        await asyncio.sleep(_LOOK_EVERY_S)


async def agreed(
    handle: LabHandle,
    operator: Operator,
    apps: Sequence[tuple[str, int]],
    *,
    gone: Set[str] = frozenset(),
    deadline_s: float = DEADLINE_S,
) -> list[Proof]:
    """Wait until exactly these apps are served, and containers and switches tell the same of every address.

    Each container has one address, each address one container and one port, on that container's host, and
    there is no port besides.
    """
    await _likely(handle.plan, apps, gone)
    proofs = await proven(handle, operator, apps, deadline_s, gone)
    await eventually(lambda: _one_hand_each(handle, proofs), deadline_s)
    return proofs


async def _likely(plan: LabPlan, apps: Sequence[tuple[str, int]], gone: Set[str]) -> None:
    """Wait a while until the daemon believes it is done, before it has to be proven.

    Proving takes dozens of processes each time, which on a small machine would slow down what is waited for.
    The daemon's word counts for nothing more: without it the proof is tried all the same.
    """

    async def ask() -> tuple[None, str]:
        found = await status(plan)
        serving = Counter(row.app for row in found.instances if row.phase is Phase.SERVING)
        done = found.settled and all(serving[name] == count for name, count in apps)
        return None, "" if done and not gone & {row.task for row in found.instances} else "not yet"

    with suppress(LabError):
        await eventually(ask, _BELIEVED_WITHIN_S)


async def _one_hand_each(handle: LabHandle, proofs: Sequence[Proof]) -> tuple[None, str]:
    expected = Counter((proof.address, proof.task, proof.host) for proof in proofs)
    ports = Counter(
        (port["mooring-address"], port["mooring-task"], port["host"]) for port in await switch_ports(handle)
    )
    places = {container.task_id: container.host for container in await handle.containers()}
    inside = Counter(
        (address, task, places.get(task, "?"))
        for task, addresses in (await container_addresses(handle)).items()
        for address in addresses
        if task in {proof.task for proof in proofs} or address.startswith("10.64.")
    )
    if ports != expected:
        return None, f"switches have {_shown(ports)} instead of {_shown(expected)}"
    if inside != expected:
        return None, f"containers have {_shown(inside)} instead of {_shown(expected)}"
    return None, ""


async def traces_besides(handle: LabHandle, proofs: Sequence[Proof]) -> tuple[None, str]:
    """What is left anywhere of any address that is none of these; the switches are `agreed`'s business."""
    addresses = {proof.address for proof in proofs}
    items = (await handle.cmdb_items()).values()
    found = {
        "names": {line.split()[-1] for line in await zone_records(handle) if line.split()[3] == "A"},
        "haproxy": {one for one, told in (await server_states(handle)).items() if told in ("UP", "DRAIN")},
        "nginx": set(nginx_addresses(handle)),
        "items": {item["address"] for item in items if item.get("status") in ("live", "down")},
    }
    left = {place: sorted(there - addresses) for place, there in found.items() if there - addresses}
    return None, f"traces of others are left: {left}" if left else ""


def _shown(found: Counter[tuple[str, str, str]]) -> list[str]:
    return sorted(" ".join(entry) + (f" x{count}" if count > 1 else "") for entry, count in found.items())


# -- the daemon's doors


async def status(plan: LabPlan) -> Status:
    """What the control socket tells; `LabError` while no daemon answers."""
    try:
        return await asyncio.to_thread(ControlClient(plan.daemon_dir / "control.sock").status)
    except MooringError as error:
        raise LabError(str(error)) from error


async def rows(plan: LabPlan, app: str) -> list[InstanceRow]:
    """The status lines of one app."""
    return [row for row in (await status(plan)).instances if row.app == app]


async def metric(plan: LabPlan, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels; 0 when there is none."""
    url = f"http://127.0.0.1:{plan.portal_port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        families = text_string_to_metric_families(await answer.text())
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


def log_lines(plan: LabPlan, since: int = 0) -> list[dict[str, Any]]:
    """What the daemon has logged after the first `since` bytes, one object a line."""
    with supervise.log_file(plan, "mooring").open("rb") as log:
        log.seek(since)
        return [json.loads(line) for line in log if line.startswith(b"{")]


def log_size(plan: LabPlan) -> int:
    """Bytes logged so far, to read on from here later."""
    return supervise.log_file(plan, "mooring").stat().st_size
