"""The configured sinks, built from the settings: the list of what this daemon keeps in step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import aiohttp
import structlog

from mooring.cmdb.ledger import Ledger
from mooring.cmdb.webhook import Webhook
from mooring.controller.settings import DnsSettings, HaproxySettings, NginxSettings, Settings
from mooring.core.clock import Clock
from mooring.core.errors import Retryable
from mooring.core.model import Epoch
from mooring.core.sink import Sink
from mooring.core.store import NO_EPOCH, Store
from mooring.dns.rfc2136 import Rfc2136Server
from mooring.dns.sinks import SeatNames, SharedNames
from mooring.handlers.hosts import FilesSink, Hosts, NetworkSink, ProbeSink
from mooring.lb import haproxy_render, nginx_render
from mooring.lb.haproxy import HaproxySink
from mooring.lb.nginx import NginxSink

log = structlog.get_logger(__name__)


def host_sinks(hosts: Hosts, inventory: Sequence[str], interface: str) -> list[Sink]:
    """What lives on the agents."""
    return [
        NetworkSink(hosts, inventory, interface),
        ProbeSink(hosts, inventory),
        FilesSink(hosts, inventory),
    ]


def edge_sinks(settings: Settings, store: Store, session: aiohttp.ClientSession, clock: Clock) -> list[Sink]:
    """Names, balancers and inventories, as far as they are configured."""
    sinks: list[Sink] = [Ledger(store, clock)]
    if settings.dns is not None:
        sinks += _names(settings.dns, settings.owner)
    if settings.haproxy is not None:
        sinks.append(HaproxySink(_haproxy(settings.haproxy, settings.owner), clock))
    if settings.nginx is not None:
        sinks.append(NginxSink(_nginx(settings.nginx, settings.owner), clock))
    if settings.webhook is not None:
        secret = read_secret(settings.webhook.secret_file)
        url, timeout_s = settings.webhook.url, settings.webhook.timeout_s
        sinks.append(
            Webhook(session, url, secret=secret, owner=settings.owner, clock=clock, timeout_s=timeout_s)
        )
    return sinks


def _names(dns: DnsSettings, owner: str) -> list[Sink]:
    server = Rfc2136Server(
        dns.server,
        dns.port,
        key_name=dns.key_name,
        algorithm=dns.key_algorithm,
        secret=read_secret(dns.secret_file),
        timeout_s=dns.timeout_s,
    )
    return [
        SeatNames(server, zones=[dns.zone], reverse_zones=dns.reverse_zones, owner=owner),
        SharedNames(server, zones=[dns.zone], owner=owner),
    ]


def _haproxy(table: HaproxySettings, owner: str) -> haproxy_render.HaproxySettings:
    return haproxy_render.HaproxySettings(
        config=table.config,
        runtime_socket=table.socket,
        master_socket=table.master_socket,
        binary=table.binary,
        http_bind=table.http_bind,
        service_bind=table.bind_address,
        owner=owner,
        adopt=table.adopt,
    )


def _nginx(table: NginxSettings, owner: str) -> nginx_render.NginxSettings:
    return nginx_render.NginxSettings(
        root=table.root,
        pid_file=table.pid_file,
        status_socket=table.status_socket,
        binary=table.binary,
        http_listen=table.http_bind,
        owner=owner,
        adopt=table.adopt,
    )


async def newest_epoch(sink: Sink) -> Epoch:
    """The highest epoch that the other side remembers; none if it remembers none or is away.

    A name server that is away now will refuse us later if it has seen a higher epoch, which is safe.
    """
    if not isinstance(sink, SeatNames):
        return NO_EPOCH
    try:
        return await sink.newest_epoch()
    except Retryable as error:
        log.warning("epoch unknown", sink=sink.name, reason=str(error))
        return NO_EPOCH


async def fence_names(sinks: Sequence[Sink], epoch: Epoch) -> None:
    """Nobody older can change a name any more. Raises what the name server's refusal means."""
    for sink in sinks:
        if isinstance(sink, SeatNames):
            await sink.fence(epoch)


def read_secret(path: Path) -> str:
    """A secret from its file, without the line break an editor leaves."""
    return path.read_text(encoding="utf-8").strip()
