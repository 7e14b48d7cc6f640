"""The guards' counts, added up over ports that come and go and switches that start anew."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from mooring.handlers.guards import REASONS, GuardDrops, remarks


class Desk:
    def __init__(self) -> None:
        self.drops = GuardDrops()
        self.total: Counter[tuple[str, str]] = Counter()
        self.drops.told = self._told

    def _told(self, host: str, reason: str, packets: int) -> None:
        assert packets >= 0
        self.total[host, reason] += packets

    def look(self, host: str = "h1", **ports: dict[str, int] | None) -> None:
        told: list[dict[str, Any]] = [
            {"port": name} if dropped is None else {"port": name, "dropped": dropped}
            for name, dropped in ports.items()
        ]
        self.drops.take(host, {"status": "done", "ports": told})


def test_a_bridge_that_is_not_secure_is_told_with_its_reason() -> None:
    secure, plain = (
        {"fail_mode": "secure", "reason": ""},
        {"fail_mode": "standalone", "reason": "no guardian"},
    )
    odd = {"fail_mode": "secure", "reason": "a default rule of others"}
    answers = [{}, {"isolation": secure}, {"isolation": plain}, {"isolation": odd}, OSError("silent")]
    assert remarks(["h1", "h2", "h3", "h4", "h5"], answers) == [
        "the bridge of h3 is standalone: no guardian",
        "the bridge of h4 is secure: a default rule of others",
    ]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_the_first_look_at_a_host_is_where_counting_begins(desk: Desk) -> None:
    desk.look(p={"arp": 7})
    assert desk.total == Counter({("h1", reason): 0 for reason in REASONS})
    desk.look(p={"arp": 9, "mac": 1})
    assert (desk.total["h1", "arp"], desk.total["h1", "mac"]) == (2, 1)


def test_a_port_that_comes_later_counts_whole_and_one_that_goes_takes_nothing_back(desk: Desk) -> None:
    desk.look()
    desk.look(p={"arp": 3}, q={"arp": 2})
    desk.look(q={"arp": 2})
    assert desk.total["h1", "arp"] == 5


def test_counts_that_begin_again_are_added(desk: Desk) -> None:
    desk.look(p={"nd": 5})
    desk.look(p={"nd": 2})
    assert desk.total["h1", "nd"] == 2


def test_hosts_are_kept_apart(desk: Desk) -> None:
    desk.look("h1", p={"mac": 1})
    desk.look("h2", p={"mac": 1})
    desk.look("h2", p={"mac": 4})
    assert (desk.total["h1", "mac"], desk.total["h2", "mac"]) == (0, 3)


def test_a_look_that_could_not_read_the_rules_forgets_nothing(desk: Desk) -> None:
    desk.look(p={"arp": 3})
    desk.look(p=None)
    desk.drops.take("h1", {"status": "retry", "reason": "no switch"})
    desk.look(p={"arp": 4})
    assert desk.total["h1", "arp"] == 1
