"""What a framer hands out; the one type that every framer, in whatever language, must build."""

from __future__ import annotations

from typing import NamedTuple


class Frame(NamedTuple):
    """One Server-Sent Event: its type ("message" if the sender named none) and its data, still undecoded."""

    event: str
    data: bytes
