"""Which names an instance gets. Pure: no network, no clock.

An app's path is read from the inside out, as domain names are: `/shop/web` in the zone `mooring.test` is
`web.shop.mooring.test`.  Its seats are one label below, `web-0.web.shop.mooring.test`, so that the seat's
own label is readable alone and a wildcard or a certificate for the app covers its seats.

The mapping is injective: two apps never share a name, because nothing is folded or shortened.  A part of a
path that is no host name label (RFC 1123: letters, digits and inner hyphens, up to 63) is refused instead
of being rewritten into somebody else's name.  Names here are absolute, in lower case, without the last dot.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

from mooring.core.errors import Refused
from mooring.core.model import AppId

OWNERSHIP_LABEL = "_mooring"  # the ownership TXT of a name stands one label below it

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_LONGEST = 253 - len(OWNERSHIP_LABEL) - 1  # the ownership record must have a legal name too


def app_name(app: AppId, zone: str) -> str:
    """The name that all instances of `app` share; `Refused` if the path cannot be a name."""
    return _joined(app, (*_labels(app), zone))


def seat_name(app: AppId, slot: int, zone: str) -> str:
    """The name of seat `slot` of `app`; `Refused` if the path cannot be a name."""
    if slot < 0:
        raise Refused(f"app {app}: slot {slot} is negative")
    labels = _labels(app)
    return _joined(app, (f"{labels[0]}-{slot}", *labels, zone))


def check_name(name: str) -> str:
    """`name` itself if it is a legal host name in our spelling; otherwise `Refused` with the reason."""
    if len(name) > _LONGEST:
        raise Refused(
            f"name {_short(name)}: {len(name)} characters, at most {_LONGEST} are possible; shorten it"
        )
    for label in name.split("."):
        if not _LABEL.match(label):
            raise Refused(
                f"name {_short(name)}: {_short(label)} is not a DNS label "
                "(1 to 63 of a-z, 0-9 and '-', no '-' at either end)"
            )
    return name


def zone_of(name: str, zones: Iterable[str]) -> str | None:
    """The most specific of `zones` that holds `name`; None if none does."""
    holding = [zone for zone in zones if name == zone or name.endswith("." + zone)]
    return max(holding, key=len, default=None)


def reverse_name(address: str) -> str:
    """Where the PTR of an IPv4 or IPv6 address stands; `Refused` if it is no address."""
    return _address(address).reverse_pointer


def address_type(address: str) -> str:
    """The record type that carries the address: "A" or "AAAA"; `Refused` if it is no address."""
    return "A" if _address(address).version == 4 else "AAAA"


def canonical_address(address: str) -> str:
    """The one spelling of an address that servers answer with; `Refused` if it is no address."""
    return str(_address(address))


def canonical_zone(zone: str) -> str:
    """A configured zone in our spelling; `Refused` if it cannot be a zone."""
    spelled = zone.strip().lower().removesuffix(".")
    for label in spelled.split("."):
        if not re.fullmatch(r"[a-z0-9_/-]{1,63}", label):  # reverse zones may hold '/' (RFC 2317)
            raise Refused(f"zone {_short(zone)}: {_short(label)} is not a DNS label")
    return spelled


def _labels(app: AppId) -> Sequence[str]:
    labels = app.strip("/").split("/")[::-1]
    for label in labels:
        if not _LABEL.match(label):
            raise Refused(
                f"app {_short(app)}: no name for it: {_short(label)} is not a DNS label (1 to 63 of a-z, 0-9 "
                "and '-', no '-' at either end); rename that part of the app's path"
            )
    return labels


def _joined(app: AppId, parts: Sequence[str]) -> str:
    try:
        return check_name(".".join(parts))
    except Refused as error:
        raise Refused(f"app {_short(app)}: no name for it: {error}") from error


def _address(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError as error:
        raise Refused(f"{_short(address)} is not an IP address") from error
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.scope_id is not None:
        raise Refused(f"{_short(address)} has a scope and means nothing on another host")
    return parsed


def _short(text: str) -> str:
    """Hostile text, quoted and cut for a message."""
    return repr(text) if len(text) <= 80 else repr(text[:77]) + "..."
