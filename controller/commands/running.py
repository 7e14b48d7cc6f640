"""`mooring run` and `check`: the daemon itself, and whether it would have what it needs."""

from __future__ import annotations

import asyncio

import click

from mooring.controller import logs
from mooring.controller.commands.place import Place
from mooring.controller.commands.screen import Screen


@click.command()
@click.option("--observe", is_flag=True, help="Only say what would be done; change nothing anywhere.")
@click.pass_context
def run(ctx: click.Context, observe: bool) -> None:
    """Run the daemon until it is told to stop (SIGTERM or SIGINT)."""
    place: Place = ctx.obj
    settings = place.settings()
    logs.configure(settings.log.level, settings.log.format)
    from mooring.controller.daemon import run as live  # heavy, and no other command needs it

    ctx.exit(live(settings, observe=observe))


@click.command()
@click.pass_context
def check(ctx: click.Context) -> None:
    """Check the configuration and reach every part it names, without changing anything.

    Ends with 0 when every part answers, with 1 when one does not, with 2 when the configuration is wrong.
    """
    place: Place = ctx.obj
    settings = place.settings()
    logs.configure("error", "console")
    from mooring.controller.daemon import check as reach

    parts = asyncio.run(reach(settings))
    screen = Screen()
    width = max((len(part) for part, _, _ in parts), default=0)
    for part, ok, line in parts:
        screen.line(f"{'ok    ' if ok else 'FAILED'}  {part:<{width}}  {line}", style="" if ok else "red")
    ctx.exit(0 if all(ok for _, ok, _ in parts) else 1)
