"""Doors: ports on the root namespace's loopback that lead into the lab's namespaces.

    python -m mooring.lab.doors PORT=NAMESPACE=ADDRESS=PORT ...

A door listens on 127.0.0.1 out here, and for every connection makes a second one from inside the
namespace, then carries bytes both ways, half-closing each side as the other ends.  Agents' sshd are
reached from the edge over the management network, so a host whose cables are cut is as unreachable
through its door as it would be in a real data centre.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from mooring.lab.namespaces import NamespaceSockets
from mooring.lab.plan import LabPlan
from mooring.lab.supervise import Part

_CHUNK = 65536


@dataclass(frozen=True, slots=True)
class Door:
    """One way in: a port here, an address and port there."""

    port: int
    namespace: str
    address: str
    target: int

    def __str__(self) -> str:
        return f"{self.port}={self.namespace}={self.address}={self.target}"

    @classmethod
    def parse(cls, text: str) -> Door:
        """The inverse of `str`; `ValueError` on anything else."""
        port, namespace, address, target = text.split("=")
        return cls(int(port), namespace, address, int(target))


def doors_of(plan: LabPlan) -> list[Door]:
    """Every door of the lab."""
    edge = [
        Door(plan.port_base, plan.edge, "127.0.0.1", plan.marathon_port),
        Door(plan.haproxy_door, plan.edge, "127.0.0.1", plan.haproxy_port),
        Door(plan.nginx_door, plan.edge, "127.0.0.1", plan.nginx_port),
    ]
    return edge + [Door(agent.ssh_port, plan.edge, str(agent.address), 22) for agent in plan.agents]


def part(plan: LabPlan) -> Part:
    """The process that keeps all doors of the lab; needs the namespaces."""
    doors = doors_of(plan)

    async def ready() -> None:
        for door in doors:
            _, writer = await asyncio.open_connection("127.0.0.1", door.port)
            writer.transport.abort()

    argv = [sys.executable, "-m", "mooring.lab.doors", *map(str, doors)]
    ports = f"127.0.0.1:{doors[0].port}-{doors[-1].port}"
    return Part("doors", argv, ready, where=ports)


async def keep(doors: Sequence[Door]) -> None:
    """Listen on every door until cancelled."""
    sockets = {door.namespace: NamespaceSockets(door.namespace) for door in doors}
    servers = [await _open(door, sockets[door.namespace]) for door in doors]
    await asyncio.gather(*(server.serve_forever() for server in servers))


async def _open(door: Door, sockets: NamespaceSockets) -> asyncio.Server:
    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await sockets.connect((door.address, door.target))
            far_reader, far_writer = await asyncio.open_connection(sock=there, limit=_CHUNK)
        except OSError as error:
            print(f"door {door}: {error}", flush=True)
            writer.transport.abort()  # a reset, as near to "refused" as a door can say it
            return
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            far_writer.close()
            writer.close()

    return await asyncio.start_server(carry, "127.0.0.1", door.port, limit=_CHUNK, backlog=1024)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry one direction to its end, then tell the other side that no more will come."""
    try:
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()  # passes a reset on as a reset


if __name__ == "__main__":
    asyncio.run(keep([Door.parse(text) for text in sys.argv[1:]]))
