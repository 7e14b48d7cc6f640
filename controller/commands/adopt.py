"""`mooring adopt`: take over the containers that pipework or a script has wired."""

from __future__ import annotations

from collections import Counter
from urllib.parse import urlencode

import click

from mooring.controller.adoption import Adoption
from mooring.controller.commands.place import Place
from mooring.controller.commands.screen import Screen, json_option, print_json
from mooring.controller.doors.adopt import AdoptionWish

_PATIENCE_S = 300.0  # every host is asked twice, and instances at work are waited for


@click.command()
@click.argument("hosts", nargs=-1)
@click.option("--yes", is_flag=True, help="Take over what can be; without it only the plan is shown.")
@json_option
@click.pass_context
def adopt(ctx: click.Context, hosts: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Take over containers that pipework or a script has wired, with their addresses; on HOSTS, or on all.

    Their traffic is not touched. What cannot be taken over is named with the reason, and left alone.
    Ends with 1 if there is such a container, if one failed, or if a host did not answer.
    """
    place: Place = ctx.obj
    client = place.client(_PATIENCE_S)
    if yes:
        found = client.ask("POST", "/adopt", Adoption, AdoptionWish(hosts))
    else:
        query = f"?{urlencode([('host', host) for host in hosts])}" if hosts else ""
        found = client.ask("GET", f"/adopt{query}", Adoption)
    if as_json:
        print_json(found)
    else:
        _show(Screen(), found, yes)
    ctx.exit(0 if found.complete else 1)


def _show(screen: Screen, found: Adoption, yes: bool) -> None:
    if found.rows:
        screen.table(
            ("HOST", "ADDRESS", "ACTION", "APP", "SLOT", "TASK", "INTERFACE", "PORT", "REASON"),
            [
                (row.host, row.address, row.action, row.app, row.slot, row.task, row.interface, row.port,
                 row.reason)
                for row in found.rows
            ],
        )  # fmt: skip
    for host, why in sorted(found.silent.items()):
        screen.line(f"not asked: {host}: {why}", style="yellow")
    counts = Counter(row.action for row in found.rows)
    if yes:
        told = f"{counts['adopted']} taken over, {counts['failed']} failed, {counts['leave']} left alone"
        screen.line(told)
    else:
        remedy = "; `mooring adopt --yes` does it" if counts["adopt"] else ""
        screen.line(f"{counts['adopt']} can be taken over, {counts['leave']} are left alone{remedy}")
