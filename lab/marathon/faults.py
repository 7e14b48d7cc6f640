"""Fault rules: what tests do to events on their way to the streams.

A rule matches events by type, at most `count` of them (None: until removed) and each with
probability `fraction`.  The first matching rule takes the event: drop it, send it twice, send it
`seconds` later, or hold it until `window` events are held (or `seconds` have passed) and then send
those in reverse order.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from enum import Enum
from typing import Self

import msgspec

from mooring.lab.marathon.model import Json


class Action(Enum):
    """What a rule does to an event."""

    DROP = "drop"
    DUPLICATE = "duplicate"
    DELAY = "delay"
    REORDER = "reorder"


class Rule(msgspec.Struct, forbid_unknown_fields=True):
    """One fault, as `POST /lab/faults` takes it."""

    action: Action
    event_types: frozenset[str] = frozenset()  # empty: every type
    count: int | None = None
    fraction: float = 1.0
    seconds: float = 1.0
    window: int = 2
    seed: int | None = None
    hits: int = 0

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """The rule in a request body; raises msgspec's errors, which name the key."""
        return msgspec.json.decode(raw, type=cls)


class Faults:
    """The rules in force, in order of arrival."""

    def __init__(self, deliver: Callable[[Json], None]) -> None:
        """Hand events that get through to `deliver`."""
        self._deliver = deliver
        self._rules: list[tuple[Rule, random.Random]] = []
        self._held: list[Json] = []

    def add(self, rule: Rule) -> None:
        """Put a rule in force."""
        self._rules.append((rule, random.Random(rule.seed)))  # noqa: S311  (chance, not a secret)

    def clear(self) -> None:
        """Remove all rules and release what they hold."""
        self._rules.clear()
        self._release()

    def rules(self) -> list[Rule]:
        """All rules with their hit counts."""
        return [rule for rule, _ in self._rules]

    def pass_through(self, event: Json) -> None:
        """Deliver one event as the rules say."""
        rule = self._match(event)
        if rule is None:
            self._deliver(event)
        elif rule.action is Action.DUPLICATE:
            self._deliver(event)
            self._deliver(event)
        elif rule.action is Action.DELAY:
            asyncio.get_running_loop().call_later(rule.seconds, self._deliver, event)
        elif rule.action is Action.REORDER:
            self._hold(event, rule)

    def _match(self, event: Json) -> Rule | None:
        for rule, chance in self._rules:
            spent = rule.count is not None and rule.hits >= rule.count
            named = not rule.event_types or event.get("eventType") in rule.event_types
            if named and not spent and chance.random() < rule.fraction:
                rule.hits += 1
                return rule
        return None

    def _hold(self, event: Json, rule: Rule) -> None:
        if not self._held:
            asyncio.get_running_loop().call_later(rule.seconds, self._release)
        self._held.append(event)
        if len(self._held) >= rule.window:
            self._release()

    def _release(self) -> None:
        held, self._held = self._held, []
        for event in reversed(held):
            self._deliver(event)
