"""Gateways: this host is the router of the pools that name it.

    1. a port      of the switch itself ("internal"), in the pool's VLAN, with a MAC derived from the address
    2. the device  quiet but for its own address; then, if nobody answers on it, the address, then up: the
                   kernel announces it
    3. forwarding  of the family, remembered if it was off (see `routing`)
    4. NAT         only for pools that want it: masquerade of what leaves the pool for anywhere but another
                   gateway of ours, in a table of our own
    5. announce    once more a second later, because one lone frame is at times lost

The caller tells all gateways of the host; one that is not named goes, and with the port its device and its
address.  Everything is read first and only what differs is changed.  A pool that wants NAT gets no gateway
where NAT is impossible: its containers' addresses would leak instead.

After a reboot the switch makes its devices anew, without addresses.  What a gateway is stands in the marks of
its port, so `restore` brings it back from the switch's database alone.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .announce import Announcement, announce_later
from .asking import who_has
from .errors import Refused, Retry
from .fixtures import Fixture, Kind, Wanted, read_fixtures, settle
from .host import FAILURES, Host, Result
from .links import mac_for
from .namespaces import NetworkNamespace
from .netlink import Address, Link
from .orders import Gateway, GatewayOf
from .routing import Routing, has_nft

KIND = Kind("gateway", "mg", ("tag",), ("type", "mac", "mtu_request"))
_NONE = ["set", []]


def gateway(host: Host, order: Gateway) -> Result:
    """Make this host the gateway of exactly the pools asked for."""
    check = order.check or host.settings.check
    able = [one for one in order.gateways if not one.nat or has_nft()]
    plan, present = settle(host, KIND, [_wanted(one) for one in able], check=check)
    # What comes now is in no transaction: a call that was overtaken since its own must not go on.
    host.switch().check_epoch(host.settings.epoch, host.settings.sequence)
    changed = _route(host, able, present, check=check)
    mended, troubles = _configure(host, able, present, check=check)
    told = plan.told()
    told["mended"] += [f"{pool}: {left}" for pool, left in mended.items() if pool not in told["added"]]
    told["mended"] += changed
    details = {**told, "gateways": _describe(able, present)}
    if troubles:
        raise Retry("; ".join(troubles))
    if len(able) < len(order.gateways):
        pools = ", ".join(one.pool for one in order.gateways if one not in able)
        raise Refused(
            f"no gateway for pool {pools}: NAT is wanted and this host has no program nft; install nftables, "
            "or take gateway_nat out"
        )
    return Result(order.id, "done", changed=not plan.idle or bool(mended or changed), details=details)


def restore(host: Host) -> bool:
    """Give the gateways that are on the bridge what a restart took; whether anything was missing."""
    present = read_fixtures(host, host.switch(), KIND)
    able = [_as_marked(fixture) for fixture in present]
    changed = _route(host, able, present, check=False) if able else []
    mended, troubles = _configure(host, able, present, check=False)
    if troubles:
        raise Retry("; ".join(troubles))
    return bool(mended or changed)


def _route(host: Host, able: Sequence[GatewayOf], present: Sequence[Fixture], *, check: bool) -> list[str]:
    """Steps 3 and 4, before anything is sent to the gateway; returns what differed."""
    versions = {one.address.version for one in able}
    networks = [_network(one) for one in able if one.nat]
    devices = [fixture.port.name for fixture in present]
    return Routing(host.settings, devices).settle(versions, networks, check=check)


def _wanted(one: GatewayOf) -> Wanted:
    return Wanted(
        key=one.pool,
        port={"tag": _NONE if one.vlan is None else one.vlan},
        device={"type": "internal", "mac": mac_for(one.address), "mtu_request": one.mtu or _NONE},
        marks={"router": str(one.address), "prefix": str(one.prefix), "nat": str(int(one.nat))},
    )


def _as_marked(fixture: Fixture) -> GatewayOf:
    """The gateway that a port was made for."""
    marks, mtu = fixture.port.marks, fixture.columns["mtu_request"]
    return GatewayOf(
        pool=fixture.key,
        address=ipaddress.ip_address(marks["router"]),
        prefix=int(marks["prefix"]),
        vlan=fixture.port.tag,
        mtu=mtu if isinstance(mtu, int) else None,
        nat=marks["nat"] == "1",
    )


def _network(one: GatewayOf) -> str:
    return str(ipaddress.ip_network((one.address, one.prefix), strict=False))


def _describe(able: Sequence[GatewayOf], present: Sequence[Fixture]) -> list[dict[str, object]]:
    ports = {fixture.key: fixture.port.name for fixture in present}
    return [
        {"pool": one.pool, "port": ports.get(one.pool), "address": str(one.address), "nat": one.nat}
        for one in able
    ]


def _configure(
    host: Host, able: Sequence[GatewayOf], present: Sequence[Fixture], *, check: bool
) -> tuple[dict[str, str], list[str]]:
    """Steps 2 and 5; returns in what the device of each pool differed, and what could not be mended."""
    names = {fixture.key: fixture.port.name for fixture in present}
    links = host.devices()
    differing: dict[str, str] = {}
    mended: list[tuple[GatewayOf, Link]] = []
    troubles: list[str] = []
    for one in able:
        link = links.get(names.get(one.pool, ""))
        if link is None:
            troubles += [] if check else [f"the switch did not make the device for pool {one.pool}"]
        elif left := _differences(host, one, link):
            differing[one.pool] = ", ".join(left)
            if not check:
                troubles += _mended(host, one, link, mended)
    _announce(mended)
    return differing, troubles


def _mended(host: Host, one: GatewayOf, link: Link, mended: list[tuple[GatewayOf, Link]]) -> list[str]:
    """Mend one gateway; a trouble with it is told, and must not keep the others from being mended."""
    try:
        _mend(host, one, link)
    except FAILURES as error:
        return [str(error)]
    mended.append((one, link))
    return []


@dataclass(frozen=True)
class _Switch:
    """A setting of the kernel for one device."""

    version: int
    name: str
    value: str


# A gateway answers for its own address only, and is no IPv6 host in a pool of IPv4.
_QUIET = {
    4: (_Switch(4, "arp_ignore", "1"), _Switch(4, "arp_notify", "1"), _Switch(6, "disable_ipv6", "1")),
    6: (_Switch(6, "accept_ra", "0"), _Switch(6, "disable_ipv6", "0"), _Switch(6, "ndisc_notify", "1")),
}


def _differences(host: Host, one: GatewayOf, link: Link) -> list[str]:
    held = set(host.netlink.addresses(link.index))
    checks = {
        "settings": all(
            _read(link.name, setting) in (setting.value, "") for setting in _QUIET[one.address.version]
        ),
        "address": (one.address, one.prefix) in held and not _others(one, held),
        "link": link.up,
    }
    return [name for name, holds in checks.items() if not holds]


def _others(one: GatewayOf, held: set[tuple[Address, int]]) -> set[tuple[Address, int]]:
    """Addresses that do not belong on the device; the kernel's own of IPv6 do."""
    return {pair for pair in held if pair != (one.address, one.prefix) and not pair[0].is_link_local}


