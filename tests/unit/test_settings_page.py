"""The page about settings is generated, complete and current."""

from __future__ import annotations

from pathlib import Path

from mooring.controller.settings_page import page

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_current() -> None:
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == page(), (
        "run `python -m mooring.controller.settings_page > docs/settings.md`"
    )


def test_every_key_has_a_meaning_and_every_table_a_heading() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    assert [row for row in rows if row.endswith("|  |")] == []
    for table in ("marathon", "pools.NAME", "dns", "control", "log"):
        assert f"## `[{table}]`" in page()


def test_bounds_and_defaults_are_told() -> None:
    assert "| `workers` | integer, at least 1, at most 1024 | `64` |" in page()
    assert "| `endpoints` | list of texts, entries: at least 1 | **required** |" in page()
    assert "| `key_algorithm` | `hmac-sha256` or " in page()
