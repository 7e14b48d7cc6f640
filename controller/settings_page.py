"""Prints `docs/settings.md` from the descriptions in `settings.py`.

    python -m mooring.controller.settings_page > docs/settings.md

The page is never edited by hand; a test compares the two.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mooring.controller.settings import Settings

_INTRO = """# Settings

One TOML file, by default `/etc/mooring/mooring.toml`. It is checked whole before anything starts, and all
faults are reported at once; unknown keys are faults. `mooring check` does the same and then reaches every
part. Durations are in seconds. This page is generated: `python -m mooring.controller.settings_page`.
"""
_WORDS = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path"}


def page() -> str:
    """The whole page as Markdown."""
    return "\n".join([_INTRO, *_section(Settings, "", "")])


def _section(model: type[BaseModel], path: str, remark: str) -> Iterator[str]:
    """Heading, purpose and keys of a table, then the tables below it. `remark`: what its absence means."""
    title = f"`[{path}]`" if path else "Top level"
    yield f"## {title}\n\n{_purpose(model)} {remark}".rstrip() + "\n"
    nested: list[tuple[type[BaseModel], str, str]] = []
    rows = []
    for name, field in model.model_fields.items():
        inner, suffix = _table(field.annotation)
        if inner is None:
            rows.append(_row(name, field))
        else:
            nested.append((inner, f"{path}.{name}{suffix}".lstrip("."), field.description or ""))
    if rows:
        yield "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows, ""])
    for section in nested:
        yield from _section(*section)


def _purpose(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _table(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The model that a key holds, and how its header differs: `.NAME` for tables by name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is dict:
        return _table(parts[1])[0], ".NAME"
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return next((found for part in parts if (found := _table(part)[0])), None), ""
    return None, ""


def _row(name: str, field: FieldInfo) -> str:
    cells = (f"`{name}`", _type(field), _default(field), field.description or "")
    return "| " + " | ".join(part.replace("|", "\\|").replace("<", "&lt;") for part in cells) + " |"


def _type(field: FieldInfo) -> str:
    bounds = [_bound(limit) for limit in field.metadata]
    return ", ".join([_word(field.annotation), *(bound for bound in bounds if bound)])


def _bound(limit: Any) -> str:
    signs = {"ge": "at least", "gt": "more than", "le": "at most", "min_length": "entries: at least"}
    for attribute, words in signs.items():
        value = getattr(limit, attribute, None)
        if value is not None:
            return f"{words} {value:g}"
    pattern = getattr(limit, "pattern", None)
    return f"like `{pattern}`" if pattern else ""


def _word(annotation: Any) -> str:
    if annotation in _WORDS:
        return _WORDS[annotation]
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin is typing.Annotated:
        return _word(parts[0])
    if origin is tuple:
        return f"list of {_plural(parts[0])}"
    if origin is dict:
        return f"table of {_word(parts[1])}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_word(part) for part in parts if part is not type(None))
    raise TypeError(f"settings_page: no words for {annotation!r}; add them")


def _plural(item: Any) -> str:
    if isinstance(item, type) and issubclass(item, BaseModel):
        keys = ", ".join(f"`{name}`" for name in item.model_fields)
        return f"tables with {keys}"
    return re.sub(r"^text$", "texts", _word(item))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    match value:
        case None | () | {}:
            return "none"
        case bool():
            return f"`{str(value).lower()}`"
        case tuple():
            return "`[" + ", ".join(f'"{part}"' for part in value) + "]`"
        case float() | int():
            return f"`{value:g}`" if value < 1e6 else f"`{value}`"
        case _:
            return f'`"{value}"`'


if __name__ == "__main__":
    print(page(), end="")
