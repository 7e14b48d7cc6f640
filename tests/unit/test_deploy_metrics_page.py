"""docs/metrics.md tells of exactly the metrics that there are, with their types and labels."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tests.unit import watched

PAGE = watched.ROOT / "docs/metrics.md"
Described = Mapping[str, tuple[str, frozenset[str]]]


def documented() -> Described:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([\w, ]+) \| .+ \|$", PAGE.read_text(), re.MULTILINE)
    return {
        name: (kind, frozenset() if labels == "none" else frozenset(labels.split(", ")))
        for name, kind, labels in rows
    }


def exported() -> Described:
    found = {}
    for family in watched.shown_by_the_daemon().registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, frozenset(labels))
    return found


def test_the_page_describes_what_is_exported() -> None:
    assert documented() == exported()


def test_every_row_could_be_read() -> None:
    assert len(re.findall(r"^\| `(?:mooring|process|python)_", PAGE.read_text(), re.MULTILINE)) == len(
        exported()
    )
