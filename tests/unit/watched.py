"""What Prometheus is told to watch, and what the daemon really shows: read from the files and the registry.

Used by the tests that hold the two against each other, here without and in tests/e2e with a running daemon.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry

from mooring.handlers.guards import REASONS
from mooring.portal.metrics import Metrics
from mooring.portal.pulse import Pulse
from mooring.portal.turns import Turns
from tests.unit.fake_daemon import FakeDaemon
from tests.unit.fake_time import SteppedClock

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy/prometheus/mooring.rules.yml"
RULE_TESTS = ROOT / "deploy/prometheus/tests/mooring.rules.test.yml"
SCRAPE_EXAMPLE = ROOT / "deploy/prometheus/example/prometheus.yml"
DASHBOARD = ROOT / "deploy/grafana/mooring.json"

# Shown by Prometheus itself, with the labels of every scrape target.
FROM_PROMETHEUS = {"up": {}, "ALERTS": {"alertname": set(), "alertstate": {"firing"}}}
OF_THE_TARGET = {"job", "instance"}

_VARIABLES = {"$__rate_interval": "5m", "$job": ".*", "$sink": ".*"}
_STRING = re.compile(r'"[^"]*"')
_SELECTOR = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)\{([^}]*)\}")
_MATCHER = re.compile(r'([a-z_]+)(=~|!~|!=|=)"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|on|without|ignoring)\s*\([^)]*\)")
_WORD = re.compile(r"(?<![A-Za-z0-9_:$.])[A-Za-z_:][A-Za-z0-9_:]*\b(?!\s*\()")
_KEYWORDS = {"and", "or", "unless", "by", "on", "offset", "bool"}


def alerts() -> list[dict[str, Any]]:
    """Every alert rule."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """Every panel that shows something."""
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Where it stands and the expression, variables replaced, for everything that is watched."""
    for rule in alerts():
        yield f"alert {rule['alert']}", rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield f"panel {panel['title']} {target['refId']}", substituted(target["expr"])
    for note in json.loads(DASHBOARD.read_text())["annotations"]["list"]:
        yield f"annotation {note['name']}", substituted(note["expr"])


def substituted(expression: str) -> str:
    """The expression as Grafana would send it with everything chosen."""
    for variable, value in _VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression


def metrics_in(expression: str) -> set[str]:
    """The names of the series that an expression selects."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", " ", _GROUPING.sub(" ", _STRING.sub('""', expression)))
    return set(_WORD.findall(bare)) - _KEYWORDS


def matchers_in(expression: str) -> Iterator[tuple[str, str, str, str]]:
    """Metric, label, operator and value of every matcher."""
    for metric, inside in _SELECTOR.findall(expression):
        for label, operator, value in _MATCHER.findall(inside):
            yield metric, label, operator, value


def shown_by_the_daemon() -> Metrics:
    """Metrics of a daemon that has done a little of everything."""
    metrics = Metrics(CollectorRegistry(), "1.2.3", ["network"], framer="c")
    metrics.collect_from(FakeDaemon(), Pulse(SteppedClock()), Turns())
    metrics.reconciled("success", 0.1)
    metrics.snapshot_taken("merged")
    for reason in REASONS:
        metrics.guards_dropped("h1", reason, 1)
    metrics.verified(1.0, dict.fromkeys([("network", "missing"), ("network", "foreign")], 1))
    return metrics


def series_shown() -> Mapping[str, Mapping[str, set[str]]]:
    """Sample name -> label -> values, of everything that can be selected."""
    shown: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for family in shown_by_the_daemon().registry.collect():
        for sample in family.samples:
            labels = shown[sample.name]
            for label, value in sample.labels.items():
                labels[label].add(value)
    return {**shown, **FROM_PROMETHEUS}
