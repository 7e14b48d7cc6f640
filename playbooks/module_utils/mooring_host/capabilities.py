"""Check: what this host really has and can do.  Reported, never assumed; nothing is changed.

Each part is asked for itself, and one that cannot be reached is reported with its reason: the point of a
check is to be told of everything that is missing at once.  Whether that matters is judged by whoever asked.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

# All that other calls load only when they need it: the content of the program is told as a whole.
from . import adopt, fabric, gateway, observe, probing, reloads, survey  # noqa: F401
from .errors import OperationError
from .host import FAILURES, Host, Result
from .meters import PROGRAM, bridge_of
from .orders import Check
from .ovsdb import DATABASE, Operation, Row, first, mapping, members
from .switch import OWNER_MARK, PROBE_MARK
from .trials import EVERYWHERE, try_out

_ENTRANCES = ("guardian", "install", "program")  # by which of them it was started does not matter
PROGRAMS = ("tc", "ovs-ofctl", "ovs-vsctl", "pipework")


def check(host: Host, order: Check) -> Result:
    """Report what there is, each part with what kept it from being read."""
    switch = _asked(lambda: _switch(host))
    limits = {**try_out(), "meters": _meters(host)}
    if switch.get("datapath") == "netdev":
        limits["policing"] = "a userspace switch reads the frames before the kernel polices them"
    details: dict[str, Any] = {
        "node": platform.node(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "program": content_version(),
        "ipv6": os.path.isdir("/proc/sys/net/ipv6"),
        "programs": {name: shutil.which(name, path=EVERYWHERE) for name in PROGRAMS},
        "state_dir": host.settings.state_dir,
        "free_bytes": _free_bytes(host.settings.state_dir),
        "switch": switch,
        "engine": _asked(lambda: {"version": host.engine.version()}),
        "limits": limits,
    }
    return Result(order.id, "done", details=details)


def content_version() -> str:
    """Names the content of this program: equal for equal sources, wherever they lie."""
    package = __name__.rpartition(".")[0]
    digest = hashlib.sha256()
    entrances = {f"{package}.{name}" for name in _ENTRANCES}
    loaded = {module for module in sys.modules if module.startswith(f"{package}.")}
    for name in sorted(loaded - entrances):
        module = sys.modules[name]
        source = module.__loader__.get_data(module.__file__)  # type: ignore[union-attr]
        digest.update(name[len(package) :].encode() + b"\0" + source)
    return digest.hexdigest()[:12]


def _asked(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return {"error": "", **ask()}
    except FAILURES as error:
        return {"error": str(error) or type(error).__name__}


def _free_bytes(directory: str) -> int:
    """Of the file system that the directory is, or would be made, on."""
    while not os.path.exists(directory):
        directory = os.path.dirname(directory) or "/"
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def _meters(host: Host) -> str:
    """Why the datapath has no meters; empty if it has."""
    if shutil.which(PROGRAM, path=EVERYWHERE) is None:
        return f"the program {PROGRAM} is missing"
    try:
        highest = bridge_of(host).highest()
    except OperationError as error:
        return str(error)
    return "" if highest else "the datapath has no meters"


def _switch(host: Host) -> dict[str, Any]:
    """The bridge and the ports on it that are none of ours."""
    columns = {
        "Bridge": ["name", "ports", "controller", "fail_mode", "datapath_type"],
        "Port": ["_uuid", "name", "tag", "trunks", "interfaces", "external_ids"],
        "Interface": ["_uuid", "type", "mtu", "ofport", "error", "link_state"],
        "Controller": ["_uuid", "target", "is_connected"],
        DATABASE: ["ovs_version", "cur_cfg", "next_cfg"],
    }
    results = host.database.transact([_all(table, names) for table, names in columns.items()])
    rows = {table: result["rows"] for table, result in zip(columns, results)}  # noqa: B905 (Python 3.9)
    found: dict[str, Any] = {
        "version": first(rows[DATABASE][0]["ovs_version"]) or _installed_version(),
        "schema": host.database.schema_version(),
        "behind": rows[DATABASE][0]["next_cfg"] - rows[DATABASE][0]["cur_cfg"],
        "bridge": host.settings.bridge,
        "exists": False,
    }
    for bridge in rows["Bridge"]:
        if bridge["name"] == host.settings.bridge:
            found.update(_bridge(bridge, rows))
    return found


def _installed_version() -> str:
    """For a switch that was started by hand, which does not enter its version into the database."""
    program = shutil.which("ovs-vswitchd", path=EVERYWHERE)
    if program is None:
        return ""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.partition("\n")[0].rpartition(" ")[2]


def _all(table: str, columns: list[str]) -> Operation:
    return {"op": "select", "table": table, "where": [], "columns": columns}


def _bridge(bridge: Row, rows: dict[str, list[Row]]) -> dict[str, Any]:
    datapath = bridge["datapath_type"] or "system"
    controllers = _referred(bridge["controller"], rows["Controller"])
    ports = _referred(bridge["ports"], rows["Port"])
    others = [port for port in ports if not _is_ours(port) and port["name"] != bridge["name"]]
    return {
        "exists": True,
        "datapath": datapath,
        # Packets reach a userspace switch without the checksum that the kernel leaves to hardware.
        "checksum_offload_off": datapath == "netdev",
        "fail_mode": first(bridge["fail_mode"]) or "standalone",
        "controllers": {row["target"]: bool(row["is_connected"]) for row in controllers},
        "uplinks": [_port(port, rows) for port in others],
        "ports": sum(map(_is_ours, ports)),
    }


def _is_ours(port: Row) -> bool:
    return bool({OWNER_MARK, PROBE_MARK} & set(mapping(port["external_ids"])))


def _referred(column: Any, rows: list[Row]) -> list[Row]:
    wanted = {uuid for _, uuid in members(column)}
    return [row for row in rows if row["_uuid"][1] in wanted]


def _port(port: Row, rows: dict[str, list[Row]]) -> dict[str, Any]:
    devices = _referred(port["interfaces"], rows["Interface"])
    errors = [str(first(device["error"])) for device in devices if first(device["error"])]
    sizes = [first(device["mtu"]) for device in devices if first(device["mtu"]) is not None]
    return {
        "name": port["name"],
        "type": devices[0]["type"] or "system" if devices else "",
        "tag": first(port["tag"]),
        "trunks": sorted(members(port["trunks"])),
        "mtu": min(sizes) if sizes else None,
        "up": all(first(device["link_state"]) == "up" for device in devices),
        "error": "; ".join(errors),
    }
