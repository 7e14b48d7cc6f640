"""What the stores have in common: who signs a note, how a ledger row is written again, small steps."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec

from mooring.core.model import Epoch
from mooring.core.store import LedgerRow, Note, PutItem, RetireItem

T = TypeVar("T")


def stamped(note: Note, epoch: Epoch) -> Note:
    """The note with the epoch of the daemon that writes it; one that has an epoch comes from a backup."""
    return msgspec.structs.replace(note, epoch=epoch) if note.epoch is None else note


def ledger_writes(row: LedgerRow) -> list[PutItem | RetireItem]:
    """The writes that make this row in a ledger that lacks it."""
    put = PutItem(row.item, row.since)
    return [put] if row.retired_at is None else [put, RetireItem(row.item.key, row.retired_at)]


def chunks(values: Iterable[T], many: int) -> Iterator[list[T]]:
    """The values in lists of at most `many`."""
    walk = iter(values)
    while chunk := list(itertools.islice(walk, many)):
        yield chunk
