"""Our ports in Open vSwitch: reading them, and changing them in one transaction behind a fence.

A port is ours if, and only if, its `external_ids` carry our owner mark; nothing else is ever changed or
removed.

Two rules are kept by the transaction itself, not by the order in which programs happen to run:

* *The fence.* The bridge remembers the highest epoch that ever changed it, and the number of that daemon's
  newest call. Each transaction waits for the bridge's marks and ports to be exactly as they were read; a
  daemon of a lower epoch and a call of a lower number were turned away on reading, and if a newer one acts in
  between, the whole transaction is void. Every call that attaches or detaches leaves its number, also when
  it finds nothing to change: what it confirmed cannot be undone by an earlier call that was frozen on its way
  and wakes later.
* *One holder.* The ports that an address had before are removed in the transaction that adds the new one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .errors import Retry, Stale
from .ovsdb import Operation, Ovsdb, Row, first, mapping, members, strings

EPOCH_MARK = "mooring-epoch"
SEQUENCE_MARK = "mooring-sequence"
PROBE_MARK = "mooring-probe"
OWNER_MARK = "mooring-owner"
MARK = "mooring-"


@dataclass(frozen=True)
class Port:
    """One of our ports; `marks` are its external_ids without the `mooring-` in front."""

    uuid: str
    name: str
    tag: int | None
    marks: dict[str, str] = field(hash=False)
    ofport: int | None = None
    error: str = ""

    @property
    def epoch(self) -> int:
        """The epoch of the daemon that last changed the port."""
        return number(self.marks.get("epoch"))

    @property
    def connected(self) -> bool:
        """Whether the switch daemon uses the device."""
        return self.ofport is not None and self.ofport > 0 and not self.error


@dataclass(frozen=True)
class Placed:
    """A port of any bridge, ours or not; `marked` tells whether anybody left a mark on it."""

    bridge: str
    port: Port
    marked: bool


@dataclass(frozen=True)
class Switch:
    """One bridge and our ports on it, as read at one moment."""

    bridge: str
    uuid: str
    epoch: int
    sequence: int  # of the newest call of that epoch that attached or detached, if its calls are numbered
    userspace: bool
    ports: dict[str, Port]
    probes: list[Port]  # what a call that was cut off left of its probe of the wire
    read: Row  # the bridge's columns exactly as read, for the fence

    def check_epoch(self, epoch: int, sequence: int = 0) -> None:
        """Turn away a call that was overtaken, by another daemon or its own; 0 is a call without number."""
        if epoch < self.epoch:
            raise Stale(f"epoch {epoch} is stale: bridge {self.bridge} has seen epoch {self.epoch}")
        if 0 < sequence < self._sequence_of(epoch):
            # Whoever still waits for the answer will call again, under a higher number.
            raise Retry(f"call {sequence} is late: bridge {self.bridge} has heard call {self.sequence}")

    def is_new(self, epoch: int, sequence: int) -> bool:
        """Whether a call has to leave its epoch or its number."""
        return epoch > self.epoch or sequence > self._sequence_of(epoch)

    def _sequence_of(self, epoch: int) -> int:
        return self.sequence if epoch == self.epoch else 0


def number(mark: str | None) -> int:
    """A numeric mark; what is not a number counts as 0."""
    return int(mark) if mark is not None and mark.isdecimal() else 0


def read_switch(database: Ovsdb, bridge: str, owner: str) -> Switch:
    """Read the bridge and our ports in one transaction; raises Retry if the bridge does not exist."""
    ours = [["external_ids", "includes", strings({OWNER_MARK: owner})]]
    probing = [["external_ids", "includes", strings({PROBE_MARK: owner})]]
    bridges, ports, probes, interfaces = database.transact([
        _select("Bridge", [["name", "==", bridge]], ["_uuid", "ports", "external_ids", "datapath_type"]),
        _select("Port", ours, ["_uuid", "name", "tag", "external_ids"]),
        _select("Port", probing, ["_uuid", "name", "tag", "external_ids"]),
        _select("Interface", ours, ["name", "ofport", "error"]),
    ])  # fmt: skip
    if not bridges["rows"]:
        raise Retry(f"bridge {bridge} does not exist on this host; create it, with its uplink, first")
    row = bridges["rows"][0]
    devices = {item["name"]: item for item in interfaces["rows"]}
    present = {uuid for _, uuid in members(row["ports"])}
    found, probing_ports = (
        [_port(item, devices.get(item["name"])) for item in rows["rows"] if item["_uuid"][1] in present]
        for rows in (ports, probes)
    )
    marks = mapping(row["external_ids"])
    return Switch(
        bridge=bridge,
        uuid=row["_uuid"][1],
        epoch=number(marks.get(EPOCH_MARK)),
        sequence=number(marks.get(SEQUENCE_MARK)),
        userspace=row["datapath_type"] == "netdev",
        ports={port.name: port for port in found},
        probes=probing_ports,
        read={"ports": row["ports"], "external_ids": row["external_ids"]},
    )


def read_all_ports(database: Ovsdb) -> dict[str, Placed]:
    """Every port of every bridge by name; of external_ids only those with `mooring-` are kept."""
    bridges, ports, interfaces = database.transact([
        _select("Bridge", [], ["name", "ports"]),
        _select("Port", [], ["_uuid", "name", "tag", "external_ids"]),
        _select("Interface", [], ["name", "ofport", "error"]),
    ])  # fmt: skip
    home = {uuid: row["name"] for row in bridges["rows"] for _, uuid in members(row["ports"])}
    devices = {item["name"]: item for item in interfaces["rows"]}
    return {
        row["name"]: Placed(
            home[row["_uuid"][1]], _port(row, devices.get(row["name"])), bool(mapping(row["external_ids"]))
        )
        for row in ports["rows"]
        if row["_uuid"][1] in home
    }


def _port(row: Row, device: Row | None) -> Port:
    ids = mapping(row["external_ids"])
    return Port(
        uuid=row["_uuid"][1],
        name=row["name"],
        tag=first(row["tag"]),
        marks={key[len(MARK) :]: value for key, value in ids.items() if key.startswith(MARK)},
        ofport=first(device["ofport"]) if device else None,
        error=(first(device["error"]) or "") if device else "no interface record",
    )


def _select(table: str, where: list[Any], columns: list[str]) -> Operation:
    return {"op": "select", "table": table, "where": where, "columns": columns}


class Transaction:
    """Changes of our ports, collected and committed as one."""

    def __init__(self, switch: Switch, epoch: int, sequence: int = 0) -> None:
        switch.check_epoch(epoch, sequence)
        self._switch = switch
        self._operations: list[Operation] = []
        self._removed: set[str] = set()
        self._added: list[Any] = []
        self._where = [["name", "==", switch.bridge]]
        if switch.is_new(epoch, sequence):
            marks = {EPOCH_MARK: str(epoch), SEQUENCE_MARK: str(sequence)}
            self._mutate_bridge(
                ["external_ids", "delete", ["set", sorted(marks)]],
                ["external_ids", "insert", strings(marks)],
            )

    @property
    def empty(self) -> bool:
        """Whether there is nothing to commit, not even a higher epoch or number."""
        return not (self._operations or self._added or self._removed)

    def remove(self, port: Port) -> None:
        """Remove a port; its rows vanish with the bridge's last reference to them."""
        self._removed.add(port.uuid)

    def add(self, name: str, tag: int | None, marks: dict[str, str], **device_columns: str | int) -> None:
        """Add a port with one interface of the same name; `device_columns` go into the interface's record."""
        self.insert(name, marks, {"tag": _tag(tag)}, device_columns)

    def insert(self, name: str, marks: dict[str, str], port_columns: Row, device_columns: Row) -> None:
        """The same with any columns of both records, in the form of the wire."""
        index = len(self._added)
        device, port = f"interface{index}", f"port{index}"
        row = {"name": name, "external_ids": _external_ids(marks)}
        self._operations += [
            {"op": "insert", "table": "Interface", "row": {**row, **device_columns}, "uuid-name": device},
            {"op": "insert", "table": "Port", "uuid-name": port,
             "row": {**row, **port_columns, "interfaces": ["named-uuid", device]}},
        ]  # fmt: skip
        self._added.append(["named-uuid", port])

    def update(self, port: Port, tag: int | None, marks: dict[str, str]) -> None:
        """Change the VLAN and the marks of a port in place, without touching its traffic.

        What others have written beside our marks stays; a port that we took over may be of use to them.
        """
        old = ["set", sorted(MARK + key for key in {*port.marks, *marks})]
        mark = [["external_ids", "delete", old], ["external_ids", "insert", _external_ids(marks)]]
        by_name = [["name", "==", port.name]]
        self._operations += [
            {"op": "mutate", "table": "Interface", "where": by_name, "mutations": mark},
            {"op": "mutate", "table": "Port", "where": by_name, "mutations": mark},
        ]
        if tag != port.tag:
            row = {"tag": _tag(tag)}
            self._operations.append({"op": "update", "table": "Port", "where": by_name, "row": row})

    def rewrite(self, port: Port, marks: dict[str, str], port_columns: Row, device_columns: Row) -> None:
        """Change any columns of both records of a port that is ours alone, in the form of the wire."""
        marked = {"external_ids": _external_ids(marks)}
        for table, columns in (("Interface", device_columns), ("Port", port_columns)):
            row = {**marked, **columns}
            where = [["name", "==", port.name]]
            self._operations.append({"op": "update", "table": table, "where": where, "row": row})

    def also(self, operations: list[Operation]) -> None:
        """Put other changes of ours behind the same fence."""
        self._operations += operations

    def commit(self, database: Ovsdb) -> int:
        """Commit all or nothing; returns the configuration number the switch daemon has to reach."""
        if self._added:
            self._mutate_bridge(["ports", "insert", ["set", self._added]])
        if self._removed:
            gone = ["set", [["uuid", uuid] for uuid in sorted(self._removed)]]
            self._mutate_bridge(["ports", "delete", gone])
        bump = {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [["next_cfg", "+=", 1]]}
        read = _select("Open_vSwitch", [], ["next_cfg"])
        results = database.transact([self._fence(), *self._operations, bump, read])
        return int(results[-1]["rows"][0]["next_cfg"])

    def _fence(self) -> Operation:
        return {
            "op": "wait", "table": "Bridge", "where": self._where, "timeout": 0, "until": "==",
            "columns": ["ports", "external_ids"], "rows": [self._switch.read],
        }  # fmt: skip

    def _mutate_bridge(self, *mutations: list[Any]) -> None:
        mutate = {"op": "mutate", "table": "Bridge", "where": self._where, "mutations": list(mutations)}
        self._operations.append(mutate)


def _external_ids(marks: dict[str, str]) -> list[Any]:
    return strings({MARK + key: value for key, value in marks.items()})


def _tag(tag: int | None) -> Any:
    return ["set", []] if tag is None else tag
