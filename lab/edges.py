"""The systems around the lab's hosts: BIND, HAProxy, Nginx, Redis, Prometheus and a CMDB.

All are the real servers, run with a configuration and a directory of the lab's own.  HAProxy and
Nginx stand in the edge namespace, where the containers' networks end; the others listen on loopback.

The configurations of HAProxy and Nginx belong to the Mooring daemon.  What is written here is only
what they start with: an empty front end that answers 503, at the paths the daemon will write to.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import sys
from base64 import b64encode
from pathlib import Path

import aiohttp
import jinja2

from mooring.lab.namespaces import NamespaceSockets
from mooring.lab.plan import IMAGE, REVERSE_ZONES, TSIG_ALGORITHM, TSIG_KEY, ZONE, LabError, LabPlan
from mooring.lab.supervise import Part, environment, run

_FILES = Path(__file__).parent / "files"
_NAMED_PROFILE = Path("/etc/apparmor.d/usr.sbin.named")
_DEPLOY = Path(__file__).resolve().parent.parent / "deploy"


def write_configs(plan: LabPlan) -> None:
    """Write what every edge needs at its start, secrets included."""
    _write_bind(plan)
    _write_haproxy(plan)
    _write_nginx(plan)
    _write_prometheus(plan)
    plan.redis_dir.mkdir()
    plan.cmdb_dir.mkdir(mode=0o700)
    _write_secret(plan.cmdb_secret, secrets.token_hex(32))


def parts(plan: LabPlan) -> list[Part]:
    """Every edge's process."""
    return [bind(plan), haproxy(plan), nginx(plan), redis(plan), prometheus(plan), cmdb(plan)]


def _render(template: str, target: Path, **values: object) -> None:
    loader = jinja2.FileSystemLoader(_FILES)
    # The files are configurations in languages of their own: nothing is HTML, so nothing is escaped.
    engine = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701
    target.write_text(engine.get_template(template).render(**values) + "\n")


def _write_secret(path: Path, secret: str) -> None:
    path.touch(mode=0o600)
    path.write_text(f"{secret}\n")


# -- BIND


def _write_bind(plan: LabPlan) -> None:
    plan.bind_dir.mkdir(mode=0o700)
    secret = b64encode(secrets.token_bytes(32)).decode()
    _write_secret(plan.tsig_secret, secret)
    stanza = f'key "{TSIG_KEY}" {{ algorithm {TSIG_ALGORITHM}; secret "{secret}"; }};'
    _write_secret(plan.tsig_key, stanza)
    zones = (ZONE, *REVERSE_ZONES)
    _render("named.conf.j2", plan.bind_dir / "named.conf", plan=plan, key=TSIG_KEY, zones=zones)
    if _NAMED_PROFILE.exists():
        path = environment(plan)["PATH"]
        shutil.copy2(shutil.which("named", path=path) or "/usr/sbin/named", _named(plan))
    for zone in zones:
        _render("zone.j2", plan.bind_dir / f"{zone}.db", zone=zone, apex=ZONE)


def _named(plan: LabPlan) -> str:
    """The program to run: a copy of our own where Debian's AppArmor profile would lock the system's in.

    That profile goes by the program's path and allows only the system's own zones.
    """
    return str(plan.bind_dir / "named") if _NAMED_PROFILE.exists() else "named"


def bind(plan: LabPlan) -> Part:
    """The name server."""

    async def ready() -> None:
        for zone in (ZONE, *REVERSE_ZONES):
            ask = [
                "dig",
                "@127.0.0.1",
                "-p",
                str(plan.dns_port),
                "+time=1",
                "+tries=1",
                "+short",
                zone,
                "SOA",
            ]
            if ZONE not in await run(plan, ask):
                raise LabError(f"zone {zone} has no SOA yet")

    argv = [_named(plan), "-g", "-c", str(plan.bind_dir / "named.conf"), "-n", "1"]
    return Part("bind", argv, ready, where=f"127.0.0.1:{plan.dns_port}")


# -- HAProxy and Nginx


def _write_haproxy(plan: LabPlan) -> None:
    plan.haproxy_dir.mkdir()
    _render("haproxy.cfg.j2", plan.haproxy_dir / "haproxy.cfg", plan=plan)


def haproxy(plan: LabPlan) -> Part:
    """HAProxy as a master with workers, so that a reload hands the listening sockets over."""
    place = plan.haproxy_dir

    async def ready() -> None:
        reader, writer = await asyncio.open_unix_connection(str(place / "runtime.sock"))
        try:
            writer.write(b"show info\n")
            if not (await reader.read(5)).startswith(b"Name"):
                raise LabError("the runtime socket does not answer")
        finally:
            writer.close()
        await _connects(plan, plan.haproxy_port)

    argv = [
        *("haproxy", "-W", "-S", f"{place}/master.sock", "-f", f"{place}/haproxy.cfg"),
        *("-p", f"{place}/haproxy.pid"),
    ]
    return Part("haproxy", argv, ready, where=f"127.0.0.1:{plan.haproxy_door}", namespace=plan.edge)


