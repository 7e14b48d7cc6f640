"""`mooring brake`: what to do when many instances vanished at once without having ended.

A reply of a wrong or half-started Marathon looks exactly like a mass deletion, so the daemon holds what is
merely absent and asks a person.
"""

from __future__ import annotations

import click

from mooring.controller.commands.place import Place
from mooring.controller.commands.screen import Screen


@click.group()
def brake() -> None:
    """Look at the brake, or release it."""


@brake.command()
@click.pass_context
def show(ctx: click.Context) -> None:
    """Say whether the brake holds anything, and why; ends with 1 if it does."""
    place: Place = ctx.obj
    reason = place.client().overview().brake
    Screen().line(f"held: {reason}" if reason else "the brake is off")
    ctx.exit(1 if reason else 0)


@brake.command()
@click.pass_obj
def release(place: Place) -> None:
    """Confirm that what is held is gone: its ports, names and members are removed now.

    What Marathon has spoken of since it vanished stays. Refused if more is held by then than is shown here.
    """
    client = place.client()
    seen = client.overview()
    if seen.brake:
        Screen().line(f"held: {seen.brake}")
    client.release_brake(seen.held)
    Screen().line("released: what was held is treated as gone")
