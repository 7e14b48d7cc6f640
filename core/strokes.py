"""A long walk over things in memory, in short strokes.

For whoever has no clock at hand: after every so many items, everybody else who is ready runs first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")


async def in_strokes(items: Iterable[T], stroke: int = 500) -> AsyncIterator[T]:
    """The same items; the loop is given away after each `stroke` of them, some milliseconds of light work."""
    for number, item in enumerate(items, start=1):
        yield item
        if number % stroke == 0:
            await asyncio.sleep(0)
