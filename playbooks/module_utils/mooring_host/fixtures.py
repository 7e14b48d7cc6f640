"""Ports of ours that belong to no container: the tunnels of the fabric, and gateways.

Both are kept in the same way.  The caller tells all of one kind that there shall be; what is missing is
added, what nobody wants any more goes, and what differs in any column that we set is changed in place, in one
fenced transaction (see `switch`).  Then the switch is read again, and only what it shows is reported.

A fixture carries `mooring-<kind>` with our owner's name in place of the `mooring-owner` that marks a
container's port, so neither is ever taken for the other: an attach, a detach or a survey of addresses does
not see fixtures.  `mooring-for` says what one is for (a peer, a pool).

Changing in place is not only gentler.  Open vSwitch takes a removal and an addition under one name in one
transaction for no change at all, and under two names it refuses the new tunnel because the old one, which is
configured alike, is still there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container as Collection
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import Retry
from .host import APPLY_TIMEOUT_S, Host
from .ovsdb import OvsdbStale, Row, first, mapping, members, strings
from .switch import MARK, Port, Switch

ATTEMPTS = 4
FOR = "for"


@dataclass(frozen=True)
class Kind:
    """A kind of fixture: its mark, what its names begin with, and the columns by which one is known."""

    mark: str
    prefix: str
    port_columns: tuple[str, ...]
    device_columns: tuple[str, ...]
    told: tuple[str, ...] = ()  # columns of the device that are only read


@dataclass(frozen=True)
class Wanted:
    """A fixture that there shall be; columns in the form of the wire."""

    key: str  # what it is for
    port: Row
    device: Row
    marks: Mapping[str, str] = field(default_factory=dict)  # what else shall be known of it from the switch


@dataclass(frozen=True)
class Fixture:
    """A fixture that is there; `columns` of both records together, as `canonical` gives them."""

    key: str
    port: Port
    columns: Mapping[str, Any] = field(hash=False)


@dataclass
class Plan:
    """What has to be done: `add` by the names that new ones get."""

    add: dict[str, Wanted] = field(default_factory=dict)
    change: list[tuple[Fixture, Wanted]] = field(default_factory=list)
    remove: list[Fixture] = field(default_factory=list)

    @property
    def idle(self) -> bool:
        """Whether nothing has to be done."""
        return not (self.add or self.change or self.remove)

    def told(self) -> dict[str, list[str]]:
        """What is added, changed and removed, by what it is for."""
        return {
            "added": sorted(one.key for one in self.add.values()),
            "mended": sorted(one.key for _, one in self.change),
            "removed": sorted(fixture.key for fixture in self.remove),
        }


def canonical(value: Any) -> Any:
    """A column's value, so that equal ones compare equal: a map as a dict, a set as a frozenset."""
    if isinstance(value, list) and value and value[0] == "map":
        return mapping(value)
    if isinstance(value, list) and value and value[0] == "set":
        found = members(value)
        return found[0] if len(found) == 1 else frozenset(map(str, found))
    return value


def read_fixtures(host: Host, switch: Switch, kind: Kind) -> list[Fixture]:
    """Our fixtures of a kind on the bridge."""
    where = [["external_ids", "includes", strings({MARK + kind.mark: host.settings.owner})]]
    common = ["name", "external_ids"]
    ports, devices = host.database.transact([
        {"op": "select", "table": "Port", "where": where,
         "columns": ["_uuid", "tag", *common, *(one for one in kind.port_columns if one != "tag")]},
        {"op": "select", "table": "Interface", "where": where,
         "columns": [*common, "ofport", "error", *kind.device_columns, *kind.told]},
    ])  # fmt: skip
    present = {uuid for _, uuid in members(switch.read["ports"])}
    by_name = {row["name"]: row for row in devices["rows"]}
    return [
        _fixture(row, by_name.get(row["name"], {}), kind)
        for row in ports["rows"]
        if row["_uuid"][1] in present
    ]


