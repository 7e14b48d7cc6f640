"""Templates that app owners write, and that we dare to render.

A template arrives in a label, so it is hostile until proven harmless.  Sandboxing alone is not enough:
a sandboxed Jinja2 can still be told to multiply a string until memory ends.  Three fences stand around it.

*Kinds.*  The text is parsed, and every node of its syntax tree must be of a kind listed here.  What is left
can print the values it is given, loop over them at most two deep, compare, branch and use a few filters
with constant arguments.  There are no calls, no arithmetic, no includes and no imports, hence no files and
no endless loops.  The tree may have so many nodes and so many levels, and no more.

*Work.*  Two loops and a filter inside them are enough to keep the event loop busy for a minute, and a
chain of joins to fill the memory.  So everything whose cost depends on the values passes a meter: what is
looped over (its items times the nodes of the loop), filtered, compared, used as an index or printed.
One unit is about one step of the interpreter, an item or 64 characters; a rendering may use `MOST_WORK`
of them.  The meter is built into the tree before it is compiled, and into the filters themselves.

*Text.*  The rendered text is limited, and so is every text that `join` puts together on the way.

What a template sees: `members` (all members of the named apps, by app and slot), `apps` (the same,
grouped: `apps['/shop/db']`), and `self_` for the instance the file is written into.  A member has
`app`, `slot`, `address`, `port` (the first), `ports`, `name`, `host`, `address6`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, Undefined, nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

LARGEST_TEXT = 256 * 1024  # characters of a rendered file
MOST_WORK = 200_000  # units for one rendering; a thousand members with ten values each need 40,000
MOST_NODES = 500
_DEEPEST_NODE = 30
_DEEPEST_LOOP = 2
_LONGEST_ARGUMENT = 64  # characters of a filter's argument
_LONGEST_REASON = 240  # characters of a refusal
_UNIT = 64  # characters

_HARMLESS: tuple[type[nodes.Node], ...] = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.CondExpr,
    nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Const, nodes.List, nodes.Tuple,
    nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Filter, nodes.Keyword,
)  # fmt: skip
_FILTERS: dict[str, frozenset[str]] = {  # what each takes by name
    "join": frozenset({"d"}),
    "first": frozenset(),
    "last": frozenset(),
    "length": frozenset(),
    "sort": frozenset({"attribute", "reverse", "case_sensitive"}),
    "map": frozenset({"attribute", "default"}),
    "default": frozenset({"default_value", "boolean"}),
    "upper": frozenset(),
    "lower": frozenset(),
    "unique": frozenset({"attribute", "case_sensitive"}),
}
_POSITIONAL = {"join": 1, "default": 2}  # arguments without a name; `map` would apply any filter with one
_OF_LISTS = frozenset({"join", "sort", "map", "unique"})
_OF_TEXT = frozenset({"upper", "lower"})
_VALUES = frozenset({"members", "apps", "self_", "loop"})
_METER = "(meter)"  # where the context holds it; not a name that a template can spell


class TemplateRefused(ValueError):
    """The template does, or would do, something that we do not allow; one line says what and where."""

    def __init__(self, reason: str) -> None:
        super().__init__(one_line(reason, _LONGEST_REASON))


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
    address6: str | None = None  # where its pool is paired with an IPv6 network


_FIELD = f"(?:{'|'.join(field.name for field in fields(Member))})(?:\\.[0-9]{{1,3}})?"
_ATTRIBUTE = re.compile(rf"{_FIELD}(?:,{_FIELD})*\Z")


def one_line(text: str, longest: int) -> str:
    """The text without line breaks and control characters, cut to so many characters."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    return plain if len(plain) <= longest else plain[: longest - 3] + "..."


def render_template(
    text: str, members: Mapping[str, tuple[Member, ...]], own: Member | None, most_work: int = MOST_WORK
) -> str:
    """The text for one instance.

    Raises `TemplateRefused`, and nothing else, when a part of the template is not harmless, a value is
    missing, the work is more than `most_work` units or the text longer than `LARGEST_TEXT` characters.
    """
    template = _compiled(text)
    ordered = [member for app in sorted(members) for member in members[app]]
    values = {"members": ordered, "apps": dict(members), "self_": own, _METER: _Meter(most_work)}
    try:
        return _limited(template.generate(values))
    except TemplateRefused:
        raise
    except Exception as error:  # a template can fail in any way Python can; all of them are its author's
        raise TemplateRefused(f"{type(error).__name__}: {error}") from error


