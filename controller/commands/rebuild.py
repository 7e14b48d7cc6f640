"""`mooring rebuild`: the books written anew from what stands in the world, after a look at the plan."""

from __future__ import annotations

from collections import Counter

import click

from mooring.controller.commands.place import Place
from mooring.controller.commands.screen import Screen, json_option, print_json
from mooring.controller.doors.rebuild import Agreed
from mooring.controller.rebuild_plan import RebuildPlan
from mooring.core.errors import Refused

_SOME = 5  # addresses that a message names
_PATIENCE_S = 180.0  # every host and every zone is read, twice for an apply


@click.command()
@click.option("--yes", is_flag=True, help="Apply what is shown without asking.")
@click.option("--detach-living", is_flag=True, help="Also if living containers lose an address no pool has.")
@json_option
@click.pass_context
def rebuild(ctx: click.Context, yes: bool, detach_living: bool, as_json: bool) -> None:
    """Show what would be entered in a store that does not know every lease, and enter it if you agree.

    Ends with 1 if nothing was changed.  On a terminal you are asked; elsewhere give --yes.  Refused while a
    living container would lose its address because the pool that had it is gone: add the pool first.
    """
    place: Place = ctx.obj
    screen = Screen()
    client = place.client(_PATIENCE_S)
    plan = client.ask("GET", "/rebuild", RebuildPlan)
    if as_json:
        print_json(plan)
    else:
        _show(screen, plan)
    if plan.homeless and not detach_living:
        raise Refused(_homeless(plan.homeless))
    if not (yes or (screen.terminal and not as_json and click.confirm("apply this plan?", default=False))):
        if not as_json:
            screen.line("nothing was changed; apply it with `mooring rebuild --yes`")
        ctx.exit(1)
    client.ask("POST", "/rebuild", RebuildPlan, Agreed(plan.digest))
    if as_json:
        return
    screen.line("applied; `mooring status` shows how the instances come into step")
    for line in _waits(plan):
        screen.line(line, style="yellow")


def _homeless(addresses: tuple[str, ...]) -> str:
    some = ", ".join(addresses[:_SOME]) + (", ..." if len(addresses) > _SOME else "")
    return (
        f"{len(addresses)} living containers would lose addresses that no pool contains ({some}); nothing "
        "was changed: add their pool first (`mooring pool add`), or give --detach-living"
    )


def _show(screen: Screen, plan: RebuildPlan) -> None:
    if plan.rows:
        screen.table(
            ("ADDRESS", "ACTION", "APP", "SLOT", "INSTANCE", "HOST", "REASON"),
            [
                (row.address, row.action, row.app, row.slot, row.instance, row.host, row.reason)
                for row in plan.rows
            ],
        )
    counts = Counter(row.action for row in plan.rows)
    told = ", ".join(f"{counts[action]} {action}" for action in ("keep", "detach", "quarantine", "reserved"))
    screen.line(f"{told}; {plan.known} ports are in the store as they stand; plan {plan.digest}")
    for line in _waits(plan):
        screen.line(line, style="yellow")


def _waits(plan: RebuildPlan) -> list[str]:
    lines = [
        f"no address is given out until {host} answers or is fenced (`mooring hosts fence {host}`): {why}"
        for host, why in plan.blocked_by.items()
    ]
    if plan.unheard:
        unheard = ", ".join(plan.unheard)
        lines.append(f"fenced unheard: {unheard}; all addresses not in use rest before they are given out")
    return lines
