"""`mooring pause` and `resume`: intentions are kept, effects wait."""

from __future__ import annotations

import click

from mooring.controller.commands.place import Place
from mooring.controller.commands.screen import Screen
from mooring.core.readmodel import EVERYTHING, Overview


@click.command()
@click.argument("app", required=False)
@click.pass_obj
def pause(place: Place, app: str | None) -> None:
    """Let all effects wait, or those of APP; what is to be done is still worked out and kept."""
    _tell(place.client().pause(_app_id(app)))


@click.command()
@click.argument("app", required=False)
@click.pass_obj
def resume(place: Place, app: str | None) -> None:
    """End the pause of everything, or of APP, and catch up."""
    _tell(place.client().resume(_app_id(app)))


def _app_id(app: str | None) -> str | None:
    return None if app is None else "/" + app.strip("/")


def _tell(overview: Overview) -> None:
    screen = Screen()
    if not overview.paused:
        screen.line("nothing is paused")
    for app in overview.paused:
        screen.line("paused: everything" if app == EVERYTHING else f"paused: {app}")
