"""Whose bandwidth is limited, written down in the switch database: one QoS record for each limited port.

The record belongs to the port by the port's `qos` column and has the type `linux-noop`: it keeps the switch
daemon from removing the queueing discipline that we set, which it otherwise does at its next start.  It
also names the meter, so that none is ever made without being written down before.

A record outlives its port, because Open vSwitch deletes such records with nothing.  That makes it the list
of what has to be cleaned up: a call that was cut off anywhere, or a port that somebody removed by hand,
leaves a record without a port (or one that is void, without rates), and the next call retires it, first its
meter.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .errors import Refused
from .host import Host
from .ovsdb import Operation, Ovsdb, Row, first, mapping, strings
from .switch import MARK, OWNER_MARK, number

_BRIDGE_MARK, _PORT_MARK, _METER_MARK = MARK + "bridge", MARK + "port", MARK + "meter"
_OUT_MARK, _IN_MARK = MARK + "rate-out", MARK + "rate-in"


@dataclass(frozen=True)
class Rates:
    """Bit/s from the container and to it; None: not limited."""

    out: int | None = None
    into: int | None = None

    @property
    def any(self) -> bool:
        """Whether anything is limited."""
        return self.out is not None or self.into is not None


UNLIMITED = Rates()


@dataclass(frozen=True)
class Limit:
    """One record of ours; `held` says whether its port refers to it."""

    uuid: str
    port: str
    rates: Rates
    meter: int | None
    held: bool


def cannot_limit(why: str, remedy: str) -> Refused:
    """What an attach is refused with where the host has not what a limit takes."""
    host = os.uname().nodename
    return Refused(
        f"host {host} cannot limit bandwidth: {why}; {remedy}, or take MOORING_BANDWIDTH off the app"
    )


def read_limits(database: Ovsdb, bridge: str, owner: str) -> dict[str, list[Limit]]:
    """Our records by port; more than one of a port is left by a port that came back under its name."""
    ours = strings({OWNER_MARK: owner, _BRIDGE_MARK: bridge})
    owned = strings({OWNER_MARK: owner})
    records, ports = database.transact([
        _select("QoS", ours, ["_uuid", "external_ids"]), _select("Port", owned, ["name", "qos"])
    ])  # fmt: skip
    held = {_uuid_of(row["qos"]) for row in ports["rows"]}
    found: dict[str, list[Limit]] = {}
    for row in records["rows"]:
        limit = _limit(row, held)
        found.setdefault(limit.port, []).append(limit)
    return found


def _select(table: str, marks: list[object], columns: list[str]) -> Operation:
    return {
        "op": "select",
        "table": table,
        "where": [["external_ids", "includes", marks]],
        "columns": columns,
    }


def _uuid_of(column: object) -> str | None:
    reference = first(column)
    return str(reference[1]) if reference else None


def _limit(row: Row, held: Iterable[str | None]) -> Limit:
    marks, uuid = mapping(row["external_ids"]), str(row["_uuid"][1])
    rates = Rates(number(marks.get(_OUT_MARK)) or None, number(marks.get(_IN_MARK)) or None)
    return Limit(uuid, marks.get(_PORT_MARK, ""), rates, number(marks.get(_METER_MARK)) or None, uuid in held)


def _marks(bridge: str, owner: str, port: str, rates: Rates, meter: int | None) -> list[object]:
    numbers = {_OUT_MARK: rates.out, _IN_MARK: rates.into, _METER_MARK: meter}
    told = {key: str(value) for key, value in numbers.items() if value is not None}
    return strings({OWNER_MARK: owner, _BRIDGE_MARK: bridge, _PORT_MARK: port, **told})


def book_of(host: Host) -> Book:
    """The records of the host's bridge."""
    bridge, owner = host.settings.bridge, host.settings.owner
    return Book(bridge, owner, read_limits(host.database, bridge, owner))


class Book:
    """Writes the records of one bridge."""

    def __init__(self, bridge: str, owner: str, known: Mapping[str, list[Limit]]) -> None:
        self.known = known
        self._bridge, self._owner = bridge, owner
        self._inserted = 0

    def limit_of(self, port: str) -> Limit | None:
        """The record of a port: the one it refers to, else any."""
        limits = sorted(self.known.get(port, []), key=lambda limit: not limit.held)
        return limits[0] if limits else None

    def all(self) -> list[Limit]:
        """Every record."""
        return [limit for limits in self.known.values() for limit in limits]

    def taken(self) -> set[int]:
        """The meters that are written down."""
        return {limit.meter for limit in self.all() if limit.meter is not None}

    def write(self, port: str, rates: Rates, meter: int | None) -> list[Operation]:
        """Write down what a port is limited to; without rates its record becomes void."""
        limit = self.limit_of(port)
        marks = _marks(self._bridge, self._owner, port, rates, meter)
        if limit is None:
            self._inserted += 1
            name = f"limit{self._inserted}"
            insert = {"op": "insert", "table": "QoS", "uuid-name": name,
                      "row": {"type": "linux-noop", "external_ids": marks}}  # fmt: skip
            return [insert, self._refer(port, ["named-uuid", name])]
        refer = ["uuid", limit.uuid] if rates.any else ["set", []]
        row = {"type": "linux-noop", "external_ids": marks}
        return [
            {"op": "update", "table": "QoS", "where": _is(limit.uuid), "row": row},
            self._refer(port, refer),
        ]

    def dead(self, ports: Iterable[str]) -> list[Limit]:
        """The records that limit nothing any more, given the ports that stand."""
        standing = set(ports)
        return [limit for limit in self.all() if limit.port not in standing or self._is_idle(limit)]

    def _is_idle(self, limit: Limit) -> bool:
        return not limit.rates.any or (not limit.held and len(self.known[limit.port]) > 1)

    @staticmethod
    def delete(limits: Iterable[Limit]) -> list[Operation]:
        """Delete records."""
        return [{"op": "delete", "table": "QoS", "where": _is(limit.uuid)} for limit in limits]

    def _refer(self, port: str, to: object) -> Operation:
        return {"op": "update", "table": "Port", "where": [["name", "==", port]], "row": {"qos": to}}


def _is(uuid: str) -> list[object]:
    return [["_uuid", "==", ["uuid", uuid]]]
