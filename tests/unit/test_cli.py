"""The commands, against a real control server in a thread, and what scripts rely on: exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner, Result

from mooring.controller import cli
from mooring.controller.commands import screen
from mooring.controller.commands.status import until_settled
from mooring.controller.control_client import Unreachable
from mooring.core.readmodel import EVERYTHING, Phase, SinkRow, Status
from tests.unit.fake_daemon import FakeDaemon, row, served, unsettled
from tests.unit.fake_time import SteppedClock
from tests.unit.samples_of_settings import settings_file

Run = Callable[..., Result]


@pytest.fixture
def daemon() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "c.sock"


@pytest.fixture
def run(socket_path: Path, daemon: FakeDaemon) -> Iterator[Run]:
    """Runs `mooring` with arguments while a daemon listens."""
    with served(socket_path, daemon):
        yield lambda *args: CliRunner().invoke(cli.main, ["--socket", str(socket_path), *args])


@pytest.fixture(autouse=True)
def logged_elsewhere() -> Iterator[None]:
    """The daemon of these tests shares a process with the command; its log is not the command's output."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


def on_a_terminal(socket_path: Path, daemon: FakeDaemon, columns: int) -> str:
    """What `mooring status` writes to a real terminal of that width."""
    outside, inside = pty.openpty()
    termios.tcsetwinsize(inside, (40, columns))
    code = "from mooring.controller.cli import main; main()"
    with served(socket_path, daemon):
        asked = subprocess.run(
            [sys.executable, "-c", code, "--socket", str(socket_path), "status"],
            stdin=inside, stdout=inside, stderr=inside, timeout=60, env={**os.environ, "TERM": "xterm"},
        )  # fmt: skip
    os.close(inside)
    with os.fdopen(outside, "rb", buffering=0) as terminal:
        shown = terminal.read(65536) or b""
    assert asked.returncode == 1
    return shown.decode()


class TestStatus:
    def test_one_line_for_each_instance(self, run: Run, daemon: FakeDaemon) -> None:
        daemon.rows = [row(slot=slot) for slot in range(3)]
        result = run("status")
        assert result.exit_code == 0
        lines = [line.split() for line in result.output.splitlines() if "/shop/web" in line]
        assert [line[:4] for line in lines] == [
            ["/shop/web", str(slot), "agent1", f"10.64.0.{9 + slot}"] for slot in range(3)
        ]
        assert "✓ up" in result.output
        assert result.output.startswith("mooring 1.2.3, owner mooring, epoch 7; stream: attached to")

    def test_what_is_unsettled_shows_both_sides_and_why(self, run: Run, daemon: FakeDaemon) -> None:
        daemon.rows = [row(), unsettled()]
        result = run("status")
        assert result.exit_code == 1
        assert "declared → up" in result.output
        assert "haproxy: connection refused" in result.output

    def test_refusals_stand_below(self, run: Run, daemon: FakeDaemon) -> None:
        daemon.refused = {"/bad": "app /bad: label MOORING_POOL: there is no pool 'x'"}
        result = run("status")
        assert result.exit_code == 1
        assert result.output.splitlines()[-1] == "refused: app /bad: label MOORING_POOL: there is no pool 'x'"

    def test_nothing_is_cut_in_a_pipe(self, run: Run, daemon: FakeDaemon) -> None:
        long = "/group/" + "x" * 400
        daemon.rows = [row(long, problem="why " * 200 + "end")]
        lines = [line for line in run("status").output.splitlines() if long in line]
        assert len(lines) == 1
        assert "why end" in lines[0]

    def test_hostile_text_cannot_steer_the_terminal(self, run: Run, daemon: FakeDaemon) -> None:
        daemon.rows = [row(problem="\x1b[2J[bold]gone[/bold]\nforged line")]
        daemon.refused = {"/bad": "label \x1b]0;title\x07"}
        output = run("status").output
        assert "\x1b" not in output
        assert r"\x1b[2J[bold]gone[/bold]\nforged line" in output
        assert r"refused: app /bad: label \x1b]0;title\x07" in output

    def test_remarks(self, run: Run, daemon: FakeDaemon) -> None:
        daemon.reasons = ["no snapshot yet"]
        daemon.paused = {EVERYTHING, "/shop"}
        output = run("status").output
        assert "not ready: no snapshot yet" in output
        assert "paused: all effects wait" in output
        assert "paused: /shop\n" in output

    def test_json(self, run: Run, daemon: FakeDaemon) -> None:
        daemon.rows = [row(), unsettled()]
        result = run("status", "--json")
        found = json.loads(result.output)
        assert result.exit_code == 1
        assert (found["in_step"], found["settled"], found["overview"]["epoch"]) == (False, False, 7)
        assert found["instances"][1]["sinks"]["haproxy"] == {
            "wanted": "up", "applied": "declared", "settled": False,
        }  # fmt: skip

    def test_app_chooses_a_subtree(self, run: Run, daemon: FakeDaemon) -> None:
        daemon.rows = [row("/shop/db"), row("/shop/web"), unsettled("/shopping")]
        daemon.refused = {"/other": "no"}
        result = run("status", "--app", "shop/")
        assert result.exit_code == 0
        assert "/shop/db" in result.output
        assert "/shopping" not in result.output
        assert "refused" not in result.output

    def test_an_instance_left_behind_is_not_in_step(self, run: Run, daemon: FakeDaemon) -> None:
        daemon.rows = [row(phase=Phase.LEFT_BEHIND, sinks={"network": SinkRow(None, None, True)})]
        assert run("status").exit_code == 1

    def test_a_terminal_that_is_wide_enough_shows_everything(
        self, socket_path: Path, daemon: FakeDaemon
    ) -> None:
        daemon.rows = [row(), unsettled()]
        shown = on_a_terminal(socket_path, daemon, 200)
        assert "\x1b[" in shown
        assert re.search(r"✓ up .*\n.*declared → up.*haproxy: connection refused", shown)

    def test_a_narrow_one_shows_ticks_and_has_the_problems_below(
        self, socket_path: Path, daemon: FakeDaemon
    ) -> None:
        daemon.rows = [row(), unsettled()]
        shown = on_a_terminal(socket_path, daemon, 100)
        assert "✓ up" not in shown
        assert "declared → up" in shown
        assert "shop_web.instance-1: haproxy: connection refused" in shown


