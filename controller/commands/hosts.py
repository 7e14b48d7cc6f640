"""`mooring hosts`: who answers, who is being worked on, and what to do about one that never will again."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

import click

from mooring.controller.commands.hosts_check import check
from mooring.controller.commands.place import Place
from mooring.controller.commands.screen import Screen, json_option, moment, print_json
from mooring.controller.control_client import ControlClient
from mooring.controller.doors.hosts import FenceWish, HostRow, MaintenanceWish

_PATIENCE_S = 120.0  # every host is asked, and a silent one takes its time


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def hosts(ctx: click.Context, as_json: bool) -> None:
    """Ask every host now and show who answers.

    Ends with 1 if one does not that is neither fenced nor in maintenance.
    """
    if ctx.invoked_subcommand is not None:
        return
    found = _client(ctx.obj).ask("GET", "/hosts", list[HostRow])
    if as_json:
        print_json(found)
    else:
        _show(Screen(), found)
    ctx.exit(1 if any(row.state == "silent" for row in found) else 0)


@hosts.command()
@click.argument("host")
@click.option("--reason", required=True, help="Why, for those who find the fence later.")
@click.option("--force", is_flag=True, help="Even if the host answers: it runs none of our containers.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def fence(ctx: click.Context, host: str, reason: str, force: bool, yes: bool) -> None:
    """Assert that nothing runs on HOST any more: it is switched off, or cut off the network.

    Addresses that waited for its word are given back, and nothing is attached there until it is unfenced.
    If something does run there after all, an address may be in two hands.
    """
    screen = Screen()
    screen.line(f"nothing may run on {host} any more, and nothing there may use the network")
    if not (yes or (screen.terminal and click.confirm("is that so?", default=False))):
        screen.line("nothing was changed; give --yes where nobody can be asked")
        ctx.exit(1)
    wish = FenceWish(reason, force)
    _show(screen, _client(ctx.obj).ask("PUT", f"/hosts/{quote(host, safe='')}/fence", list[HostRow], wish))


@hosts.command()
@click.argument("host")
@click.pass_context
def unfence(ctx: click.Context, host: str) -> None:
    """Take HOST into use again.

    It has to answer, and first loses the ports whose addresses have been given back.
    """
    found = _client(ctx.obj).ask("DELETE", f"/hosts/{quote(host, safe='')}/fence", list[HostRow])
    _show(Screen(), found)


hosts.add_command(check)


@hosts.command()
@click.argument("host")
@click.option("--reason", default="", help="What is being done, for those who find it so.")
@click.pass_context
def maintain(ctx: click.Context, host: str, reason: str) -> None:
    """Leave HOST alone while people are at work on it.

    Nothing is sent there, its silence is no alarm, and what its containers shall have waits. No address that
    lies there is given to anybody else; `mooring hosts fence` is for a host that will not come back.
    """
    path = f"/hosts/{quote(host, safe='')}/maintenance"
    _show(Screen(), _client(ctx.obj).ask("PUT", path, list[HostRow], MaintenanceWish(reason)))


@hosts.command()
@click.argument("host")
@click.pass_context
def resume(ctx: click.Context, host: str) -> None:
    """End the maintenance of HOST: it is looked at first, then all that waited goes on."""
    path = f"/hosts/{quote(host, safe='')}/maintenance"
    _show(Screen(), _client(ctx.obj).ask("DELETE", path, list[HostRow]))


def _client(place: Place) -> ControlClient:
    return place.client(_PATIENCE_S)


def _show(screen: Screen, rows: Sequence[HostRow]) -> None:
    screen.table(
        ("HOST", "STATE", "PORTS", "EPOCH", "BOUND", "STRANDED", "SINCE", "WHY"),
        [
            (row.host, row.state, row.ports, row.epoch, row.bound, row.stranded,
             moment(row.fenced_at or row.maintained_at or row.silent_since), _why(row))
            for row in rows
        ],
    )  # fmt: skip


def _why(row: HostRow) -> str:
    told = [row.reason or row.why]
    if row.maintained_at is not None:
        told.append(f"`mooring hosts resume {row.host}` when it is done")
    if row.fenced_at is not None:
        told.append("it answers: `mooring hosts unfence` takes it into use" if row.answers else row.why)
    if not row.known:
        told.append("not in the inventory")
    return "; ".join(filter(None, told))
