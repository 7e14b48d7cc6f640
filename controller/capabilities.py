"""What the hosts have and can do, and what is missing there: `mooring hosts check`.

A host tells plain facts (the operation `check` of its program); here they get a form, and are judged.  A
*fault* keeps containers from being wired, or their packets from getting anywhere; a *note* names something
that an app or a pool may ask for and will not get.  Both name the remedy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import msgspec

from mooring.core.errors import Fatal, MooringError, Refused
from mooring.handlers.hosts import Answer, Hosts

LEAST_FREE = 16 << 20  # bytes for our records
OLDEST_PYTHON = (3, 9)


class Uplink(msgspec.Struct, frozen=True):
    """A port of the bridge that is none of ours."""

    name: str
    type: str = ""
    tag: int | None = None
    trunks: tuple[int, ...] = ()
    mtu: int | None = None
    up: bool = True
    error: str = ""


class SwitchFacts(msgspec.Struct, frozen=True):
    """Open vSwitch and our bridge; with `error` nothing else is known."""

    error: str = ""
    version: str = ""
    schema: str = ""
    behind: int = 0  # changes that the switch daemon has not applied yet
    bridge: str = ""
    exists: bool = False
    datapath: str = ""
    checksum_offload_off: bool = False  # whether containers must compute their own checksums
    fail_mode: str = ""
    controllers: dict[str, bool] = {}  # target: connected
    uplinks: tuple[Uplink, ...] = ()
    ports: int = 0  # of ours


class EngineFacts(msgspec.Struct, frozen=True):
    """The container engine."""

    error: str = ""
    version: str = ""


class HostFacts(msgspec.Struct, frozen=True):
    """What one host tells of itself. `limits`: "" for what works, else why it does not."""

    node: str
    kernel: str
    python: str
    program: str  # names the content of the program that answered
    ipv6: bool
    programs: dict[str, str | None]
    state_dir: str
    free_bytes: int
    switch: SwitchFacts
    engine: EngineFacts
    limits: dict[str, str]


class HostReport(msgspec.Struct, frozen=True):
    """One host, asked a moment ago; without facts `faults` says why."""

    host: str
    facts: HostFacts | None
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


async def check_hosts(hosts: Hosts, inventory: Sequence[str], names: Sequence[str] = ()) -> list[HostReport]:
    """Ask hosts what they can do, all of the inventory if none is named. Raises `Refused` for a stranger."""
    unknown = sorted(set(names) - set(inventory))
    if unknown:
        known = ", ".join(sorted(inventory)) or "none"
        raise Refused(f"{', '.join(unknown)}: not in the inventory; it knows {known}")
    chosen = sorted(names or inventory)
    asked = (hosts.do(name, [{"op": "check", "id": name}]) for name in chosen)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    return [_report(name, answer) for name, answer in zip(chosen, answers, strict=True)]


def _report(host: str, answers: list[Answer] | BaseException) -> HostReport:
    if isinstance(answers, BaseException):
        if isinstance(answers, Fatal) or not isinstance(answers, MooringError):
            raise answers
        return HostReport(host, None, (f"it does not answer: {answers}",))
    (answer,) = answers
    if answer.get("status") != "done":
        return HostReport(host, None, (f"it cannot tell: {answer.get('reason')}",))
    try:
        facts = msgspec.convert(dict(answer), HostFacts)
    except msgspec.ValidationError as error:
        return HostReport(host, None, (f"it tells what this version does not understand: {error}",))
    return HostReport(host, facts, tuple(faults_of(facts)), tuple(notes_of(facts)))


def faults_of(facts: HostFacts) -> Iterator[str]:
    """What keeps containers there from being wired or heard."""
    if tuple(map(int, facts.python.split(".")[:2])) < OLDEST_PYTHON:
        yield f"Python {facts.python} is too old: let the inventory name one of 3.9 or newer"
    if facts.engine.error:
        yield f"{facts.engine.error}: start it, or set mooring_engine in the inventory"
    if facts.free_bytes < LEAST_FREE:
        yield f"only {size(facts.free_bytes)} are free in {facts.state_dir}: make room"
    yield from _switch_faults(facts.switch)


def _switch_faults(switch: SwitchFacts) -> Iterator[str]:
    if switch.error:
        yield f"{switch.error}: start Open vSwitch, or set mooring_database in the inventory"
        return
    if not switch.exists:
        yield (
            f"bridge {switch.bridge} does not exist: ovs-vsctl add-br {switch.bridge}, then add its uplink, "
            "or correct ansible.bridge"
        )
        return
    if switch.behind:
        yield f"ovs-vswitchd has not applied {switch.behind} changes: is it running?"
    for uplink in switch.uplinks:
        if uplink.error:
            yield f"the switch cannot use {uplink.name}: {uplink.error}"
        elif not uplink.up:
            yield f"{uplink.name} is down: ip link set {uplink.name} up"


def notes_of(facts: HostFacts) -> Iterator[str]:
    """What may be asked for and cannot be had there."""
    switch = facts.switch
    if switch.exists and not switch.uplinks:
        yield (
            f"bridge {switch.bridge} has no uplink, containers reach only one another: "
            f"ovs-vsctl add-port {switch.bridge} DEVICE"
        )
    if switch.controllers:
        told = ", ".join(switch.controllers)
        yield f"a controller ({told}) may change the bridge's flows: ovs-vsctl del-controller {switch.bridge}"
    if why := "; ".join(filter(None, (facts.limits.get("tbf"), facts.limits.get("meters")))):
        yield f"apps with MOORING_BANDWIDTH are refused here: {why}; install sch_tbf and Open vSwitch's tools"
    if not facts.ipv6:
        yield "its kernel has no IPv6: pools of IPv6 cannot be used here; boot it without ipv6.disable"


def size(count: int) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count} {unit}"
        count //= 1024
    return f"{count} GiB"
