"""Templates that app owners write, and that we dare to render.

A template arrives in a label, so it is hostile until proven harmless.  Sandboxing alone is not enough:
a sandboxed Jinja2 can still be told to multiply a string until memory ends.  So a template is parsed
and every node of its syntax tree must be of a kind listed here.  What is left can print the values it
is given, loop over them at most two deep, compare, branch and use a few filters.  There are no calls,
no arithmetic, no includes and no imports, hence no files, no endless loops and no growth beyond
(values squared).  The rendered text is limited as well.

What a template sees: `members` (all members of the named apps, by app and slot), `apps` (the same,
grouped: `apps['/shop/db']`), and `self_` for the instance the file is written into.  A member has
`app`, `slot`, `address`, `port` (the first), `ports`, `name`, `host`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import StrictUndefined, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

LARGEST_TEXT = 256 * 1024  # characters of a rendered file

_HARMLESS: tuple[type[nodes.Node], ...] = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.CondExpr,
    nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Const, nodes.List, nodes.Tuple,
    nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Filter, nodes.Keyword,
)  # fmt: skip
_FILTERS = frozenset(
    {"join", "first", "last", "length", "sort", "map", "default", "upper", "lower", "unique"}
)
_VALUES = frozenset({"members", "apps", "self_", "loop"})
_DEEPEST_LOOP = 2

_environment = ImmutableSandboxedEnvironment(
    loader=None, undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True
)


class TemplateRefused(ValueError):
    """The template does, or would do, something that we do not allow; the message says what and where."""


@dataclass(frozen=True, slots=True)
class Member:
    """One instance of an app, as its dependents see it."""

    app: str
    slot: int | None
    address: str
    port: int | None
    ports: tuple[int, ...]
    name: str | None
    host: str


def check_template(text: str) -> None:
    """Raise `TemplateRefused` unless every part of the template is harmless."""
    try:
        tree = _environment.parse(text)
    except TemplateError as error:
        raise TemplateRefused(f"line {getattr(error, 'lineno', 1)}: {error.message}") from error
    _check_node(tree, depth=0)
    assigned = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
    for name in tree.find_all(nodes.Name):
        if name.ctx == "load" and name.name not in _VALUES | assigned:
            known = ", ".join(sorted(_VALUES - {"loop"}))
            raise TemplateRefused(f"line {name.lineno}: unknown value {name.name!r}; there are: {known}")


def render_template(text: str, members: Mapping[str, tuple[Member, ...]], own: Member | None) -> str:
    """The text for one instance. Raises `TemplateRefused` when a value is missing or the text is too long."""
    check_template(text)
    ordered = [member for app in sorted(members) for member in members[app]]
    template = _environment.from_string(text)
    try:
        pieces = template.generate(members=ordered, apps=dict(members), self_=own)
        return _limited(pieces)
    except TemplateRefused:
        raise
    except Exception as error:  # a template can fail in any way Python can; all of them are its author's
        raise TemplateRefused(f"{type(error).__name__}: {error}") from error


def _check_node(node: nodes.Node, depth: int) -> None:
    if not isinstance(node, _HARMLESS):
        kind = type(node).__name__.lower()
        raise TemplateRefused(f"line {node.lineno}: {kind} is not allowed in a template")
    if isinstance(node, nodes.Filter) and node.name not in _FILTERS:
        raise TemplateRefused(f"line {node.lineno}: filter {node.name!r} is not allowed")
    if (
        isinstance(node, nodes.Filter)
        and node.name == "map"
        and (node.args or node.dyn_args or node.dyn_kwargs)
    ):
        # With a positional argument `map` would apply any filter there is.
        raise TemplateRefused(f"line {node.lineno}: map takes only attribute='...' in a template")
    attribute = _attribute(node)
    if attribute.startswith("_"):
        raise TemplateRefused(f"line {node.lineno}: {attribute!r} is not a value that a template may read")
    if isinstance(node, nodes.For):
        depth += 1
        if depth > _DEEPEST_LOOP or node.recursive:
            raise TemplateRefused(f"line {node.lineno}: loops may be {_DEEPEST_LOOP} deep")
    for child in node.iter_child_nodes():
        _check_node(child, depth)


def _attribute(node: nodes.Node) -> str:
    if isinstance(node, nodes.Getattr):
        return node.attr
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        return str(node.arg.value)
    return ""


def _limited(pieces: Iterator[Any]) -> str:
    text: list[str] = []
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > LARGEST_TEXT:
            raise TemplateRefused(f"renders to more than {LARGEST_TEXT} characters")
        text.append(piece)
    return "".join(text)
