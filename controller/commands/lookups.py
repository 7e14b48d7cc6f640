"""`mooring leases`, `who` and `history`: who has and had which address."""

from __future__ import annotations

from datetime import datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote, urlencode

import click

from mooring.controller.commands.place import Place
from mooring.controller.commands.screen import Screen, json_option, moment, print_json
from mooring.controller.doors.history import MOST_NOTES
from mooring.controller.tenure import Tenure
from mooring.core.store import Note


@click.command()
@json_option
@click.pass_obj
def leases(place: Place, as_json: bool) -> None:
    """Show every address that is not free, and in whose hand it is."""
    found = place.client().leases()
    if as_json:
        print_json(found)
        return
    Screen().table(
        ("ADDRESS", "POOL", "STATE", "APP", "SLOT", "INSTANCE", "HOST", "SINCE", "UNTIL", "NOTE"),
        [
            (lease.address, lease.pool, lease.state.value, lease.app, lease.slot, lease.binding, lease.host,
             moment(lease.since), moment(lease.until), lease.note)
            for lease in found
        ],
    )  # fmt: skip


class Moment(click.ParamType[float]):
    """A time in ISO form as Unix seconds; without a zone it is meant in local time."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return datetime.fromisoformat(value).timestamp()
        except (TypeError, ValueError):
            self.fail(f"{value!r} is no time; write 2026-11-20T02:13 (local time) or 2026-11-20T02:13Z")


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError as error:
        raise click.UsageError(f"{text!r} is not an address") from error


@click.command()
@click.argument("what", metavar="[ADDRESS|/APP]", required=False)
@click.option("--until", type=Moment(), metavar="TIME", help="Only what happened by then.")
@click.option(
    "--limit", type=click.IntRange(1, MOST_NOTES), default=100, show_default=True, help="Most lines."
)
@json_option
@click.pass_obj
def history(place: Place, what: str | None, until: float | None, limit: int, as_json: bool) -> None:
    """Show who had an address, or which addresses an app had, when and why that changed, newest first.

    Without ADDRESS or /APP, of all.
    """
    query = {"limit": str(limit)}
    if what is not None:
        query |= {"app": what} if what.startswith("/") else {"address": _address(what)}
    if until is not None:
        query["until"] = repr(until)
    notes = place.client().ask("GET", f"/history?{urlencode(query)}", list[Note])
    if as_json:
        print_json(notes)
        return
    Screen().table(
        ("AT", "EVENT", "ADDRESS", "APP", "SLOT", "INSTANCE", "HOST", "POOL", "VLAN", "GENERATION", "EPOCH",
         "REASON"),
        [
            (moment(note.at), note.event, note.address, note.app, note.slot, note.instance, note.host,
             note.pool, note.vlan, note.generation, note.epoch, note.reason)
            for note in notes
        ],
    )  # fmt: skip


@click.command()
@click.argument("address")
@click.option("--at", type=Moment(), metavar="TIME", help="Then, in place of now.")
@json_option
@click.pass_obj
def who(place: Place, address: str, at: float | None, as_json: bool) -> None:
    """Show who has ADDRESS, or had it at a time: app, slot, instance, host and VLAN, since when and why."""
    query = "" if at is None else f"?{urlencode({'at': repr(at)})}"
    path = f"/leases/{quote(_address(address), safe='')}/holder{query}"
    found = place.client().ask("GET", path, Tenure)
    if as_json:
        print_json(found)
        return
    if found.note is None or not found.holder:
        Screen().line(_nobody(found))
        return
    note = found.note
    Screen().table(
        ("ADDRESS", "APP", "SLOT", "INSTANCE", "HOST", "POOL", "VLAN", "STATE", "SINCE", "UNTIL", "WHY"),
        [
            (found.address, note.app, note.slot, note.instance, note.host, note.pool, note.vlan, note.event,
             moment(found.since), moment(found.until), found.why)
        ],
    )  # fmt: skip


def _nobody(found: Tenure) -> str:
    at = moment(found.at)
    if found.note is None:
        begins = f"its history begins at {moment(found.begins)}" if found.begins else "it has no history"
        return f"{found.address} at {at}: unknown: {begins}"
    ended = f" until {moment(found.until)}" if found.until else ""
    last = f", after {found.note.app} slot {found.note.slot}" if found.note.app else ""
    state = f"{found.note.event} since {moment(found.since)}{ended}{last}"
    return f"{found.address} at {at}: nobody: {state}: {found.why}"