class TestWait:
    def test_until_everything_is_settled(self, run: Run, daemon: FakeDaemon) -> None:
        daemon.rows = [unsettled()]

        def settle(waited: int = daemon.asked) -> list[object]:
            daemon.asked += 1
            return [row()] if daemon.asked > waited + 2 else [unsettled()]

        daemon.instances = settle  # type: ignore[method-assign, assignment]
        result = run("status", "--wait", "20")
        assert (result.exit_code, daemon.asked) == (0, 3)

    async def test_the_time_is_kept(self) -> None:
        clock = SteppedClock()
        began, stuck = clock.time, Status(FakeDaemon().overview(), [], [unsettled()], {})
        assert await until_settled(lambda: stuck, clock, 3.0) is stuck
        assert 3.0 <= clock.time - began < 3.5

    async def test_a_daemon_that_is_still_starting_is_waited_for(self) -> None:
        answers: list[Status | None] = [None, None, Status(FakeDaemon().overview(), [], [row()], {})]

        def ask() -> Status:
            answer = answers.pop(0)
            if answer is None:
                raise Unreachable("not yet")
            return answer

        assert (await until_settled(ask, SteppedClock(), 3.0)).in_step

    async def test_one_that_never_comes_is_reported(self) -> None:
        def ask() -> Status:
            raise Unreachable("not there")

        with pytest.raises(Unreachable, match="not there"):
            await until_settled(ask, SteppedClock(), 1.0)

    async def test_refusals_are_not_waited_for(self) -> None:
        refused = [row(phase=Phase.REFUSED, sinks={})]
        found = Status(FakeDaemon().overview(), [], refused, {"/bad": "no"})
        clock = SteppedClock()
        began = clock.time
        assert not (await until_settled(lambda: found, clock, 60.0)).in_step
        assert clock.time == began


