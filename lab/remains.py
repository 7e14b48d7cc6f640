"""What is left: the traces of addresses on switches, in names, balancers, CMDB and leases.

Each question returns its answer and the problem that is left ("" when there is none), for
`proofs.eventually`.
"""

from __future__ import annotations

from mooring.lab import background
from mooring.lab.handle import LabHandle
from mooring.lab.plan import VLANS, ZONE
from mooring.lab.proofs import server_states

_GIVEN_BACK = {"cooling", "free"}


async def holders(handle: LabHandle, address: str) -> list[str]:
    """The hosts whose switch has a port marked with the address."""
    return [
        agent.hostname
        for agent in handle.plan.agents
        if address in await marked_addresses(handle, agent.hostname)
    ]


async def marked_addresses(handle: LabHandle, agent: str) -> list[str]:
    """The addresses of all container ports on one switch, with repetitions."""
    ports = await handle.ovs_ports(agent)
    return [address for port in ports if (address := _address(port.get("external_ids") or {}))]


async def ports_gone(handle: LabHandle, agent: str, addresses: set[str]) -> tuple[None, str]:
    left = addresses & set(await marked_addresses(handle, agent))
    return None, f"{agent} still has ports with {sorted(left)}" if left else ""


async def nothing_left(handle: LabHandle) -> tuple[list[str], str]:
    """One line for each kind of trace, and what is still there."""
    found = {
        "switch ports": [
            f"{agent.hostname} {address}"
            for agent in handle.plan.agents
            for address in await marked_addresses(handle, agent.hostname)
        ],
        "DNS records": await zone_records(handle),
        "HAProxy servers in rotation": [
            address for address, state in (await server_states(handle)).items() if state in ("UP", "DRAIN")
        ],
        "Nginx upstream servers": nginx_addresses(handle),
        "live CMDB items": [
            key for key, item in (await handle.cmdb_items()).items() if item.get("status") in ("live", "down")
        ],
        "leases neither cooling nor free": [
            f"{lease['address']} {lease['state']}"
            for lease in await background.leases(handle.plan)
            if lease["state"] not in _GIVEN_BACK
        ],
    }
    lines = [f"{kind}: {len(left) or 'none'}" for kind, left in found.items()]
    problem = "; ".join(f"{kind}: {left}" for kind, left in found.items() if left)
    return lines, problem


async def zone_records(handle: LabHandle) -> list[str]:
    """Every address, pointer or ownership record in the zone, asked of BIND by a zone transfer."""
    told = await handle.transfer(ZONE)
    return [line for line in told if line.split()[3] in ("A", "AAAA", "TXT", "PTR") and not _own(line)]


def _own(line: str) -> bool:
    """Records of the name server itself and our epoch, not of any container."""
    name = line.split()[0]
    return "_mooring-epoch" in name or name.split(".")[0] in ("ns", "ns1", ZONE.split(".")[0])


def nginx_addresses(handle: LabHandle) -> list[str]:
    """Addresses of container networks in the configuration that Nginx runs."""
    text = "".join(path.read_text() for path in (handle.plan.nginx_dir / "current").rglob("*.conf"))
    words = {word.split(":")[0] for word in text.replace(";", " ").split()}
    prefixes = tuple(str(vlan.network.network_address).rsplit(".", 2)[0] + "." for vlan in VLANS)
    return sorted(word for word in words if word.startswith(prefixes))


def _address(marks: dict[str, str]) -> str:
    return next((value for key, value in marks.items() if key.endswith("address")), "")
