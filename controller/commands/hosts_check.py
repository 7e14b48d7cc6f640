"""`mooring hosts check`: what the hosts have and can do, one block for each, and what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from urllib.parse import urlencode

import click

from mooring.controller import logs
from mooring.controller.capabilities import HostFacts, HostReport, SwitchFacts, Uplink, size
from mooring.controller.commands.place import Place
from mooring.controller.commands.screen import Screen, json_option, print_json
from mooring.controller.control_client import Unreachable

_PATIENCE_S = 120.0  # every host is asked, and a silent one takes its time


@click.command()
@click.argument("host", nargs=-1)
@json_option
@click.pass_context
def check(ctx: click.Context, host: tuple[str, ...], as_json: bool) -> None:
    """Ask HOSTs, or every host, what they can do: switch, uplinks, limits, engine, versions, room.

    Nothing is changed. Works without a running daemon. Ends with 1 if a host does not answer or has a fault.
    """
    found = _ask(ctx.obj, host)
    if as_json:
        print_json(found)
    else:
        screen = Screen()
        for report in found:
            show(screen, report)
    ctx.exit(1 if any(report.faults for report in found) else 0)


def _ask(place: Place, names: Sequence[str]) -> list[HostReport]:
    """Through the daemon, whose connections are open; without one, directly."""
    query = urlencode([("host", name) for name in names])
    try:
        return place.client(_PATIENCE_S).ask("GET", f"/hosts/check?{query}", list[HostReport])
    except Unreachable:
        settings = place.settings()
    logs.configure("error", "console")
    from mooring.controller.daemon import check_hosts as reach  # heavy, and only needed here

    return asyncio.run(reach(settings, names))


def show(screen: Screen, report: HostReport) -> None:
    """One host's block."""
    verdict = "ok" if not report.faults else "FAILED"
    screen.line(f"{report.host}: {verdict}", style="bold" if not report.faults else "bold red")
    for name, text in _lines(report.facts) if report.facts else ():
        screen.line(f"  {name:<9} {text}")
    for fault in report.faults:
        screen.line(f"  {'FAULT':<9} {fault}", style="red")
    for note in report.notes:
        screen.line(f"  {'note':<9} {note}", style="yellow")


def _lines(facts: HostFacts) -> Iterator[tuple[str, str]]:
    switch = facts.switch
    if not switch.error:
        yield "switch", f"Open vSwitch {switch.version or 'of unknown version'}, schema {switch.schema}"
    if switch.exists:
        yield from _bridge_lines(switch)
    yield "limits", ", ".join(f"{name} {_ability(why)}" for name, why in sorted(facts.limits.items()))
    if not facts.engine.error:
        yield "engine", f"Docker {facts.engine.version}"
    ipv6 = "IPv6" if facts.ipv6 else "no IPv6"
    yield "host", f"{facts.node}, kernel {facts.kernel}, Python {facts.python}, {ipv6}"
    missing = [name for name, path in facts.programs.items() if path is None]
    present = ", ".join(sorted(set(facts.programs) - set(missing))) or "none"
    yield "programs", present + (f"; not there: {', '.join(missing)}" if missing else "")
    yield "state", f"{size(facts.free_bytes)} free in {facts.state_dir}, program {facts.program}"


def _bridge_lines(switch: SwitchFacts) -> Iterator[tuple[str, str]]:
    offload = "off" if switch.checksum_offload_off else "as it is"
    yield "bridge", f"{switch.bridge}, {switch.ports} ports of ours, fail_mode {switch.fail_mode}"
    yield "datapath", f"{switch.datapath}, TX checksum offload of containers {offload}"
    told = (f"{target} ({'' if on else 'not '}connected)" for target, on in switch.controllers.items())
    yield "control", ", ".join(told) or "no controller"
    yield "uplinks", "; ".join(map(_uplink, switch.uplinks)) or "none"


def _uplink(port: Uplink) -> str:
    vlans = f"VLANs {','.join(map(str, port.trunks))}" if port.trunks else "all VLANs"
    parts = [port.name, port.type, f"VLAN {port.tag}" if port.tag is not None else vlans]
    parts += [f"MTU {port.mtu}"] if port.mtu is not None else []
    return " ".join([*parts, "up" if port.up else "down"])


def _ability(why: str) -> str:
    return "works" if not why else f"does not work ({why})"