@lru_cache(maxsize=256)
def _compiled(text: str) -> Template:
    """The checked and metered template. A refusal is not kept, a template is."""
    try:
        tree = _environment.parse(text)
        _check(tree)
        return _environment.from_string(_Metering().visit(tree))
    except TemplateRefused:
        raise
    except TemplateError as error:
        raise TemplateRefused(f"line {getattr(error, 'lineno', 1)}: {error.message}") from error
    except RecursionError as error:
        raise TemplateRefused("is nested too deeply") from error
    except Exception as error:  # neither the parser nor Python's compiler was made for hostile text
        raise TemplateRefused(f"{type(error).__name__}: {error}") from error


def _check(tree: nodes.Template) -> None:
    assigned: set[str] = set()
    loaded: list[nodes.Name] = []
    for count, (node, level, loops) in enumerate(_walk(tree), start=1):
        if count > MOST_NODES:
            raise TemplateRefused(f"line {node.lineno}: has more than {MOST_NODES} parts")
        if level > _DEEPEST_NODE:
            raise TemplateRefused(f"line {node.lineno}: is nested more than {_DEEPEST_NODE} deep")
        _check_node(node, loops)
        if isinstance(node, nodes.Name):
            if node.ctx == "load":
                loaded.append(node)
            else:
                assigned.add(node.name)
    for name in loaded:
        if name.name not in _VALUES | assigned:
            known = ", ".join(sorted(_VALUES - {"loop"}))
            raise TemplateRefused(f"line {name.lineno}: unknown value {name.name!r}; there are: {known}")


def _walk(tree: nodes.Node) -> Iterator[tuple[nodes.Node, int, int]]:
    """Every node with its level and the loops around it. Without recursion: the tree is not yet known."""
    waiting = [(tree, 0, 0)]
    while waiting:
        node, level, loops = waiting.pop()
        loops += isinstance(node, nodes.For)
        yield node, level, loops
        children = [(child, level + 1, loops) for child in node.iter_child_nodes()]
        waiting.extend(reversed(children))  # so that the first fault in the text is the one named


def _check_node(node: nodes.Node, loops: int) -> None:
    if not isinstance(node, _HARMLESS):
        kind = type(node).__name__.lower()
        raise TemplateRefused(f"line {node.lineno}: {kind} is not allowed in a template")
    if isinstance(node, nodes.Filter):
        _check_filter(node)
    if isinstance(node, nodes.For) and (loops > _DEEPEST_LOOP or node.recursive):
        raise TemplateRefused(f"line {node.lineno}: loops may be {_DEEPEST_LOOP} deep")
    attribute = _attribute(node)
    if attribute.startswith("_"):
        raise TemplateRefused(f"line {node.lineno}: {attribute!r} is not a value that a template may read")


def _check_filter(node: nodes.Filter) -> None:
    """Arguments are constants and short: one that is computed could be as long as everything before it."""
    if node.name not in _FILTERS:
        raise TemplateRefused(f"line {node.lineno}: filter {node.name!r} is not allowed")
    named: dict[str, nodes.Expr] = {str(pair.key): pair.value for pair in node.kwargs}
    unknown = sorted(named.keys() - _FILTERS[node.name])
    if unknown or node.dyn_args or node.dyn_kwargs or len(node.args) > _POSITIONAL.get(node.name, 0):
        allowed = ", ".join(sorted(_FILTERS[node.name])) or "no arguments"
        raise TemplateRefused(f"line {node.lineno}: {node.name} takes only {allowed} in a template")
    if not all(map(_short, [*node.args, *named.values()])):
        raise TemplateRefused(
            f"line {node.lineno}: arguments of {node.name} are constants, at most {_LONGEST_ARGUMENT} long"
        )
    if node.name == "map" and "attribute" not in named:
        raise TemplateRefused(f"line {node.lineno}: map needs attribute='...' in a template")
    attribute = named.get("attribute")
    if isinstance(attribute, nodes.Const) and not _ATTRIBUTE.match(str(attribute.value)):
        raise TemplateRefused(f"line {node.lineno}: members have no attribute {attribute.value!r}")


def _short(argument: nodes.Expr) -> bool:
    if isinstance(argument, nodes.Const):
        return len(repr(argument.value)) <= _LONGEST_ARGUMENT + 2  # with its quotes
    return isinstance(argument, nodes.List) and not argument.items  # default([])


def _attribute(node: nodes.Node) -> str:
    if isinstance(node, nodes.Getattr):
        return node.attr
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        return str(node.arg.value)
    return ""


