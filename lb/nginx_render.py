"""The whole nginx.conf from one table.

Open-source Nginx cannot be told anything at run time, so the file holds only members that take traffic:
declared and draining ones are left out.  An upstream without servers is a syntax error for Nginx, so a
service with nobody up is a server block that answers 503.

TCP services are left out: they need the stream module, which is a separate package and may be missing.

The hash of the file is its *marker*.  Workers tell theirs on a status socket, which is how a reload is
proved: Nginx itself never says whether one worked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mooring.core.model import Epoch
from mooring.core.specs import ServiceSpec
from mooring.lb.files import digest, stamped
from mooring.lb.model import Service, Table

_BALANCE = {
    "roundrobin": "",
    "first": "",  # no such method here
    "leastconn": "least_conn;",
    "random": "random;",
    "source": "hash $remote_addr consistent;",
    "uri": "hash $request_uri consistent;",
}
MARKER_PATH = "/mooring-generation"


@dataclass(frozen=True, slots=True)
class NginxSettings:
    """Where Nginx is and what it shall look like. Paths must not contain blanks or quotes.

    Nginx must be started with `-c <root>/current/nginx.conf`; `current` must be a symlink.
    """

    root: Path  # holds `generations/` and the symlink `current`; owned by us
    pid_file: Path
    status_socket: Path  # a unix socket on which the workers tell their marker
    binary: str = "nginx"  # used for `nginx -t`
    http_listen: str = "*:8080"  # where requests are routed by host name
    service_listen: str = "*"  # address on which http services without host names listen
    owner: str = "mooring"
    adopt: bool = False  # replace a configuration that does not carry our mark
    workers: str = "auto"
    worker_shutdown_timeout: str = "60s"  # how long an old worker may go on with its connections
    extra_main: tuple[str, ...] = ()  # lines of the operator's own, each with its semicolon
    extra_http: tuple[str, ...] = ()
    check_timeout_s: float = 30.0  # one `nginx -t`
    reload_timeout_s: float = 15.0  # until only new workers accept requests
    reload_gap_s: float = 0.2  # between two reloads, so that old workers do not pile up
    status_timeout_s: float = 5.0  # one answer on the status socket

    def reserved(self) -> dict[int, str]:
        """Ports of Nginx's own, which no service may have."""
        return {int(self.http_listen.rpartition(":")[2]): "the http listener"}


@dataclass(frozen=True, slots=True)
class Rendering:
    """A configuration, and the marker that its workers tell."""

    text: str
    marker: str


def serves(terms: ServiceSpec) -> bool:
    """Whether Nginx serves this kind of service at all."""
    return terms.mode == "http"


def render(table: Table, settings: NginxSettings, epoch: Epoch) -> Rendering:
    """The configuration that serves this table; the same table always gives the same text."""
    marker = digest("\n".join(_body(table, settings, "")))
    body = "\n".join(_body(table, settings, marker)) + "\n"
    return Rendering(stamped(body, settings.owner, epoch, table.claims()), marker)


def _body(table: Table, settings: NginxSettings, marker: str) -> Iterator[str]:
    yield f"pid {settings.pid_file};"
    yield f"worker_processes {settings.workers};"
    yield f"worker_shutdown_timeout {settings.worker_shutdown_timeout};"
    yield f"error_log {settings.root}/error.log;"
    yield from settings.extra_main
    yield "events { worker_connections 4096; }"
    yield "http {"
    yield from (f"    {line}" for line in _http(table, settings, marker))
    yield "}"


def _http(table: Table, settings: NginxSettings, marker: str) -> Iterator[str]:
    yield "access_log off;"
    yield "server_tokens off;"
    yield "default_type text/plain;"
    # Host names of 253 characters must fit, and thousands of them.
    yield "server_names_hash_bucket_size 512;"
    yield "server_names_hash_max_size 16384;"
    for kind in ("client_body", "proxy"):
        yield f"{kind}_temp_path {settings.root}/temp/{kind};"
    yield "proxy_http_version 1.1;"
    yield 'proxy_set_header Connection "";'
    yield "proxy_set_header Host $http_host;"
    yield "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
    yield from settings.extra_http
    yield "server {"
    yield f"    listen unix:{settings.status_socket};"
    yield f'    location = {MARKER_PATH} {{ return 200 "{marker}\\n"; }}'
    yield "    location / { return 404; }"
    yield "}"
    yield f"server {{ listen {settings.http_listen} default_server; server_name _; return 503; }}"
    for service in table.services:
        yield from _service(service, settings)


def _service(service: Service, settings: NginxSettings) -> Iterator[str]:
    up = [member for member in service.members if member.state == "up"]
    if up:
        yield f"upstream {service.name} {{"
        if _BALANCE[service.terms.balance]:
            yield f"    {_BALANCE[service.terms.balance]}"
        yield from (f"    server {member.target};" for member in up)
        yield "}"
    yield "server {"
    if service.port is None:
        yield f"    listen {settings.http_listen};"
        yield f"    server_name {' '.join(service.vhosts)};"
    else:
        yield f"    listen {settings.service_listen}:{service.port};"
    yield f"    location / {{ proxy_pass http://{service.name}; }}" if up else "    return 503;"
    yield "}"
