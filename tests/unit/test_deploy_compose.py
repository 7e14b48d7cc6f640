"""docker-compose.yml and what it mounts: the parts' own programs accept it, and the daemon can work with it.

No image is built and no container started here.  Instead the files of `deploy/compose` are laid out below a
temporary directory, with their paths and ports replaced, filled by the set-up script, and the balancers are
run as the compose file would: what they start with must be what the daemon's sinks can take over.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from mooring.controller.settings import Settings, load_settings
from mooring.controller.sinks import edge_sinks
from mooring.controller.store.memory import MemoryStore
from mooring.core.clock import SystemClock
from mooring.core.errors import MooringError
from mooring.core.model import BindingId, Epoch
from mooring.core.sink import Change, Done, Sink
from mooring.core.specs import Endpoint, MemberSpec, ServiceSpec
from mooring.lab.proofs import eventually
from tests.unit.watched import ROOT

COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "deploy/Dockerfile"
FILES = ROOT / "deploy/compose"
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Place:
    """The volumes and mounted files below one directory."""

    root: Path

    def here(self, text: str) -> str:
        """The text with the containers' paths replaced."""
        moved = {
            "/srv/": f"{self.root}/srv/",
            "/etc/mooring/": f"{self.root}/etc/",
            "/var/lib/mooring/": f"{self.root}/lib/",
        }
        for path, place in moved.items():
            text = text.replace(path, place)
        return text

    def command(self, service: str) -> list[str]:
        """How the compose file starts a balancer."""
        return [self.here(word) for word in SERVICES[service]["entrypoint"]]

    def settings(self) -> Settings:
        return load_settings(self.root / "etc/mooring.toml")


@pytest.fixture
def place() -> Iterator[Place]:
    """The files as the set-up script leaves them. Short paths: sockets may not have long ones."""
    with tempfile.TemporaryDirectory(prefix="mc-", dir="/tmp") as directory:
        made = Place(Path(directory))
        for name in ("etc", "lib", *(f"srv/{volume}" for volume in ("secrets", "bind", "haproxy", "nginx"))):
            (made.root / name).mkdir(parents=True)
        ports = {"*:8000": f"*:{free_port()}", "*:8080": f"*:{free_port()}"}
        for file in FILES.iterdir():
            if file.is_file():
                text = made.here(file.read_text())
                for port, free in ports.items():
                    text = text.replace(port, free)
                (made.root / "etc" / file.name).write_text(text)
        done = run("sh", made.root / "etc/setup")
        assert done.returncode == 0, done.stderr
        yield made


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A server for the time of the body."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


# -- the compose file


def test_docker_compose_accepts_it() -> None:
    done = run("docker-compose", "-f", COMPOSE, "config", "-q")
    assert done.returncode == 0, done.stderr


def test_every_file_it_mounts_is_in_the_repository() -> None:
    volumes = [volume for service in SERVICES.values() for volume in service.get("volumes", [])]
    mounted = {volume.split(":")[0] for volume in volumes if volume.startswith(".")}
    assert mounted
    assert [path for path in mounted if not (ROOT / path).exists()] == []


