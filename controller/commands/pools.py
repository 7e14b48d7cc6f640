"""`mooring pools`, `mooring pool ...` and `mooring lease release`: which addresses there are."""

from __future__ import annotations

from urllib.parse import quote

import click
from msgspec.structs import replace

from mooring.controller.commands.place import Place
from mooring.controller.commands.screen import Screen, json_option, print_json
from mooring.controller.doors.pools import Done, Generate, Reserve, Resize
from mooring.core.model import HostName, LeaseState, PoolName, PoolSpec
from mooring.core.readmodel import PoolRow
from mooring.core.specs import Route

_GROUP = click.option(
    "--group", "groups", multiple=True, metavar="APP_ID", help="Who may use it; repeatable."
)


@click.command()
@json_option
@click.pass_obj
def pools(place: Place, as_json: bool) -> None:
    """Show how full every pool is, who waits for it and when it will be exhausted."""
    found = place.client().pools()
    if as_json:
        print_json(found)
        return
    states = [state.value for state in LeaseState]
    Screen().table(
        ("POOL", "NETWORK", "VLAN", "GATEWAY", "FROM", "SIZE", "FREE", *map(str.upper, states),
         "WAITING", "EXHAUSTED"),
        [
            (pool.name, _both(pool.network, pool.ipv6), pool.vlan, _both(pool.gateway, pool.gateway6),
             _source(pool), pool.size, pool.free,
             *(pool.leases.get(state, 0) for state in states), pool.waiting, _span(pool.exhausted_in_s))
            for pool in found
        ],
    )  # fmt: skip


@click.group()
def pool() -> None:
    """Add, resize and remove pools while the daemon runs, and reserve addresses."""


@pool.command()
@click.argument("name")
@click.argument("network")
@click.option("--gateway", metavar="ADDRESS", help="Default gateway inside containers; or `managed`.")
@click.option("--gateway-host", metavar="HOST", help="Host of the inventory that is made the gateway.")
@click.option("--gateway-nat", is_flag=True, help="Let that host put its own address in place of theirs.")
@click.option("--vlan", type=int, help="VLAN tag of the switch ports; none: untagged.")
@click.option("--mtu", type=int, help="MTU of the containers' interfaces.")
@click.option("--route", "routes", multiple=True, metavar="NETWORK=NEXT_HOP", help="Repeatable.")
@click.option("--ipv6", metavar="NETWORK", help="IPv6 network for a second address of each container.")
@click.option("--gateway6", metavar="ADDRESS", help="IPv6 gateway: in --ipv6, or link-local (fe80::1).")
@click.option("--exclude", multiple=True, metavar="ADDRESS[-ADDRESS]", help="Never given out; repeatable.")
@_GROUP
@click.pass_obj
def add(
    place: Place,
    name: str,
    network: str,
    gateway: str | None,
    gateway_host: str | None,
    gateway_nat: bool,
    vlan: int | None,
    mtu: int | None,
    routes: tuple[str, ...],
    exclude: tuple[str, ...],
    groups: tuple[str, ...],
    ipv6: str | None,
    gateway6: str | None,
) -> None:
    """Add the pool NAME with the subnet NETWORK."""
    hops = tuple(_route(text) for text in routes)
    own = PoolSpec(PoolName(name), network, gateway, vlan, mtu, hops, exclude, groups=groups)
    wish = replace(
        own,
        ipv6=ipv6,
        gateway6=gateway6,
        gateway_host=HostName(gateway_host) if gateway_host else None,
        gateway_nat=gateway_nat,
    )
    _say(place.client().ask("POST", "/pools", PoolSpec, wish), "added")


@pool.command()
@click.argument("name")
@click.option("--from", "supernet", required=True, metavar="SUPERNET", help="As named in the configuration.")
@_GROUP
@click.pass_obj
def generate(place: Place, name: str, supernet: str, groups: tuple[str, ...]) -> None:
    """Make the pool NAME from the next free subnet and VLAN of a supernet."""
    wish = Generate(name, supernet, groups)
    _say(place.client().ask("POST", "/pools/generated", PoolSpec, wish), "generated")


@pool.command()
@click.argument("name")
@click.argument("network")
@click.pass_obj
def resize(place: Place, name: str, network: str) -> None:
    """Let the pool NAME have the subnet NETWORK; every lease in use must still have its place in it."""
    path = f"/pools/{quote(name, safe='')}/network"
    _say(place.client().ask("PUT", path, PoolSpec, Resize(network)), "resized")


@pool.command()
@click.argument("name")
@click.pass_obj
def remove(place: Place, name: str) -> None:
    """Remove the pool NAME; no lease of it may be in use."""
    place.client().ask("DELETE", f"/pools/{quote(name, safe='')}", Done)
    click.echo(f"pool {name} removed")


@pool.command()
@click.argument("address")
@click.option("--reason", required=True, help="For whom or what it is kept.")
@click.pass_obj
def reserve(place: Place, address: str, reason: str) -> None:
    """Keep ADDRESS from being given out."""
    place.client().ask("PUT", f"/reservations/{quote(address, safe='')}", Done, Reserve(reason))
    click.echo(f"{address} is reserved: {reason}")


@pool.command()
@click.argument("address")
@click.pass_obj
def unreserve(place: Place, address: str) -> None:
    """Let ADDRESS be given out again, after it has cooled."""
    place.client().ask("DELETE", f"/reservations/{quote(address, safe='')}", Done)
    click.echo(f"{address} is no longer reserved; it cools")


@click.group()
def lease() -> None:
    """Give single addresses back."""


@lease.command()
@click.argument("address")
@click.pass_obj
def release(place: Place, address: str) -> None:
    """Give back ADDRESS, on which a stranger answered or whose seat is empty; it cools first."""
    place.client().ask("POST", f"/leases/{quote(address, safe='')}/release", Done)
    click.echo(f"{address} is released; it cools")


def _route(text: str) -> Route:
    to, _, via = text.partition("=")
    if not via:
        raise click.BadParameter(f"{text!r} is not of the form NETWORK=NEXT_HOP", param_hint="--route")
    return Route(to.strip(), via.strip())


def _say(spec: PoolSpec, done: str) -> None:
    wired = "untagged" if spec.vlan is None else f"VLAN {spec.vlan}"
    gateway = _both(spec.gateway, spec.gateway6) or "none"
    click.echo(f"pool {spec.name} {done}: {_both(spec.network, spec.ipv6)}, {wired}, gateway {gateway}")


def _both(first: str | None, second: str | None) -> str | None:
    """What a pool has of each family, in one cell."""
    return " + ".join(filter(None, (first, second))) or None


def _source(row: PoolRow) -> str:
    return "configuration" if row.configured else row.supernet or "operator"


def _span(seconds: float | None) -> str | None:
    """A forecast is rough, and shall look so."""
    if seconds is None:
        return None
    if seconds <= 0:
        return "now"
    units = ((86400, "d"), (3600, "h"), (60, "min"))
    return next((f"{seconds / unit:.0f}{name}" for unit, name in units if seconds >= 2 * unit), "<2min")
