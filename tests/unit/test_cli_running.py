"""`mooring run` and `check`, and commands that other packages add."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from mooring.controller import cli
from mooring.core.errors import ConfigRefused, Refused
from tests.unit.samples_of_settings import settings_file


class TestRunAndCheck:
    @pytest.fixture
    def composed(self, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
        """A stand-in for the composition root, which has tests of its own."""
        module = types.ModuleType("mooring.controller.daemon")
        monkeypatch.setitem(sys.modules, "mooring.controller.daemon", module)
        monkeypatch.setattr("mooring.controller.logs.configure", lambda level, format: None)
        return module

    def invoke(self, tmp_path: Path, *args: str) -> Result:
        return CliRunner().invoke(cli.main, ["--config", str(settings_file(tmp_path)), *args])

    def test_run_hands_over_the_settings_and_ends_as_the_daemon_does(
        self, tmp_path: Path, composed: types.ModuleType
    ) -> None:
        seen: list[tuple[str, bool]] = []

        def run(settings: object, *, observe: bool) -> int:
            seen.append((type(settings).__name__, observe))
            return 1 if observe else 0

        composed.run = run  # type: ignore[attr-defined]
        assert [
            self.invoke(tmp_path, "run").exit_code,
            self.invoke(tmp_path, "run", "--observe").exit_code,
        ] == [0, 1]
        assert seen == [("Settings", False), ("Settings", True)]

    @pytest.mark.parametrize(
        ("error", "code"), [(Refused("store in use"), 1), (ConfigRefused(["a", "b"]), 2)]
    )
    def test_a_daemon_that_refuses_to_start(
        self, tmp_path: Path, composed: types.ModuleType, error: Exception, code: int
    ) -> None:
        def run(settings: object, *, observe: bool) -> int:
            raise error

        composed.run = run  # type: ignore[attr-defined]
        result = self.invoke(tmp_path, "run")
        assert (result.exit_code, result.stderr) == (code, f"{error}\n")

    def test_check_prints_a_line_for_each_part(self, tmp_path: Path, composed: types.ModuleType) -> None:
        async def check(settings: object) -> list[tuple[str, bool, str]]:
            return [("marathon", True, "http://m1:8080 answers"), ("dns", False, "no answer")]

        composed.check = check  # type: ignore[attr-defined]
        result = self.invoke(tmp_path, "check")
        assert result.exit_code == 1
        assert result.output.splitlines() == [
            "ok      marathon  http://m1:8080 answers",
            "FAILED  dns       no answer",
        ]

    def test_every_fault_of_the_configuration_is_told_at_once(self, tmp_path: Path) -> None:
        path = settings_file(tmp_path, workers="0", wrokers="1")
        result = CliRunner().invoke(cli.main, ["--config", str(path), "check"])
        assert result.exit_code == 2
        assert [line.split(": ")[1] for line in result.stderr.splitlines()] == ["workers", "wrokers"]


class TestExtensions:
    @pytest.fixture
    def entry(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
        """Pretends that a package adds `lab`."""

        def pretend(value: str) -> None:
            found = metadata.EntryPoints([metadata.EntryPoint("lab", value, cli.EXTENSIONS)])
            monkeypatch.setattr(metadata, "entry_points", lambda **chosen: found.select(**chosen))

        return pretend

    def test_one_that_is_there(self, entry: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
        module = types.ModuleType("an_extension")
        module.lab = click.Command("lab", callback=lambda: click.echo("up"))  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "an_extension", module)
        entry("an_extension:lab")
        assert CliRunner().invoke(cli.main, ["lab"]).output == "up\n"

    def test_one_that_cannot_be_imported_is_missed_by_nobody_else(self, entry: Callable[[str], None]) -> None:
        entry("no_such_package.cli:lab")
        helped = CliRunner().invoke(cli.main, ["--help"])
        assert helped.exit_code == 0
        assert re.search(r"lab +\(not available", helped.output)
        asked = CliRunner().invoke(cli.main, ["lab", "up", "--help"])
        assert asked.exit_code == 2
        assert "lab is not available: No module named 'no_such_package'; install mooring[lab]" in asked.stderr

    def test_nothing_of_the_lab_or_the_daemon_is_imported_for_the_rest(self) -> None:
        code = (
            "import sys; import mooring.controller.cli; "
            "heavy = ('mooring.lab', 'mooring.controller.daemon', 'ansible'); "
            "print([name for name in sys.modules if name.startswith(heavy)])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout == "[]\n"