class _Metering(NodeTransformer):
    """Leads what is looped over, compared or used as an index through a filter that meters it."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        size = nodes.Const(sum(1 for _ in _walk(node)))
        self.generic_visit(node)
        node.iter = _through("(loop)", node.iter, size)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        node.expr = _through("(compare)", node.expr)
        return node

    def visit_Operand(self, node: nodes.Operand) -> nodes.Operand:
        self.generic_visit(node)
        node.expr = _through("(compare)", node.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Getitem:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Const):
            node.arg = _through("(index)", node.arg)
        return node


def _through(name: str, value: nodes.Node, *args: nodes.Node) -> nodes.Filter:
    return nodes.Filter(value, name, list(args), [], None, None, lineno=value.lineno)


class _Meter:
    """The work that one rendering has left."""

    def __init__(self, most: int) -> None:
        self.most = self.left = most

    def spend(self, units: int) -> None:
        self.left -= units
        if self.left < 0:
            raise TemplateRefused(
                f"needs more than {self.most} units of work; use fewer loops or filters inside loops"
            )

    def weigh(self, value: object) -> None:
        """Spend what it takes to look at all of a value once."""
        self.spend(1 + len(value) // _UNIT if isinstance(value, str) else 1)
        if isinstance(value, (list, tuple, dict)):
            for item in value:
                self.weigh(item)

    def text(self, value: object) -> str:
        """The value as text, if it is one that has a text of its own."""
        if not isinstance(value, (str, int, float, Undefined, type(None))):
            kind = type(value).__name__.lower()
            raise TemplateRefused(f"a {kind} cannot be printed; use its values, or join for a list")
        text = str(value)  # of an undefined value: raises and says what is missing
        self.weigh(text)
        return text


def _meter(context: Context) -> _Meter:
    found: _Meter = context[_METER]
    return found


@pass_context
def _printed(context: Context, value: object) -> str:
    return _meter(context).text(value)


@pass_context
def _looped(context: Context, value: object, size: int) -> object:
    found = _listed(value, "for")
    _meter(context).spend(len(found) * size)
    return found


@pass_context
def _compared(context: Context, value: object) -> object:
    _meter(context).weigh(value)
    return value


@pass_context
def _indexed(context: Context, value: object) -> object:
    if isinstance(value, (list, tuple, dict)):
        raise TemplateRefused(f"a {type(value).__name__} is no index")
    _meter(context).weigh(value)
    return value


@pass_context
def _joined(context: Context, value: object, d: object = "") -> object:
    meter = _meter(context)
    pieces = [meter.text(piece) for piece in _listed(value, "join")]
    length = sum(map(len, pieces)) + len(str(d)) * len(pieces)
    if length > LARGEST_TEXT:
        raise TemplateRefused(f"join makes more than {LARGEST_TEXT} characters")
    meter.spend(length // _UNIT)
    return _jinja.call_filter("join", pieces, [d], context=context)


def _metered(name: str) -> Callable[..., object]:
    """Jinja2's filter of that name, with its input and its result metered."""

    @pass_context
    def run(context: Context, value: object, *args: object, **kwargs: object) -> object:
        meter = _meter(context)
        meter.weigh(value)
        if name in _OF_LISTS:
            value = _listed(value, name)
        if name in _OF_TEXT:
            value = meter.text(value)
        if name == "sort" and isinstance(value, (list, tuple, dict)):
            keys = 1 + str(kwargs.get("attribute")).count(",")
            meter.spend(len(value) * len(value).bit_length() * keys)
        result = _jinja.call_filter(name, value, args, kwargs, context)
        if isinstance(result, Iterator):  # map and unique work when somebody asks; here it is metered
            result = list(result)
        meter.weigh(result)
        return result

    return run


def _listed(value: object, use: str) -> list[Any] | tuple[Any, ...] | dict[Any, Any]:
    if isinstance(value, (list, tuple, dict)):
        return value
    if isinstance(value, Undefined):
        str(value)  # raises and says what is missing
    raise TemplateRefused(f"{use} takes a list, not a {type(value).__name__.lower()}")


def _limited(pieces: Iterator[str]) -> str:
    text: list[str] = []
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > LARGEST_TEXT:
            raise TemplateRefused(f"renders to more than {LARGEST_TEXT} characters")
        text.append(piece)
    return "".join(text)


_jinja = ImmutableSandboxedEnvironment(loader=None, undefined=StrictUndefined)  # for its filters
_environment = ImmutableSandboxedEnvironment(
    loader=None, undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True, finalize=_printed
)
_environment.filters = {
    **{name: _metered(name) for name in _FILTERS},
    "join": _joined,
    "(loop)": _looped,
    "(compare)": _compared,
    "(index)": _indexed,
}
