"""Proofs: what the containers, switches, name servers and balancers say about each instance.

A `Proof` is gathered without asking Mooring anything.  Its address comes from the container itself, the
names from BIND, the balancer's state from HAProxy's runtime socket, and pages are fetched through both
balancers until every container has answered with its own task id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from mooring.lab.handle import LabHandle
from mooring.lab.plan import REVERSE_ZONES, ZONE, LabError
from mooring.lab.sample import DEPENDENCY_FILE, Operator, vhost

POLL_S = 0.25


@dataclass(slots=True)
class Proof:
    """One instance, as the world sees it. Empty fields are what is missing."""

    app: str
    task: str
    host: str
    address: str = ""
    names: list[str] = field(default_factory=list)  # PTR answer and the A answer for it
    haproxy: str = ""
    body: str = ""  # through HAProxy, from this container
    nginx: str = ""
    item: dict[str, Any] = field(default_factory=dict)
    file: str | None = None

    def missing(self) -> list[str]:
        """What does not hold yet."""
        lacks = []
        if not self.address:
            lacks.append("address")
        if self.address not in self.names[1:]:
            lacks.append("name")
        if self.haproxy != "UP":
            lacks.append(f"haproxy ({self.haproxy or 'unknown'})")
        if self.body != self.task:
            lacks.append("page through haproxy")
        if self.nginx != self.task:
            lacks.append("page through nginx")
        if self.item.get("status") != "live" or self.item.get("address") != self.address:
            lacks.append("item")
        return lacks


async def gather(handle: LabHandle, operator: Operator, app: str) -> list[Proof]:
    """A proof for each running task of the app."""
    tasks = await operator.running(app)
    proofs = [Proof(app, str(task.id), str(task.host)) for task in tasks]
    if not proofs:
        return []
    items = {item.get("task"): item for item in (await handle.cmdb_items()).values()}
    pids = await handle.running_pids()
    names = await _names(handle)
    servers = await server_states(handle)
    via_haproxy = await answering(handle.via_haproxy, vhost(app), len(proofs))
    via_nginx = await answering(handle.via_nginx, vhost(app), len(proofs))
    for proof in proofs:
        if pid := pids.get(proof.task):
            await _ask_container(handle, proof, pid)
        proof.names = names.get(proof.address, [])
        proof.haproxy = servers.get(proof.address, "")
        proof.body = proof.task if proof.task in via_haproxy else ""
        proof.nginx = proof.task if proof.task in via_nginx else ""
        proof.item = items.get(proof.task, {})
    return proofs


async def _ask_container(handle: LabHandle, proof: Proof, pid: int) -> None:
    try:
        addresses = await handle.addresses_of(pid)
        proof.file = _file_in(pid, DEPENDENCY_FILE)
    except (LabError, ValueError):  # it has ended meanwhile; the proof stays incomplete
        return
    proof.address = addresses[0].split("/")[0] if addresses else ""


def _file_in(pid: int, path: str) -> str | None:
    """A file as the container with that process has it."""
    try:
        return Path(f"/proc/{pid}/root{path}").read_text()
    except OSError:
        return None


async def _names(handle: LabHandle) -> dict[str, list[str]]:
    """By address: its PTR, then what that name resolves to; from the zones as BIND transfers them.

    One question for each zone in place of two for each address.
    """
    lines = [line.split() for zone in (ZONE, *REVERSE_ZONES) for line in await handle.transfer(zone)]
    forward: dict[str, list[str]] = {}
    for name, _, _, type_, *data in lines:
        if type_ == "A":
            forward.setdefault(name, []).append(data[0])
    return {
        _address_of(name): [data[0], *sorted(forward.get(data[0], []))]
        for name, _, _, type_, *data in lines
        if type_ == "PTR"
    }


def _address_of(pointer: str) -> str:
    """`10.64.0.5` of `5.0.64.10.in-addr.arpa.`"""
    return ".".join(reversed(pointer.removesuffix(".in-addr.arpa.").split(".")))


async def server_states(handle: LabHandle) -> dict[str, str]:
    """HAProxy's word on each server address: UP, DOWN, DRAIN or MAINT."""
    lines = (await handle.haproxy("show servers state")).splitlines()
    heading = next(line for line in lines if line.startswith("# ")).removeprefix("# ").split()
    rows = [
        dict(zip(heading, line.split(), strict=False)) for line in lines if line[:1].isdigit() and " " in line
    ]
    return {row["srv_addr"]: _server_state(row) for row in rows}


def _server_state(row: dict[str, str]) -> str:
    """HAProxy's numbers in words: flags of the administrative state first, then operational state 2."""
    admin = int(row["srv_admin_state"])  # bit 2 only remembers that the file said "disabled"
    if admin & 0b1100011:
        return "MAINT"
    if admin & 0b011000:
        return "DRAIN"
    return "UP" if row["srv_op_state"] == "2" else "DOWN"


async def answering(fetch: Callable[..., Awaitable[Any]], host: str, expected: int) -> set[str]:
    """The distinct bodies that a balancer serves for a host; asks until `expected` have come."""
    seen: set[str] = set()
    for _ in range(8 * expected + 8):
        try:
            page = await fetch(host)
        except (aiohttp.ClientError, LabError, TimeoutError):  # nobody there yet
            continue
        if page.status == 200:
            seen.add(page.body.strip())
        if len(seen) >= expected:
            break
    return seen


async def proven(
    handle: LabHandle,
    operator: Operator,
    apps: Sequence[tuple[str, int]],
    deadline_s: float,
    gone: Collection[str] = (),
) -> list[Proof]:
    """Wait until each app has so many complete proofs and no more, none of them of a task in `gone`.

    Raises `LabError` with what was missing at the deadline.
    """

    async def complete() -> tuple[list[Proof], str]:
        proofs, problems = [], []
        for app, instances in apps:
            found = await gather(handle, operator, app)
            problems += [f"{proof.task}: {', '.join(proof.missing())}" for proof in found if proof.missing()]
            problems += [f"{proof.task}: still runs" for proof in found if proof.task in gone]
            if len(found) != instances:
                problems.append(f"{app}: {len(found)} of {instances} instances run")
            proofs += found
        return proofs, "; ".join(problems)

    proofs: list[Proof] = await eventually(complete, deadline_s)
    return proofs


async def eventually(ask: Callable[[], Awaitable[tuple[Any, str]]], deadline_s: float) -> Any:
    """Ask until there is no problem; the answer. `LabError` with the last problem at the deadline."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + deadline_s
    while True:
        answer, problem = await ask()
        if not problem:
            return answer
        if loop.time() > give_up:
            raise LabError(f"after {deadline_s:.0f} s: {problem}")
        await asyncio.sleep(POLL_S)
