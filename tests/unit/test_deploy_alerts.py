"""The alert rules: they fire when they should and only then, and each says what to do."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit import watched

DOCS = watched.ROOT / "docs/alerts.md"
ALERTS = watched.alerts()


def promtool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, timeout=60)


def mutated(directory: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The rules changed one by one, beside their unchanged tests; returns the file with the tests."""
    rules = yaml.safe_load(watched.RULES.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            change(rule)
    (directory / "tests").mkdir()
    (directory / watched.RULES.name).write_text(yaml.safe_dump(rules))
    return Path(shutil.copy(watched.RULE_TESTS, directory / "tests"))


def complained_about(done: subprocess.CompletedProcess[str]) -> set[str]:
    """The alerts that promtool says are not as their tests expect."""
    return set(re.findall(r'expr: "ALERTS\{alertname=\\"(\w+)\\"', done.stdout + done.stderr))


def test_promtool_accepts_the_rules() -> None:
    done = promtool("check", "rules", watched.RULES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def test_alerts_fire_when_they_should_and_only_then() -> None:
    done = promtool("test", "rules", watched.RULE_TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_alert_that_never_fires_is_noticed(tmp_path: Path) -> None:
    def silence(rule: dict[str, Any]) -> None:
        rule["expr"] = "vector(1) < 0"

    assert complained_about(promtool("test", "rules", mutated(tmp_path, silence))) == {
        rule["alert"] for rule in ALERTS
    }


def test_an_alert_that_always_fires_is_noticed(tmp_path: Path) -> None:
    def alarm(rule: dict[str, Any]) -> None:
        always, count = re.subn(r"(==|>|<) [0-9.]+", "!= 1e99", rule["expr"])
        rule["expr"] = always if count else re.sub(r"absent\(|unless .*", "", rule["expr"]).rstrip(")")

    assert complained_about(promtool("test", "rules", mutated(tmp_path, alarm))) == {
        rule["alert"] for rule in ALERTS
    }


def test_an_alert_that_does_not_wait_is_noticed(tmp_path: Path) -> None:
    done = promtool("test", "rules", mutated(tmp_path, lambda rule: rule.pop("for", None)))
    assert complained_about(done) == {rule["alert"] for rule in ALERTS if "for" in rule}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert 0 < len(rule["annotations"]["summary"]) <= 120
    assert len(rule["annotations"]["description"]) > len(rule["annotations"]["summary"])


def test_names_are_unique() -> None:
    names = [rule["alert"] for rule in ALERTS]
    assert len(set(names)) == len(names)


def test_the_page_lists_exactly_the_alerts_with_their_severity() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+) \|$", DOCS.read_text(), re.MULTILINE)
    assert {(name, severity) for name, severity, _ in rows} == {
        (rule["alert"], rule["labels"]["severity"]) for rule in ALERTS
    }
    assert len(rows) == len(ALERTS)


def test_the_example_scrape_configuration_is_valid(tmp_path: Path) -> None:
    shutil.copy(watched.RULES, tmp_path)
    config = shutil.copy(watched.SCRAPE_EXAMPLE, tmp_path)
    done = promtool("check", "config", config)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = [job["job_name"] for job in yaml.safe_load(Path(config).read_text())["scrape_configs"]]
    assert all(re.fullmatch("mooring.*", job) for job in jobs), "the alerts look for these jobs"
