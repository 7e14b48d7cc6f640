"""The Grafana dashboard: importable anywhere, and each panel explains itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit import watched

DASHBOARD = json.loads(watched.DASHBOARD.read_text())
PANELS = watched.panels()
ROWS = (
    "Overview",
    "Latency per sink",
    "Queue",
    "Stream and snapshots",
    "Pools and leases",
    "Sinks",
    "Process",
)


def named(panel: dict[str, Any]) -> str:
    return str(panel["title"])


def test_it_can_be_imported_into_any_grafana() -> None:
    assert DASHBOARD["id"] is None, "an id belongs to one Grafana"
    assert DASHBOARD["uid"] == "mooring", "links to the dashboard go by it"
    assert "mooring" in DASHBOARD["tags"]
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "job", "sink"}


def test_no_data_source_is_fixed() -> None:
    variables = [entry for entry in DASHBOARD["templating"]["list"] if entry["type"] == "query"]
    targets = [target for panel in PANELS for target in panel["targets"]]
    sources = [
        part["datasource"] for part in (*PANELS, *targets, *variables, *DASHBOARD["annotations"]["list"])
    ]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


def test_rows() -> None:
    rows = tuple(panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row")
    assert rows == ROWS


@pytest.mark.parametrize("panel", PANELS, ids=named)
def test_panel_has_description_unit_and_the_chosen_job(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    if panel["type"] != "heatmap":
        assert panel["fieldConfig"]["defaults"]["unit"]
    assert all('job=~"$job"' in target["expr"] for target in panel["targets"])


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_metric_of_the_daemon_is_on_it() -> None:
    """What nobody looks at need not be measured; the histograms' sums and creation times come for free."""
    selected = {name for _, text in watched.expressions() for name in watched.metrics_in(text)}
    ours = {
        name
        for name in watched.series_shown()
        if name.startswith("mooring_") and not name.endswith(("_sum", "_count", "_created"))
    }
    assert ours - selected == set()


def test_it_is_kept_readable() -> None:
    text = json.dumps(DASHBOARD, indent=2, ensure_ascii=False) + "\n"
    assert watched.DASHBOARD.read_text() == text
