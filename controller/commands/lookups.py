"""`mooring leases`, `pools` and `history`: who has, had and may have which address."""

from __future__ import annotations

import click

from mooring.controller.commands.place import Place
from mooring.controller.commands.screen import Screen, json_option, moment, print_json
from mooring.core.model import LeaseState


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
        ("ADDRESS", "POOL", "STATE", "APP", "SLOT", "INSTANCE", "HOST", "SINCE", "UNTIL"),
        [
            (lease.address, lease.pool, lease.state.value, lease.app, lease.slot, lease.binding, lease.host,
             moment(lease.since), moment(lease.until))
            for lease in found
        ],
    )  # fmt: skip


@click.command()
@json_option
@click.pass_obj
def pools(place: Place, as_json: bool) -> None:
    """Show how full every pool is."""
    found = place.client().pools()
    if as_json:
        print_json(found)
        return
    states = [state.value for state in LeaseState]
    Screen().table(
        ("POOL", "NETWORK", "VLAN", "GATEWAY", "SIZE", "FREE", *map(str.upper, states)),
        [
            (pool.name, pool.network, pool.vlan, pool.gateway, pool.size, pool.free,
             *(pool.leases.get(state, 0) for state in states))
            for pool in found
        ],
    )  # fmt: skip


@click.command()
@click.argument("address", required=False)
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Most lines.")
@json_option
@click.pass_obj
def history(place: Place, address: str | None, limit: int, as_json: bool) -> None:
    """Show who had ADDRESS when and why that changed, newest first; without ADDRESS, of all addresses."""
    notes = place.client().history(address, limit)
    if as_json:
        print_json(notes)
        return
    Screen().table(
        ("AT", "EVENT", "ADDRESS", "APP", "SLOT", "INSTANCE", "HOST", "REASON"),
        [
            (moment(note.at), note.event, note.address, note.app, note.slot, note.instance, note.host,
             note.reason)
            for note in notes
        ],
    )  # fmt: skip