def _write_nginx(plan: LabPlan) -> None:
    first = plan.nginx_dir / "gen-0"
    first.mkdir(parents=True)
    (plan.nginx_dir / "tmp").mkdir()
    _render("nginx.conf.j2", first / "nginx.conf", plan=plan)
    (plan.nginx_dir / "current").symlink_to("gen-0")


def nginx(plan: LabPlan) -> Part:
    """Nginx, reading whatever generation `current` points to when it gets HUP."""
    place = plan.nginx_dir

    async def ready() -> None:
        connector = aiohttp.UnixConnector(path=str(plan.nginx_status))
        session = aiohttp.ClientSession(connector=connector)
        # Any answer will do: what stands behind which path is the daemon's business later on.
        async with session, session.get("http://status/mooring-generation"):
            pass
        await _connects(plan, plan.nginx_port)

    argv = [
        *("nginx", "-p", str(place), "-e", "stderr", "-c", f"{place}/current/nginx.conf"),
        *("-g", "daemon off;"),
    ]
    return Part("nginx", argv, ready, where=f"127.0.0.1:{plan.nginx_door}", namespace=plan.edge)


async def _connects(plan: LabPlan, port: int) -> None:
    """Raise unless something accepts on that port inside the edge."""
    sockets = NamespaceSockets(plan.edge)
    try:
        (await sockets.connect(("127.0.0.1", port))).close()
    finally:
        sockets.close()


# -- on loopback


def redis(plan: LabPlan) -> Part:
    """Redis, with every write on disk before it is acknowledged."""

    async def ready() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", plan.redis_port)
        try:
            writer.write(b"PING\r\n")
            if not (await reader.readline()).startswith(b"+PONG"):
                raise LabError("no PONG yet")
        finally:
            writer.close()

    argv = [
        *(
            "redis-server",
            "--bind",
            "127.0.0.1",
            "--port",
            str(plan.redis_port),
            "--dir",
            str(plan.redis_dir),
        ),
        *("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--daemonize", "no"),
    ]
    return Part("redis", argv, ready, where=f"127.0.0.1:{plan.redis_port}")


def _write_prometheus(plan: LabPlan) -> None:
    plan.prometheus_dir.mkdir()
    rules = sorted((_DEPLOY / "prometheus").glob("*.yml"))
    _render("prometheus.yml.j2", plan.prometheus_dir / "prometheus.yml", plan=plan, rules=rules)


def prometheus(plan: LabPlan) -> Part:
    """Prometheus, scraping the daemon."""
    listen = f"127.0.0.1:{plan.prometheus_port}"
    argv = [
        *("prometheus", f"--config.file={plan.prometheus_dir}/prometheus.yml"),
        *(f"--storage.tsdb.path={plan.prometheus_dir}/data", f"--web.listen-address={listen}"),
    ]
    return Part("prometheus", argv, lambda: answers(f"http://{listen}/-/ready"), where=listen, deadline_s=30)


def cmdb(plan: LabPlan) -> Part:
    """The webhook receiver that plays a CMDB."""
    argv = [
        *(sys.executable, "-m", "mooring.lab.cmdb_receiver", "--port", str(plan.cmdb_port)),
        *("--secret-file", str(plan.cmdb_secret)),
    ]
    url = f"http://127.0.0.1:{plan.cmdb_port}"
    return Part("cmdb", argv, lambda: answers(f"{url}/health"), where=url)


# -- Marathon, which stands in the edge as well


def write_marathon(plan: LabPlan) -> None:
    """What the lab's Marathon is told: where to listen, which agents there are, which engine they have."""
    agents = [
        {
            "hostname": agent.hostname,
            "address": str(agent.address),
            "slave_id": f"{plan.name}-S{agent.number - 1}",
            "netns": f"/run/netns/{agent.namespace}",
        }
        for agent in plan.agents
    ]
    engine = {
        "kind": "docker",
        "socket": str(plan.docker_socket),
        "image": IMAGE,
        "lab_name": plan.name,
    }
    config = {
        "listen_host": "0.0.0.0",
        "listen_port": plan.marathon_port,
        "framework_id": f"mooring-{plan.name}-0000",
        "agents": agents,
        "engine": engine,
        "switches_token": None,
    }
    plan.marathon_config.write_text(json.dumps(config, indent=1) + "\n")


def marathon(plan: LabPlan) -> Part:
    """The lab's Marathon; needs the container engine and, to be reached, the doors."""
    argv = [sys.executable, "-m", "mooring.lab.marathon", "--config", str(plan.marathon_config)]
    where = plan.marathon_url
    return Part("marathon", argv, lambda: answers(f"{where}/ping"), where=where, namespace=plan.edge)


async def answers(url: str) -> None:
    """Raise unless a GET of that address succeeds."""
    timeout = aiohttp.ClientTimeout(total=2)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
        answer.raise_for_status()
