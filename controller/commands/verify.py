"""`mooring verify` and `plan`: what stands in the world, and what would change there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from mooring.controller.commands.place import Place
from mooring.controller.commands.screen import Screen, json_option, print_json
from mooring.controller.drift import Finding
from mooring.controller.plan import Plan
from mooring.controller.verify import Look

_PATIENCE_S = 300.0  # every host and every zone is read, and what differs is read twice


@click.command()
@json_option
@click.pass_context
def verify(ctx: click.Context, as_json: bool) -> None:
    """Compare what every sink really shows with what it should; ends with 1 if anything differs.

    What is missing, different or ours without an owner is repaired; what is foreign is named and left alone.
    """
    place: Place = ctx.obj
    found = place.client(_PATIENCE_S).ask("POST", "/verify", Look)
    if as_json:
        print_json(found)
    else:
        screen = Screen()
        if found.findings:
            _show_findings(screen, found.findings)
        else:
            screen.line(f"everything that could be read is as it should be: {', '.join(found.read)}")
        _show_unread(screen, found.unread)
    ctx.exit(1 if found.findings else 0)


@click.command()
@json_option
@click.pass_obj
def plan(place: Place, as_json: bool) -> None:
    """Show what would change if nothing held it back, and what does; changes nothing."""
    found = place.client(_PATIENCE_S).ask("GET", "/plan", Plan)
    if as_json:
        print_json(found)
        return
    screen = Screen()
    if not found.changes and not found.findings:
        screen.line("nothing would change")
    if found.changes:
        screen.table(
            ("APP", "INSTANCE", "SINK", "SHOWS", "SHALL SHOW", "HELD BY"),
            [
                (change.app, change.instance, change.sink, change.shows, change.shall_show, change.held_by)
                for change in found.changes
            ],
        )
    if found.findings:
        _show_findings(screen, found.findings)
    _show_unread(screen, found.unread)


def _show_findings(screen: Screen, findings: Sequence[Finding]) -> None:
    screen.table(
        ("SINK", "KIND", "KEY", "INSTANCE", "DETAIL", "REMEDY"),
        [
            (finding.sink, finding.kind.value, finding.key, finding.instance, finding.detail, finding.remedy)
            for finding in findings
        ],
    )


def _show_unread(screen: Screen, unread: Mapping[str, str]) -> None:
    for place, why in sorted(unread.items()):
        screen.line(f"not compared: {place}: {why}")
