"""The systemd units agree with each other, with the example configuration and with the program."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

from click.testing import CliRunner

from mooring.controller.cli import main
from mooring.controller.settings import AnsibleSettings, Settings
from mooring.playbooks.module_utils.mooring_host import guardian
from tests.unit.watched import ROOT

GUARDIAN = ROOT / "deploy/mooring-guardian.service"
UNIT = ROOT / "deploy/mooring.service"
HAPROXY = ROOT / "deploy/haproxy.service.d/mooring.conf"
NGINX = ROOT / "deploy/nginx.service.d/mooring.conf"
EXAMPLE = tomllib.loads((ROOT / "deploy/mooring.toml.example").read_text())


def values(unit: Path, key: str) -> list[str]:
    """Every value that the unit gives to the key."""
    return re.findall(rf"^{key}=(.*)$", unit.read_text(), re.MULTILINE)


def test_it_starts_a_command_that_there_is() -> None:
    (start,) = values(UNIT, "ExecStart")
    program, *words = shlex.split(start)
    assert Path(program).name == "mooring"
    done = CliRunner().invoke(main, [*words, "--help"])
    assert done.exit_code == 0
    assert "Run the daemon" in done.output


def test_the_guardian_is_started_with_words_that_it_knows() -> None:
    (start,) = values(GUARDIAN, "ExecStart")
    (environment,) = values(GUARDIAN, "Environment")
    for pair in environment.split():
        name, _, value = pair.partition("=")
        start = start.replace(f"${{{name}}}", value)
    _, flag, module, *words = shlex.split(start)
    assert (flag, module) == ("-m", "mooring_host.guardian")
    assert guardian.__name__.endswith(module)
    given = guardian.settings_of(words)
    assert (given.owner, given.bridge) == (
        Settings.model_fields["owner"].default,
        AnsibleSettings.model_fields["bridge"].default,
    )
    assert given.state_dir == "/run/mooring"


def test_a_wrong_configuration_is_not_started_again(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--config", str(tmp_path / "none.toml"), "run"])
    assert str(done.exit_code) in values(UNIT, "RestartPreventExitStatus")[0].split()


def test_daemon_and_balancers_are_one_user_with_the_same_rights() -> None:
    for key in ("User", "Group", "AmbientCapabilities"):
        assert len({tuple(values(unit, key)) for unit in (UNIT, HAPROXY, NGINX)}) == 1


def test_the_balancers_use_the_paths_of_the_example() -> None:
    environment = " ".join(values(HAPROXY, "Environment"))
    assert f"CONFIG={EXAMPLE['haproxy']['config']}" in environment
    assert f"-S {EXAMPLE['haproxy']['master_socket']}," in environment
    assert f"-c {EXAMPLE['nginx']['root']}/current/nginx.conf" in values(NGINX, "ExecStart")[-1]
    assert EXAMPLE["nginx"]["status_socket"] in values(NGINX, "ExecStartPre")[-1]


def test_the_page_makes_first_configurations_with_these_paths() -> None:
    """docs/deploy.md derives them with sed from those of docker-compose."""
    page = (ROOT / "docs/deploy.md").read_text()
    made = {}
    for script, name in re.findall(r"^sed '([^']+)' (\S+) > /var", page, re.MULTILINE):
        command = ["sed", script, str(ROOT / "deploy/compose" / name)]
        made[name] = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"stats socket {EXAMPLE['haproxy']['socket']} " in made["haproxy.cfg"]
    assert f"listen unix:{EXAMPLE['nginx']['status_socket']};" in made["nginx.conf"]
    assert f"pid {EXAMPLE['nginx']['pid_file']};" in made["nginx.conf"]
    assert not [text for text in made.values() if "/srv/" in text]


def test_the_page_names_files_that_there_are() -> None:
    page = (ROOT / "docs/deploy.md").read_text()
    named = {path.rstrip(".") for path in re.findall(r"(?<![/\w])deploy/[\w./-]+", page)}
    made_by_the_operator = {"deploy/compose/ssh/id_ed25519", "deploy/compose/ssh/known_hosts"}
    assert {path for path in named - made_by_the_operator if not (ROOT / path).exists()} == set()


def test_everything_the_daemon_writes_is_in_a_directory_it_has() -> None:
    owned = [f"/var/lib/{name}/" for name in values(UNIT, "StateDirectory")]
    written = [EXAMPLE["store"], *EXAMPLE["haproxy"].values(), *EXAMPLE["nginx"].values()]
    assert [path for path in written if not path.startswith(tuple(owned))] == []
    assert values(UNIT, "RuntimeDirectory") == ["mooring"], "the control socket's"
