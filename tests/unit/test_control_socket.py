"""The control socket: who is admitted, what becomes of a socket that is already there, what is answered.

Every test speaks over a real Unix socket.  Strangers are real as well where we are root: a forked child
gives up its user id and tries.
"""

from __future__ import annotations

import asyncio
import grp
import http.client
import json
import os
import pwd
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mooring.controller.control import ControlServer, Peer, policy_of
from mooring.controller.control_client import ControlClient, NotPermitted, Unreachable
from mooring.core.errors import ConfigRefused, Fenced, Refused
from mooring.core.model import AppId
from mooring.core.readmodel import EVERYTHING
from tests.unit.fake_daemon import LEASE, FakeDaemon, row, served, unsettled

NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def daemon() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that strangers can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="mooring-") as made:
        Path(made).chmod(0o755)
        yield Path(made) / "control.sock"


def as_user(uid: int, gid: int, act: Callable[[], str], groups: list[int] | None = None) -> str:
    """What `act` returns, or the name and text of what it raises, in a child with another identity."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups or [])
            os.setgid(gid)
            os.setuid(uid)
            said = act()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def request(path: Path, method: str, target: str, body: bytes = b"") -> tuple[int, dict[str, str]]:
    """One raw request, for what the client would never send."""
    with socket.socket(socket.AF_UNIX) as end:
        end.settimeout(5)
        end.connect(str(path))
        end.sendall(
            f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        reply = http.client.HTTPResponse(end)
        reply.begin()
        return reply.status, json.loads(reply.read())


class TestAnswers:
    def test_status_brings_the_same_rows_to_the_other_end(self, place: Path, daemon: FakeDaemon) -> None:
        daemon.rows = [row(), unsettled()]
        daemon.refused = {"/bad": "app /bad: label MOORING_POOL: there is no pool 'x'"}
        daemon.reasons = ["no snapshot yet"]
        with served(place, daemon):
            found = ControlClient(place).status()
        assert list(found.instances) == daemon.rows
        assert (found.refusals, found.readiness) == (daemon.refused, daemon.reasons)
        assert found.overview == daemon.overview()

    def test_lookups(self, place: Path, daemon: FakeDaemon) -> None:
        with served(place, daemon):
            client = ControlClient(place)
            assert client.leases() == [LEASE]
            assert client.pools() == daemon.pools()
            assert client.overview() == daemon.overview()

    def test_pause_and_resume(self, place: Path, daemon: FakeDaemon) -> None:
        with served(place, daemon):
            client = ControlClient(place)
            assert client.pause().paused == (EVERYTHING,)
            assert client.pause("/shop").paused == (EVERYTHING, "/shop")
            assert client.resume().paused == ("/shop",)

    def test_the_daemons_refusal_reaches_the_client(self, place: Path, daemon: FakeDaemon) -> None:
        with served(place, daemon), pytest.raises(Refused, match="/unknown: Marathon has no such app"):
            ControlClient(place).pause("/unknown")

    def test_what_is_fatal_is_told_and_ends_the_daemon(self, place: Path, daemon: FakeDaemon) -> None:
        async def resume(app: AppId | None) -> None:
            raise Fenced("a newer daemon has taken over")

        daemon.resume = resume  # type: ignore[method-assign]
        with served(place, daemon) as server:
            with pytest.raises(Refused, match="the daemon ends: a newer daemon"):
                ControlClient(place).resume()
            with pytest.raises(Fenced, match="a newer daemon has taken over"):
                asyncio.run(asyncio.wait_for(server.until_fatal(), 5))

    @pytest.mark.parametrize(
        ("method", "target", "body", "status", "told"),
        [
            ("POST", "/pause", b"{", 400, "body: "),
            ("POST", "/pause", b'{"ap": "/x"}', 400, "unknown field"),
            ("POST", "/pause", b'{"app": "x\\n"}', 400, "ids begin with /"),
            ("POST", "/brake/release", b"{}", 400, "`held`"),
            ("POST", "/brake/release", b"", 400, "body: "),
            ("GET", "/nothing", b"", 404, "GET /nothing: Not Found"),
            ("GET", "/pause", b"", 405, "Method Not Allowed"),
        ],
    )
    def test_a_bad_request_is_told_what_is_wrong(
        self, place: Path, daemon: FakeDaemon, method: str, target: str, body: bytes, status: int, told: str
    ) -> None:
        with served(place, daemon):
            answered, reply = request(place, method, target, body)
        assert answered == status
        assert told in reply["error"]
        assert not daemon.paused

    def test_an_answer_of_another_version_is_named_as_such(self, place: Path, daemon: FakeDaemon) -> None:
        daemon.rows = [{"app": "/x"}]  # type: ignore[list-item]
        with served(place, daemon), pytest.raises(Refused, match="of another version"):
            ControlClient(place).status()


class TestSocketFile:
    def test_modes(self, tmp_path: Path, daemon: FakeDaemon) -> None:
        path = tmp_path / "run" / "control.sock"
        before = os.umask(0o077)
        try:
            with served(path, daemon):
                assert stat.S_IMODE(path.stat().st_mode) == 0o660
                assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
        finally:
            os.umask(before)
        assert not path.exists()

    def test_the_socket_of_a_dead_daemon_is_replaced(self, place: Path, daemon: FakeDaemon) -> None:
        dead = socket.socket(socket.AF_UNIX)
        dead.bind(str(place))
        dead.listen()
        dead.close()
        assert place.exists()
        with served(place, daemon):
            assert ControlClient(place).overview().epoch == 7

    def test_a_live_daemon_keeps_its_socket(self, place: Path, daemon: FakeDaemon) -> None:
        with served(place, daemon):
            with pytest.raises(Refused, match="another daemon answers there"), served(place, FakeDaemon()):
                pass
            assert ControlClient(place).overview().epoch == 7

    def test_a_daemon_too_busy_to_accept_is_alive(self, place: Path, daemon: FakeDaemon) -> None:
        with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
            busy.bind(str(place))
            busy.listen(0)
            first.connect(str(place))
            with pytest.raises(Refused, match="another daemon answers there"), served(place, daemon):
                pass

    def test_something_else_in_its_place_is_left_alone(self, place: Path, daemon: FakeDaemon) -> None:
        place.write_text("precious")
        with pytest.raises(Refused, match="something else is there"), served(place, daemon):
            pass
        assert place.read_text() == "precious"

    def test_a_path_that_is_too_long_is_refused_by_name(self, tmp_path: Path, daemon: FakeDaemon) -> None:
        path = tmp_path / ("x" * 120)
        with pytest.raises(Refused, match=r"too long; change control\.socket"), served(path, daemon):
            pass

    def test_a_socket_that_is_no_longer_ours_is_not_removed(self, place: Path, daemon: FakeDaemon) -> None:
        with served(place, daemon):
            place.rename(place.with_name("kept"))  # so that its inode is not given to the next file
            place.write_text("somebody else's")
        assert place.exists()

    def test_without_a_daemon(self, place: Path) -> None:
        with pytest.raises(Unreachable, match="start it with `mooring run`"):
            ControlClient(place).overview()

    def test_a_daemon_that_does_not_answer(self, place: Path) -> None:
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(place))
            silent.listen()
            with pytest.raises(Unreachable, match="does not answer"):
                ControlClient(place, timeout_s=0.1).overview()


class TestPolicy:
    def test_root_and_the_daemons_own_user(self) -> None:
        admit = policy_of(None, own_uid=1234)
        assert admit(Peer(1, 0, 0)) is None
        assert admit(Peer(1, 1234, 1234)) is None
        assert "may not command" in (admit(Peer(1, NOBODY, NOBODY)) or "")

    def test_members_of_the_group_by_primary_effective_or_supplementary_group(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        users = {2001: "anna", 2002: "ben", 2003: "carl"}

        def getpwuid(uid: int) -> pwd.struct_passwd:
            return pwd.struct_passwd((users[uid], "x", uid, uid, "", "/", "/bin/sh"))

        monkeypatch.setattr(grp, "getgrnam", lambda name: grp.struct_group((name, "x", 500, ["anna"])))
        monkeypatch.setattr(pwd, "getpwuid", getpwuid)
        monkeypatch.setattr(os, "getgrouplist", lambda user, gid: [gid, 500] if user == "anna" else [gid])
        admit = policy_of("operators", own_uid=1234)
        assert admit(Peer(1, 2001, 2001)) is None  # a supplementary group
        assert admit(Peer(1, 2002, 500)) is None  # the group it runs with
        assert "ask to join group operators" in (admit(Peer(1, 2003, 2003)) or "")
        assert "user 9999 may not" in (admit(Peer(1, 9999, 9999)) or "")  # nobody knows this user

    def test_an_unknown_group_is_a_fault_of_the_configuration(self, place: Path, daemon: FakeDaemon) -> None:
        with pytest.raises(ConfigRefused, match="no group 'no-such-group'"):
            ControlServer(place, daemon, daemon, group="no-such-group")

    def test_an_injected_policy_decides_with_the_kernels_word(self, place: Path, daemon: FakeDaemon) -> None:
        seen: list[Peer] = []

        def refuse(peer: Peer) -> str:
            seen.append(peer)
            return "not today"

        with served(place, daemon, policy=refuse), pytest.raises(NotPermitted, match="not today"):
            ControlClient(place).pause()
        assert seen == [Peer(os.getpid(), os.getuid(), os.getgid())]
        assert not daemon.paused


@as_root
class TestStrangers:
    def test_the_files_mode_keeps_them_out(self, place: Path, daemon: FakeDaemon) -> None:
        with served(place, daemon):
            said = as_user(NOBODY, NOBODY, lambda: str(ControlClient(place).overview()))
        assert said.startswith("NotPermitted:")
        assert "you may not use this socket" in said

    @pytest.mark.parametrize("ask", ["overview", "status", "pause"])
    def test_the_daemon_refuses_them_whatever_the_mode(
        self, place: Path, daemon: FakeDaemon, ask: str
    ) -> None:
        with served(place, daemon):
            place.chmod(0o666)
            said = as_user(NOBODY, NOBODY, lambda: str(getattr(ControlClient(place), ask)()))
        assert said.startswith("NotPermitted:")
        assert "may not command this daemon" in said
        assert not daemon.paused

    def test_a_member_of_the_group_is_admitted(self, place: Path, daemon: FakeDaemon) -> None:
        group = grp.getgrgid(pwd.getpwuid(NOBODY).pw_gid)
        with served(place, daemon, group=group.gr_name):
            assert place.stat().st_gid == group.gr_gid
            said = as_user(NOBODY, group.gr_gid, lambda: str(ControlClient(place).pause().paused))
        assert said == f"('{EVERYTHING}',)"