def _fixture(row: Row, device: Row, kind: Kind) -> Fixture:
    marks = {key[len(MARK) :]: value for key, value in mapping(row["external_ids"]).items()}
    columns = {name: canonical(row[name]) for name in kind.port_columns}
    columns |= {name: canonical(device.get(name)) for name in (*kind.device_columns, *kind.told)}
    port = Port(
        uuid=row["_uuid"][1],
        name=row["name"],
        tag=first(row["tag"]),
        marks=marks,
        ofport=first(device["ofport"]) if device else None,
        error=(first(device["error"]) or "") if device else "no interface record",
    )
    return Fixture(marks.get(FOR, ""), port, columns)


def plan_fixtures(
    owner: str, kind: Kind, wanted: Sequence[Wanted], present: Sequence[Fixture], taken: Collection[str]
) -> Plan:
    """Decide what to add, change and remove; `taken` are the names in use."""
    missing = {one.key: one for one in wanted}
    plan = Plan()
    for fixture in present:
        same = missing.pop(fixture.key, None)
        if same is None:
            plan.remove.append(fixture)
        elif not _is(fixture, same, kind):
            plan.change.append((fixture, same))
    plan.add = {_name(owner, kind, key, taken): one for key, one in missing.items()}
    return plan


def _is(fixture: Fixture, wanted: Wanted, kind: Kind) -> bool:
    asked = {**wanted.port, **wanted.device}
    return wanted.marks.items() <= fixture.port.marks.items() and all(
        fixture.columns[name] == canonical(asked[name])
        for name in (*kind.port_columns, *kind.device_columns)
        if name in asked
    )


def _name(owner: str, kind: Kind, key: str, taken: Collection[str]) -> str:
    """The first free name of the sequence of this fixture; 15 characters, as the kernel allows."""
    count = 0
    while True:
        seed = "\0".join((owner, kind.mark, key, str(count)))
        name = kind.prefix + hashlib.sha256(seed.encode()).hexdigest()[:13]
        if name not in taken:
            return name
        count += 1


def settle(host: Host, kind: Kind, wanted: Sequence[Wanted], *, check: bool) -> tuple[Plan, list[Fixture]]:
    """Bring the fixtures of a kind into line: what had to be done, and what is there afterwards.

    With `check` nothing is done.  Raises Retry if the switch did not take one, or keeps changing.
    """
    for _ in range(ATTEMPTS):
        switch = host.switch()
        transaction = host.change(switch)
        present = read_fixtures(host, switch, kind)
        plan = plan_fixtures(host.settings.owner, kind, wanted, present, _names_in_use(host, present))
        if check or (transaction.empty and plan.idle):
            return plan, present
        for fixture in plan.remove:
            transaction.remove(fixture.port)
        for fixture, one in plan.change:
            transaction.rewrite(fixture.port, _marks(host, kind, one), one.port, one.device)
        for name, one in plan.add.items():
            transaction.insert(name, _marks(host, kind, one), one.port, one.device)
        try:
            number = transaction.commit(host.database)
        except OvsdbStale:
            continue
        return plan, _read_back(host, kind, wanted, number)
    raise Retry(f"the switch keeps changing while its {kind.mark} is being set")


def _marks(host: Host, kind: Kind, one: Wanted) -> dict[str, str]:
    return {**one.marks, kind.mark: host.settings.owner, FOR: one.key}


def _names_in_use(host: Host, present: Sequence[Fixture]) -> set[str]:
    return set(host.devices()) | {fixture.port.name for fixture in present}


def _read_back(host: Host, kind: Kind, wanted: Sequence[Wanted], number: int) -> list[Fixture]:
    if not host.database.wait_applied(number, APPLY_TIMEOUT_S):
        raise Retry(f"ovs-vswitchd did not apply the change within {APPLY_TIMEOUT_S:g} s")
    present = read_fixtures(host, host.switch(), kind)
    by_key = {fixture.key: fixture for fixture in present}
    for one in wanted:
        fixture = by_key.get(one.key)
        if fixture is None or not fixture.port.connected:
            error = fixture.port.error if fixture else "its record vanished"
            raise Retry(f"the switch did not take the port of {one.key}: {error or 'no port number'}")
    return present