def test_prometheus_finds_its_rules(tmp_path: Path) -> None:
    for volume in SERVICES["prometheus"]["volumes"]:
        source, target = volume.split(":")[:2]
        if source.startswith("."):
            shutil.copy(ROOT / source, tmp_path / Path(target).name)
    done = run("promtool", "check", "config", tmp_path / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rule files found" in done.stdout


def test_prometheus_scrapes_where_the_portal_listens(place: Place) -> None:
    (job,) = yaml.safe_load((FILES / "prometheus.yml").read_text())["scrape_configs"]
    portal = place.settings().portal
    assert job["static_configs"][0]["targets"] == [f"{portal.address}:{portal.port}"]
    assert f"http://{portal.address}:{portal.port}/healthz" in SERVICES["mooring"]["healthcheck"]["test"][-1]


def test_what_the_image_promises_the_compose_file_uses() -> None:
    dockerfile = DOCKERFILE.read_text()
    targets = set(re.findall(r"^FROM \S+ AS (\w+)$", dockerfile, re.MULTILINE))
    assert {"daemon", "bind"} <= targets
    assert len(set(re.findall(r"--uid (\d+)", dockerfile))) == 1, "the parts share files and sockets"
    volumes = {volume.split(":")[1] for volume in SERVICES["setup"]["volumes"][1:]}
    assert all(volume in dockerfile for volume in volumes), "a volume takes its owner from the image"


# -- what is mounted


def test_the_daemons_configuration_is_in_order(place: Place) -> None:
    settings = place.settings()
    assert settings.haproxy is not None
    assert settings.nginx is not None
    assert settings.dns is not None


def test_every_path_of_the_daemon_is_mounted_into_its_container() -> None:
    mounted = [volume.split(":")[1] for volume in SERVICES["mooring"]["volumes"]]
    paths = re.findall(r'"(/[^"]+)"', (FILES / "mooring.toml").read_text())
    paths += re.findall(r"=(/\S+?)[ '\n]", (FILES / "inventory.ini").read_text())
    assert len(paths) > 8
    assert [path for path in paths if not path.startswith(tuple(mounted))] == []


def test_the_set_up_script_keeps_what_is_there(place: Place) -> None:
    kept = [
        place.root / "srv" / name
        for name in ("secrets/tsig.secret", "bind/mooring.test.db", "haproxy/haproxy.cfg")
    ]
    (place.root / "srv/nginx/current").unlink()
    (place.root / "srv/nginx/current").symlink_to("generations/00000007-abc")
    before = [file.read_text() for file in kept]
    for file in kept[1:]:
        file.write_text("written by the running parts")
    assert run("sh", place.root / "etc/setup").returncode == 0
    assert kept[0].read_text() == before[0]
    assert {file.read_text() for file in kept[1:]} == {"written by the running parts"}
    assert (place.root / "srv/nginx/current").readlink() == Path("generations/00000007-abc")


def test_secrets_are_for_their_owner_only(place: Place) -> None:
    modes = {file.stat().st_mode & 0o777 for file in (place.root / "srv/secrets").iterdir()}
    assert modes == {0o600}


def test_bind_accepts_configuration_and_zones(place: Place) -> None:
    done = run("named-checkconf", "-z", place.root / "etc/named.conf")
    assert done.returncode == 0, done.stdout + done.stderr
    dns = place.settings().dns
    assert dns is not None
    for zone in (dns.zone, *dns.reverse_zones):
        assert f"zone {zone}/IN: loaded serial 1" in done.stdout
    assert "ignoring" not in done.stdout


async def test_the_daemon_takes_over_a_haproxy_that_was_started_so(place: Place) -> None:
    done = run("haproxy", "-c", "-f", place.root / "srv/haproxy/haproxy.cfg")
    assert done.returncode == 0, done.stdout + done.stderr
    with started(place.command("haproxy")) as process:
        await taken_over(place, "haproxy", process)


async def test_the_daemon_takes_over_an_nginx_that_was_started_so(place: Place) -> None:
    done = run("nginx", "-t", "-e", "stderr", "-c", place.root / "srv/nginx/current/nginx.conf")
    assert done.returncode == 0, done.stderr
    with started(place.command("nginx")) as process:
        await taken_over(place, "nginx", process)


async def taken_over(place: Place, name: str, process: subprocess.Popen[str]) -> None:
    """The sink that the daemon would build reaches the server and puts a member into it."""
    async with aiohttp.ClientSession() as session:
        store = MemoryStore()
        await store.open()
        sinks = edge_sinks(place.settings(), store, session, SystemClock())
        sink = next(sink for sink in sinks if sink.name == name)
        await eventually(lambda: reached(sink, process), 20)
        service = ServiceSpec(app="/shop/web", index=0, mode="http", port=10000, vhosts=("web.test",))
        member = MemberSpec((Endpoint(service, "127.0.0.1", free_port()),), "up")
        (outcome,) = await sink.apply([Change(BindingId("shop_web.1"), member, (), 1, Epoch(1))])
    assert isinstance(outcome, Done), outcome


async def reached(sink: Sink, process: subprocess.Popen[str]) -> tuple[None, str]:
    if process.poll() is not None:
        _, said = process.communicate()
        raise AssertionError(f"it ended with {process.returncode}: {said}")
    try:
        await sink.check()
    except MooringError as error:
        return None, str(error)
    return None, ""
