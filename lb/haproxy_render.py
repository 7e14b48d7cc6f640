"""The whole haproxy.cfg from one table.

Two parts of it change for different reasons.  The *structure* (frontends, backends, their options) can
only be changed by a reload; its hash stands in the global `description`, where the running process
shows it by `show info`, so that anybody can tell which structure is live.  The *server lines* can be
changed at run time as well, hence they do not count for that hash.  Every member known has a line,
`disabled` unless it shall take traffic: after a restart nothing serves that should not, and enabling a
member needs no reload.

Routing by host name is a chain of `use_backend` rules inside the file rather than a map beside it:
one file can be checked, replaced and rolled back as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mooring.core.model import Epoch
from mooring.lb.files import digest, stamped
from mooring.lb.model import Member, Service, Table

_BALANCE = {
    "roundrobin": ("balance roundrobin",),
    "leastconn": ("balance leastconn",),
    "random": ("balance random",),
    "first": ("balance first",),
    # HAProxy adds servers at run time to consistent hashes only.
    "source": ("balance source", "hash-type consistent"),
    "uri": ("balance uri", "hash-type consistent"),
}


@dataclass(frozen=True, slots=True)
class HaproxySettings:
    """Where HAProxy is and what it shall look like. Paths must not contain blanks or quotes."""

    config: Path  # the file HAProxy was started with; owned by us
    runtime_socket: Path  # `stats socket` of the worker, level admin
    master_socket: Path  # the -S argument of the master
    binary: str = "haproxy"  # used for `haproxy -c`
    http_bind: str = "*:80"  # the one frontend that routes by host name
    service_bind: str = "*"  # address on which services with a port of their own listen
    stats_bind: str | None = None  # where the statistics page and Prometheus metrics are served
    socket_access: str = "mode 600"  # options of the runtime socket, such as "mode 660 group mooring"
    owner: str = "mooring"
    adopt: bool = False  # replace a file that does not carry our mark
    hard_stop_after: str = "60s"  # how long an old worker may go on with its sessions
    server_options: str = "check inter 2s fall 3 rise 2 pool-purge-delay 5s pool-max-conn -1"
    extra_global: tuple[str, ...] = ()  # lines of the operator's own
    extra_defaults: tuple[str, ...] = ()
    command_timeout_s: float = 5.0  # one answer on a socket
    check_timeout_s: float = 30.0  # one `haproxy -c`
    reload_timeout_s: float = 20.0  # until the new worker answers

    def reserved(self) -> dict[int, str]:
        """Ports of HAProxy's own, which no service may have."""
        binds = {self.http_bind: "the http frontend", self.stats_bind: "the statistics page"}
        return {bind_port(bind): purpose for bind, purpose in binds.items() if bind is not None}


@dataclass(frozen=True, slots=True)
class Rendering:
    """A configuration, and the name of its structure as `show info` tells it."""

    text: str
    structure: str


def bind_port(bind: str) -> int:
    """The port in `address:port`; raises `ValueError` if there is none."""
    return int(bind.rpartition(":")[2])


def render(table: Table, settings: HaproxySettings, epoch: Epoch) -> Rendering:
    """The configuration that serves this table; the same table always gives the same text."""
    structure = digest("\n".join(_body(table, settings, "", with_servers=False)))
    body = "\n".join(_body(table, settings, structure, with_servers=True)) + "\n"
    return Rendering(stamped(body, settings.owner, epoch, table.claims()), structure)


def server_arguments(member: Member, settings: HaproxySettings) -> str:
    """Address and options of a member, for a `server` line and for `add server` alike."""
    return f"{member.target} {settings.server_options}"


def _body(table: Table, settings: HaproxySettings, structure: str, *, with_servers: bool) -> Iterator[str]:
    yield from _global(settings, structure)
    yield from _defaults(settings)
    yield from _http_frontend(table, settings)
    if settings.stats_bind is not None:
        yield from _stats_frontend(settings.stats_bind)
    for service in table.services:
        yield from _service(service, settings, with_servers)


def _global(settings: HaproxySettings, structure: str) -> Iterator[str]:
    yield "global"
    yield "    master-worker"
    yield f"    description mooring owner={settings.owner} structure={structure}"
    access = f"{settings.socket_access} level admin expose-fd listeners"
    yield f"    stats socket {settings.runtime_socket} {access}"
    yield f"    hard-stop-after {settings.hard_stop_after}"
    yield from (f"    {line}" for line in settings.extra_global)


def _defaults(settings: HaproxySettings) -> Iterator[str]:
    yield "defaults"
    yield "    timeout connect 5s"
    yield "    timeout client 60s"
    yield "    timeout server 60s"
    yield "    timeout http-request 15s"
    yield "    timeout queue 15s"
    yield "    retries 3"
    yield "    option redispatch"
    yield from (f"    {line}" for line in settings.extra_defaults)


def _http_frontend(table: Table, settings: HaproxySettings) -> Iterator[str]:
    # A colon cannot occur in a service's name, so our own proxies never clash with one.
    yield "frontend in:http"
    yield "    mode http"
    yield f"    bind {settings.http_bind}"
    yield "    option forwardfor"
    yield "    http-request set-var(txn.host) req.hdr(host),field(1,:),lower"
    for service in table.services:
        for vhost in service.vhosts:
            yield f"    use_backend {service.name} if {{ var(txn.host) -m str {vhost} }}"


def _stats_frontend(bind: str) -> Iterator[str]:
    yield "frontend in:stats"
    yield "    mode http"
    yield f"    bind {bind}"
    yield "    http-request use-service prometheus-exporter if { path /metrics }"
    yield "    stats enable"
    yield "    stats uri /"


def _service(service: Service, settings: HaproxySettings, with_servers: bool) -> Iterator[str]:
    if service.port is not None:
        yield f"frontend in:{service.name}"
        yield f"    mode {service.terms.mode}"
        yield f"    bind {settings.service_bind}:{service.port}"
        if service.terms.mode == "http":
            yield "    option forwardfor"
        yield f"    default_backend {service.name}"
    yield f"backend {service.name}"
    yield f"    mode {service.terms.mode}"
    yield from (f"    {line}" for line in _BALANCE[service.terms.balance])
    if with_servers:
        for member in service.members:
            disabled = "" if member.state == "up" else " disabled"
            yield f"    server {member.name} {server_arguments(member, settings)}{disabled}"
