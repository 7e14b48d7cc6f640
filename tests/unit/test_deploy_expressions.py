"""Every expression of rules and dashboard: well-formed, and about series that the daemon really shows."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.unit import watched

EXPRESSIONS = dict(watched.expressions())
SHOWN = watched.series_shown()


@pytest.mark.parametrize("place", EXPRESSIONS)
def test_it_selects_only_what_the_daemon_shows(place: str) -> None:
    names = watched.metrics_in(EXPRESSIONS[place])
    assert names
    assert names <= SHOWN.keys()


@pytest.mark.parametrize("place", EXPRESSIONS)
def test_it_asks_only_for_labels_and_values_that_exist(place: str) -> None:
    for metric, label, operator, value in watched.matchers_in(EXPRESSIONS[place]):
        known = SHOWN[metric]
        assert label in {*known, *watched.OF_THE_TARGET}, f"{metric} has no label {label}"
        if operator == "=" and label not in watched.OF_THE_TARGET:
            assert value in known[label], f"{metric} never has {label}={value}"


def test_promtool_parses_them_all(tmp_path: Path) -> None:
    rules = [{"record": f"parsed:{number}", "expr": text} for number, text in enumerate(EXPRESSIONS.values())]
    file = tmp_path / "expressions.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(EXPRESSIONS)} rules found" in done.stdout


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('sum by (job, le) (rate(a_bucket{x="no"}[5m])) / b_total offset 5m > 1e3', {"a_bucket", "b_total"}),
        ("a unless on (job) b or vector(0)", {"a", "b"}),
    ],
)
def test_the_reader_of_names_finds_them(expression: str, names: set[str]) -> None:
    assert watched.metrics_in(expression) == names
