"""The table `[fabric]`: how the bridges of the hosts reach one another, and what that costs each packet.

    flat     the bridge has a physical uplink, and the network behind it carries the pools' VLANs
    vxlan    a tunnel from each host to every other; whatever lies between sees one UDP port

A packet in a tunnel is larger by its headers: Ethernet inside with its VLAN tag (18), VXLAN (8), UDP (8) and
IP outside (20 or 40).  So pools have a largest MTU there, which is also their default.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mooring.core.errors import ConfigRefused
from mooring.core.model import PoolSpec

_OVERHEAD = {"ipv4": 54, "ipv6": 74}
VARIABLE = "mooring_tunnel_address"


class FabricSettings(BaseModel):
    """How the bridges of the hosts reach one another."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["flat", "vxlan"] = Field(
        "flat",
        description="`flat`: each bridge has a physical uplink that carries the VLANs of the pools; `vxlan`: "
        "a tunnel from each host to every other.",
    )
    vni: int = Field(
        4096,
        ge=1,
        le=(1 << 24) - 1,
        description="VXLAN network identifier, one for each Mooring; VLAN tags travel inside.",
    )
    port: int = Field(4789, ge=1, le=65535, description="UDP port of the tunnels.")
    underlay: Literal["ipv4", "ipv6"] = Field("ipv4", description="Family of the tunnel addresses.")
    underlay_mtu: int = Field(
        1500,
        ge=1280,
        le=65535,
        description="MTU of the network between the hosts. In tunnels, pools have 54 less (74 over IPv6) as "
        "default and at most.",
    )
    addresses: dict[str, str] = Field(
        default_factory=dict,
        description=f"Host name = its tunnel address, where the inventory does not give it as `{VARIABLE}`.",
    )

    @model_validator(mode="after")
    def _addresses_fit(self) -> FabricSettings:
        if faults := self._faults(self.addresses, "addresses"):
            raise ValueError("; ".join(faults))
        return self

    @property
    def container_mtu(self) -> int | None:
        """The default and the largest MTU of a pool; None where the fabric does not limit it."""
        return None if self.mode == "flat" else self.underlay_mtu - _OVERHEAD[self.underlay]

    def refusal(self, what: str, mtu: int | None) -> str:
        """Why something cannot have that MTU; "" if it can."""
        limit = self.container_mtu
        if mtu is None or limit is None or mtu <= limit:
            return ""
        needed = mtu + _OVERHEAD[self.underlay]
        return (
            f"{what}: mtu {mtu} does not fit into the tunnels: set at most {limit}, or, if the network "
            f"between the hosts carries it, fabric.underlay_mtu to {needed}"
        )

    def check_pool(self, pool: PoolSpec) -> None:
        """Raises `ConfigRefused` for a pool that the fabric cannot carry."""
        if fault := self.refusal(f"pool {pool.name}", pool.mtu):
            raise ConfigRefused([fault])

    def tunnel_addresses(self, hosts: list[str], variables: Mapping[str, str]) -> dict[str, str]:
        """The tunnel address of each host, from the table first and then from the inventory; {} if flat.

        Raises `ConfigRefused` with a line for each host that has none, or one that cannot be.
        """
        if self.mode == "flat":
            return {}
        found = {host: found for host in hosts if (found := self.addresses.get(host) or variables.get(host))}
        faults = [
            f"fabric: host {host} has no tunnel address: give it under [fabric.addresses], or as {VARIABLE} "
            "in the inventory"
            for host in hosts
            if host not in found
        ]
        faults += [
            f"fabric.addresses: host {host} is not in the inventory: add it there, or take it out here"
            for host in sorted(self.addresses.keys() - set(hosts))
        ]
        faults += self._faults(found, "fabric: tunnel address of")
        if faults:
            raise ConfigRefused(faults)
        return {host: str(ip_address(address)) for host, address in found.items()}

    def _faults(self, addresses: Mapping[str, str], where: str) -> list[str]:
        faults: list[str] = []
        holders: dict[object, str] = {}
        for host, text in addresses.items():
            try:
                address = ip_address(text)
            except ValueError:
                faults.append(f"{where} {host}: {text!r} is not an IP address")
                continue
            if f"ipv{address.version}" != self.underlay:
                faults.append(f"{where} {host}: {text} is not of the family that `underlay` names")
            if (other := holders.setdefault(address, host)) != host:
                faults.append(f"{where} {host}: {text} is that of {other} too; give each host its own")
        return faults
