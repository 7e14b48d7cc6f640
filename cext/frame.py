"""What every implementation shares: the type that a framer hands out, and the bound on memory."""

from __future__ import annotations

from typing import NamedTuple

DEFAULT_LIMIT = 16 * 1024 * 1024  # bytes that one event, or one element of an array, may take


class ElementTooLong(ValueError):
    """An element takes more bytes than the splitter's limit: the one mistake that is not the document's."""


class Frame(NamedTuple):
    """One Server-Sent Event: its type ("message" if the sender named none) and its data, still undecoded."""

    event: str
    data: bytes
