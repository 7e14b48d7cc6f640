"""What an inventory behind HTTP says it holds, as far as that can be read.

The listing is one JSON object, item by key.  An item is ours if it names us as its owner; retired ones are
history, not stock.  Whatever else is there is foreign, whoever put it there and whatever it looks like.
"""

from __future__ import annotations

import msgspec

from mooring.core.errors import Refused
from mooring.core.sink import Observation
from mooring.core.specs import ItemSpec, Spec
from mooring.core.strokes import in_strokes


class _Head(msgspec.Struct):
    """What is read of every item, before it is taken for ours."""

    owner: str | None = None
    status: str | None = None


async def read_listing(body: bytes, owner: str) -> Observation:
    """The live items of this owner, by key. Raises `Refused` if the body is no such listing."""
    try:
        listed = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError as error:
        raise Refused(f"it is not a JSON object of items by key: {error}") from error
    shown: dict[str, Spec] = {}
    foreign: list[str] = []
    async for key, raw in in_strokes(listed.items()):
        found = _item(key, raw, owner)
        if isinstance(found, str):
            foreign.append(found)
        elif found is not None:
            shown[key] = found
    return Observation(shown, tuple(sorted(foreign)))


def _item(key: str, raw: msgspec.Raw, owner: str) -> ItemSpec | str | None:
    """The item; None if it is retired; a line about it if it is not ours."""
    try:
        head = msgspec.json.decode(raw, type=_Head)
        if head.status == "retired":
            return None
        if head.owner != owner:
            return f"item {key}: " + (f"owner {head.owner!r:.80}" if head.owner else "no owner")
        return msgspec.json.decode(raw, type=ItemSpec)
    except msgspec.DecodeError as error:
        return f"item {key}: {error}"
