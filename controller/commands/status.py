"""`mooring status`: one line for each instance, and whether everything is in step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import click
import msgspec
from rich.text import Text

from mooring.controller.commands.place import Place
from mooring.controller.commands.screen import NOTHING, Screen, json_option, print_json
from mooring.controller.control_client import Unreachable
from mooring.controller.printable import printable
from mooring.core.clock import Clock, SystemClock
from mooring.core.readmodel import EVERYTHING, InstanceRow, Overview, SinkRow, Status

_POLL_S = 0.25


@click.command()
@json_option
@click.option("--app", "prefix", metavar="PREFIX", help="Only this app and the apps below it.")
@click.option(
    "--wait", "seconds", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS",
    help="Wait until everything is settled, also for a daemon that is just starting.",
)  # fmt: skip
@click.pass_context
def status(ctx: click.Context, as_json: bool, prefix: str | None, seconds: float) -> None:
    """Show every instance: its address, and for each sink what it shows and shall show.

    Ends with 0 when everything is in step, with 1 when something is unsettled or refused.
    """
    place: Place = ctx.obj
    client = place.client()

    def ask() -> Status:
        whole = client.status()
        return whole.below(prefix) if prefix else whole

    found = asyncio.run(until_settled(ask, SystemClock(), seconds))
    if as_json:
        print_json({"in_step": found.in_step, "settled": found.settled} | msgspec.to_builtins(found))
    else:
        _show(Screen(), found)
    ctx.exit(0 if found.in_step else 1)


async def until_settled(ask: Callable[[], Status], clock: Clock, seconds: float) -> Status:
    """Ask until waiting would gain nothing more or `seconds` are over; the last answer.

    Raises what `ask` raises, but `Unreachable` only when the time is over.
    """
    deadline = clock.monotonic() + seconds
    while True:
        late = clock.monotonic() >= deadline
        try:
            found = ask()
        except Unreachable:
            if late:
                raise
        else:
            if late or found.settled:
                return found
        await clock.sleep(_POLL_S)


def _show(screen: Screen, status: Status) -> None:
    screen.line(_headline(status.overview))
    for remark in (*_remarks(status.overview), *(f"not ready: {reason}" for reason in status.readiness)):
        screen.line(remark, style="yellow")
    if status.instances:
        _show_instances(screen, status.instances)
    else:
        screen.line("no instances")
    for app, reason in status.refusals.items():
        # Most messages begin with their app; those need no second mention of it.
        screen.line(f"refused: {reason if app in reason else f'app {app}: {reason}'}", style="red")


def _headline(overview: Overview) -> str:
    age = overview.snapshot_age_s
    snapshot = "no snapshot yet" if age is None else f"snapshot {age:.0f} s old"
    return (
        f"mooring {overview.version}, owner {overview.owner}, epoch {overview.epoch}; "
        f"stream: {overview.stream}; {snapshot}"
    )


def _remarks(overview: Overview) -> list[str]:
    remarks = []
    if overview.observe:
        remarks.append("observing only: nothing is changed anywhere")
    if EVERYTHING in overview.paused:
        remarks.append("paused: all effects wait; go on with `mooring resume`")
    remarks += [f"paused: {app}" for app in overview.paused if app != EVERYTHING]
    remarks += [
        f"maintenance: {host} ({why}); go on with `mooring hosts resume {host}`"
        for host, why in overview.maintained.items()
    ]
    if overview.brake:
        remarks.append(f"brake: {overview.brake}")
    return remarks


def _show_instances(screen: Screen, instances: Sequence[InstanceRow]) -> None:
    sinks = list(dict.fromkeys(sink for row in instances for sink in row.sinks))
    columns = ["APP", "SLOT", "HOST", "ADDRESS", "STATE", "PHASE", *map(str.upper, sinks)]
    lines = [[*_line(screen, row, sinks, brief=False), row.problem] for row in instances]
    if screen.fits([*columns, "PROBLEM"], lines):
        screen.table([*columns, "PROBLEM"], lines)
        return
    screen.table(columns, [_line(screen, row, sinks, brief=True) for row in instances])
    for row in instances:
        if row.problem:
            screen.line(f"{row.instance}: {row.problem}", style="yellow")


def _line(screen: Screen, row: InstanceRow, sinks: Sequence[str], *, brief: bool) -> list[object]:
    verdict = row.state if row.health in ("", "unknown") else f"{row.state}, {row.health}"
    shown = [_sink(screen, row.sinks.get(sink), brief) for sink in sinks]
    return [row.app, row.slot, row.host, row.address, verdict, row.phase.value, *shown]


def _sink(screen: Screen, sink: SinkRow | None, brief: bool) -> Text:
    if sink is None or (sink.settled and sink.applied is None):
        return Text(NOTHING)
    if sink.settled:
        return Text(screen.tick if brief else f"{screen.tick} {printable(sink.applied or '')}", "green")
    change = f"{sink.applied or NOTHING} {screen.arrow} {sink.wanted or NOTHING}"
    return Text(printable(change), "yellow")
