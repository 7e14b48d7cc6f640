"""What hosts tell about the guards of their ports: how much they dropped, and whether the bridge is secure.

What was dropped is made one rising count for each host and reason.  A host tells for each port how many
packets its rules have dropped since they were put in.  They count from nought again whenever ovs-vswitchd
starts, and vanish with their port; so what is added up here is the differences between two looks.  What a
port dropped after the last look at it is lost, and what it had dropped before this daemon's first look at its
host is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

REASONS = ("address", "mac", "arp", "nd", "tagged", "dhcp", "barred", "other")
Told = Callable[[str, str, int], None]
_Counts = Mapping[str, int]


def _nobody(host: str, reason: str, packets: int) -> None:
    """Nobody wants to know yet."""


def remarks(hosts: Iterable[str], answers: Iterable[object]) -> list[str]:
    """Which bridges are not secure and why, for an operator to read, from the hosts' reports."""
    found = []
    for host, answer in zip(hosts, answers, strict=True):
        told = answer.get("isolation") if isinstance(answer, Mapping) else None
        if told and (told.get("fail_mode") != "secure" or told.get("reason")):
            found.append(f"the bridge of {host} is {told.get('fail_mode')}: {told.get('reason')}")
    return found


class GuardDrops:
    """Looks at what hosts report, and tells what came on top of the last time."""

    def __init__(self) -> None:
        self.told: Told = _nobody  # host, reason, packets since the last look
        self._last: dict[str, dict[str, _Counts]] = {}  # host: port: packets by reason

    def take(self, host: str, answer: Mapping[str, Any]) -> None:
        """A host has answered: what each of its ports dropped. Tells of every reason, if only 0."""
        if answer.get("status") != "done":
            return
        now = {str(port["port"]): port["dropped"] for port in answer.get("ports", ()) if "dropped" in port}
        before = self._last.get(host, now)
        for reason in REASONS:
            self.told(host, reason, sum(_more(before.get(port, {}), now[port], reason) for port in now))
        # A look that could not read the rules leaves what was known.
        self._last[host] = {**now} if now or not answer.get("ports") else self._last.get(host, {})


def _more(before: _Counts, now: _Counts, reason: str) -> int:
    was, is_ = int(before.get(reason, 0)), int(now.get(reason, 0))
    return is_ - was if is_ >= was else is_