def _mend(host: Host, one: GatewayOf, link: Link) -> None:
    for setting in _QUIET[one.address.version]:
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            _path(link.name, setting).write_text(setting.value, encoding="ascii")
    held = set(host.netlink.addresses(link.index))
    if (one.address, one.prefix) not in held and (macs := who_has(host, link, one.address)):
        raise Retry(
            f"no gateway for pool {one.pool} yet: {', '.join(macs)} answers on {one.address}; if that is no "
            "host of ours that is about to let go, take the address from it or give the pool another gateway"
        )
    for address, prefix in _others(one, held):
        host.netlink.delete_address(link.index, address, prefix)
    host.netlink.set_address(link.index, one.address, one.prefix)
    host.netlink.set_link(link.name, up=True)
    found = host.devices().get(link.name)
    left = _differences(host, one, found) if found is not None else ["everything: the device vanished"]
    if left:
        raise Retry(
            f"the gateway of pool {one.pool} still differs after it was configured: {', '.join(left)}"
        )


def _announce(made: Sequence[tuple[GatewayOf, Link]]) -> None:
    if not made:
        return
    home = NetworkNamespace("/proc/thread-self/ns/net")
    try:
        with contextlib.suppress(*FAILURES):
            announce_later([_announcement(home, one, link) for one, link in made])
    finally:
        home.close()


def _announcement(home: NetworkNamespace, one: GatewayOf, link: Link) -> Announcement:
    return Announcement(home.descriptor, link.name, mac_for(one.address), one.address)


def _path(device: str, setting: _Switch) -> Path:
    return Path(f"/proc/sys/net/ipv{setting.version}/conf/{device}/{setting.name}")


def _read(device: str, setting: _Switch) -> str:
    with contextlib.suppress(FileNotFoundError):
        return _path(device, setting).read_text(encoding="ascii").strip()
    return ""
