"""From what HAProxy shows to what the table says: the runtime commands in between.

Pure, so that every case can be read and tested without a process:

    the table says   HAProxy shows          commands
    a member         no such server         add server, enable health, then its state
    a member         another state          set server state ready | drain | maint
    a member         another address        set server addr ... port (somebody's hand), then its state
    nothing          a server that serves   set server state maint
    nothing          in maintenance, unused del server
    nothing          in maintenance, in use left alone; the next flight or reload collects it

What comes up comes first, so that a replacement within one batch never leaves a service empty.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mooring.lb.haproxy_render import HaproxySettings, server_arguments
from mooring.lb.haproxy_runtime import Server, ServerKey
from mooring.lb.model import Member, Table, canonical

_WORD = {"up": "ready", "drain": "drain", "declared": "maint"}


def members(table: Table) -> dict[ServerKey, Member]:
    """Every member of the table by backend and server name."""
    return {(service.name, member.name): member for service in table.services for member in service.members}


def shows(member: Member | None, server: Server | None) -> bool:
    """Whether the server is what the member asks for; no member is asked for by maintenance or absence."""
    if member is None:
        return server is None or server.state == "declared"
    return server is not None and server.state == member.state and _at_its_place(member, server)


def differences(
    wanted: Mapping[ServerKey, Member], servers: Mapping[ServerKey, Server]
) -> dict[ServerKey, str]:
    """Every server that is not what it shall be, with what it is instead."""
    keys = wanted.keys() | servers.keys()
    return {
        key: servers[key].state if key in servers else "absent"
        for key in keys
        if not shows(wanted.get(key), servers.get(key))
    }


def commands(
    wanted: Mapping[ServerKey, Member],
    servers: Mapping[ServerKey, Server],
    backends: Collection[str],
    settings: HaproxySettings,
) -> list[str]:
    """What brings the servers of the running backends to what the table says, except deletions."""
    up: list[str] = []
    down: list[str] = []
    for key in sorted(differences(wanted, servers)):
        path, member, server = "/".join(key), wanted.get(key), servers.get(key)
        if member is None:
            down.append(f"set server {path} state maint")
        elif key[0] in backends:
            steps = up if member.state == "up" else down
            steps.extend(_prepare(path, member, server, settings))
            steps.append(f"set server {path} state {_WORD[member.state]}")
    return up + down


def deletions(leftovers: Collection[ServerKey], unused: Collection[ServerKey]) -> list[str]:
    """Deletions of servers in maintenance that nobody wants and no connection needs."""
    return [f"del server {'/'.join(key)}" for key in sorted(leftovers) if key in unused]


def _prepare(path: str, member: Member, server: Server | None, settings: HaproxySettings) -> list[str]:
    if server is None:
        return [
            f"add server {path} {server_arguments(member, settings)}",
            f"enable health {path}",
        ]
    if not _at_its_place(member, server):
        return [f"set server {path} addr {member.address} port {member.port}"]
    return []


def _at_its_place(member: Member, server: Server) -> bool:
    try:
        return (canonical(server.address), server.port) == (member.address, member.port)
    except ValueError:  # somebody gave it a socket path or a name
        return False