class TestLookups:
    def test_leases(self, run: Run) -> None:
        header, line = run("leases").output.splitlines()
        assert header.split()[:4] == ["ADDRESS", "POOL", "STATE", "APP"]
        assert line.split() == [
            "10.64.0.9", "blue", "bound", "/shop/web", "0", "shop_web.instance-1", "agent1",
            "2023-11-14T22:13:20Z", "-", "-",
        ]  # fmt: skip
        assert json.loads(run("leases", "--json").output)[0]["generation"] == 3

    def test_pools(self, run: Run) -> None:
        header, line = run("pools").output.splitlines()
        shown = dict(zip(header.split(), line.split(), strict=True))
        assert (shown["VLAN"], shown["FREE"], shown["BOUND"], shown["IDLE"]) == ("12", "1000", "20", "0")
        assert json.loads(run("pools", "--json").output)[0]["leases"]["cooling"] == 1

    def test_a_paired_pool_shows_both_networks(self, run: Run, daemon: FakeDaemon) -> None:
        [row] = daemon.pools()
        daemon.pools = lambda: [replace(row, ipv6="fd00:64::/64", gateway6="fe80::1")]  # type: ignore[method-assign]
        output = run("pools").output
        assert "10.64.0.0/22 + fd00:64::/64" in output
        assert "10.64.0.1 + fe80::1" in output

    def test_pause_and_resume(self, run: Run, daemon: FakeDaemon) -> None:
        assert run("pause").output == "paused: everything\n"
        assert run("pause", "shop/web").output == "paused: everything\npaused: /shop/web\n"
        assert run("resume").output == "paused: /shop/web\n"
        assert run("resume", "/shop/web").output == "nothing is paused\n"
        refused = run("pause", "/unknown")
        assert (refused.exit_code, refused.stderr) == (1, "app /unknown: Marathon has no such app\n")

    def test_the_brake_is_shown_and_released(self, run: Run, daemon: FakeDaemon) -> None:
        daemon.of_instances = replace(daemon.of_instances, brake="12 of 12 are missing", held=12)
        shown = run("brake", "show")
        assert (shown.exit_code, shown.output) == (1, "held: 12 of 12 are missing\n")
        released = run("brake", "release").output
        assert released == "held: 12 of 12 are missing\nreleased: what was held is treated as gone\n"
        assert run("brake", "show").output == "the brake is off\n"
        again = run("brake", "release")
        assert (again.exit_code, again.stderr) == (1, "the brake is off; there is nothing to release\n")

    def test_the_brake_is_not_released_for_more_than_was_shown(self, run: Run, daemon: FakeDaemon) -> None:
        daemon.of_instances = replace(daemon.of_instances, brake="12 of 12 are missing", held=12)
        daemon.vanishing = 1
        refused = run("brake", "release")
        assert (refused.exit_code, refused.stderr) == (1, "13 are held by now, not 12\n")
        assert run("brake", "show").exit_code == 1


class TestExitCodes:
    def test_help_tells_them(self) -> None:
        text = CliRunner().invoke(cli.main, ["--help"]).output
        assert re.findall(r"^ +(\d)  ", text, re.MULTILINE) == ["0", "1", "2", "3", "4"]

    def test_wrong_usage(self, run: Run) -> None:
        assert run("statsu").exit_code == 2

    def test_no_daemon(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(cli.main, ["--socket", str(tmp_path / "none"), "status"])
        assert result.exit_code == 3
        assert "no daemon listens there; start it with `mooring run`" in result.stderr

    def test_not_permitted(self, socket_path: Path, daemon: FakeDaemon) -> None:
        with served(socket_path, daemon, policy=lambda peer: "you may not"):
            result = CliRunner().invoke(cli.main, ["--socket", str(socket_path), "pools"])
        assert (result.exit_code, result.stderr) == (4, "you may not\n")

    def test_no_configuration(self, tmp_path: Path) -> None:
        for command in ("status", "run", "check"):
            result = CliRunner().invoke(cli.main, ["--config", str(tmp_path / "none.toml"), command])
            assert result.exit_code == 2
            assert "none.toml: cannot be read: No such file or directory; give --config FILE" in result.stderr

    @pytest.mark.parametrize(
        ("text", "fault"),
        [("control = [", "is not TOML"), ("[control]\nsockt = 'x'\n", "control.sockt: Extra inputs")],
    )
    def test_a_file_that_does_not_say_where_the_daemon_is(
        self, tmp_path: Path, text: str, fault: str
    ) -> None:
        path = tmp_path / "m.toml"
        path.write_text(text)
        result = CliRunner().invoke(cli.main, ["--config", str(path), "status"])
        assert result.exit_code == 2
        assert fault in result.stderr

    def test_looking_needs_only_the_socket_from_the_file(
        self, tmp_path: Path, socket_path: Path, daemon: FakeDaemon
    ) -> None:
        path = settings_file(tmp_path, workers='"half-edited"')
        with served(socket_path, daemon):
            assert CliRunner().invoke(cli.main, ["status"], env={"MOORING_CONFIG": str(path)}).exit_code == 0


def test_version() -> None:
    assert re.fullmatch(r"mooring \S+\n", CliRunner().invoke(cli.main, ["version"]).output)


def test_symbols_fall_back_where_they_cannot_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert screen.Screen().tick in ("✓", "ok")
    monkeypatch.setattr(screen, "_can_encode", lambda text: False)
    assert (screen.Screen().tick, screen.Screen().arrow) == ("ok", "->")


def test_the_reference_names_every_command_and_exit_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    assert [name for name in cli.main.commands if f"## `mooring {name}" not in text] == []
    codes = re.findall(r"^  (\d)  (.*)", cli.EXIT_CODES, re.MULTILINE)
    assert len(codes) == 5
    assert [code for code, meaning in codes if f"| {code} | {meaning} |" not in text] == []
