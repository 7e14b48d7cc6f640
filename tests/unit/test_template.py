"""Templates from labels: what they may do, and that they may do nothing else."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mooring.core import template
from mooring.core.template import LARGEST_TEXT, MOST_NODES, Member, TemplateRefused, render_template

DB = Member("/shop/db", 0, "10.64.0.10", 5432, (5432,), "db-0.db.shop.mooring.test", "agent-1")
OTHER = Member("/shop/db", 1, "10.64.0.11", 5432, (5432,), None, "agent-2")


def render(text: str) -> str:
    return render_template(text, {"/shop/db": (DB, OTHER)}, DB)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "{% for m in members %}{{ m.address }}:{{ m.port }} {% endfor %}",
            "10.64.0.10:5432 10.64.0.11:5432 ",
        ),
        ("{{ members|map(attribute='address')|join(',') }}", "10.64.0.10,10.64.0.11"),
        ("{{ apps['/shop/db'][0].name }}", "db-0.db.shop.mooring.test"),
        ("{% for m in members %}{% if m.slot != self_.slot %}{{ m.slot }}{% endif %}{% endfor %}", "1"),
        ("{{ members|length }}{{ ' many' if members else ' none' }}", "2 many"),
        ("{% for app in apps %}{{ app }} {{ apps[app]|length }}{% endfor %}", "/shop/db 2"),
        ("{{ (members|sort(attribute='slot', reverse=true)|first).slot }}", "1"),
        ("{{ members|map(attribute='ports.0')|unique|join('/') }}", "5432"),
        ("{{ apps['/none']|default([])|length }}{{ self_.host|upper }}", "0AGENT-1"),
        ("{% for m in members if m.slot %}{{ loop.index }}{{ ',' if not loop.last }}{% endfor %}", "1"),
        ("{{ members[self_.slot].address }} {{ self_.ports|join(',') }}", "10.64.0.10 5432"),
    ],
)
def test_what_a_template_can_do(text: str, expected: str) -> None:
    assert render(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as p %}",
        "{% extends '/etc/passwd' %}",
        "{{ range(10) }}",
        "{{ 'a' * 1000000000 }}",
        "{{ 2 ** 100000000 }}",
        "{{ members.__class__ }}",
        "{{ members['__class__'] }}",
        "{{ members|map(attribute='__class__')|first }}",
        "{{ members|map('center', 1000000000)|first }}",
        "{{ members|attr('__class__') }}",
        "{{ 'x'|center(1000000000) }}",
        "{{ cycler }}",
        "{{ nobody }}",
        "{% set x = 1 %}",
        "{% macro m() %}{% endmacro %}",
        "{% for a in members %}" * 3 + "{% endfor %}" * 3,
        "{% for a in members recursive %}{% endfor %}",
        "{{ members[7].address }}",
        "{{ apps['/other'] }}",
        "{% for",
        "{{ 1 / 0 }}",
    ],
)
def test_what_a_template_cannot_do(text: str) -> None:
    with pytest.raises(TemplateRefused):
        render(text)


def test_the_result_is_limited() -> None:
    text = "{% for m in members %}" + "x" * (LARGEST_TEXT // 2 + 1) + "{% endfor %}"
    with pytest.raises(TemplateRefused, match="more than"):
        render(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{ members|map(attribute='app')|join(members|map(attribute='app')|join) }}", "are constants"),
        ("{{ members|join('" + "x" * 65 + "') }}", "are constants"),
        ("{{ members|map(attribute='app')|join('" + "x" * 64 + "')|join('y') }}", "join takes a list"),
        ("{{ members|map(attribute='app.real') }}", "no attribute"),
        ("{{ members|sort(false, false, '__class__') }}", "sort takes only"),
        ("{{ members|map(attribute='app', **self_) }}", "map takes only"),
        ("{{ members }}", "a list cannot be printed"),
        ("{{ members|join }}", "a member cannot be printed"),
        ("{{ apps[members] }}", "no index"),
        ("{% for letter in 'abc' %}{% endfor %}", "for takes a list"),
        ("{{ " + "1," * 3000 + " }}", "more than 500 parts"),
        ("{{ members" + ".app" * 1500 + " }}", "more than 30 deep"),
        ("{{ " + "(" * 300 + "1" + ")" * 300 + " }}", "nested too deeply"),
        ("{% if 1 %}" * 110 + "{% endif %}" * 110, "more than 30 deep"),
        ("{% for loop in members %}{% endfor %}", "special loop variable"),
        ("{{ " + "1" * 5000 + " }}", "ValueError"),
        ("{{ 0x" + "f" * 5000 + " }}", "ValueError"),
        ("{{ '" + "\\n" * 300 + "'|nothing }}", "not allowed"),
    ],
)
def test_refused_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(TemplateRefused, match=reason) as refusal:
        render(text)
    assert len(str(refusal.value)) <= 240
    assert str(refusal.value).isprintable()


def test_the_meter_is_not_in_reach() -> None:
    for name in ("(meter)", "meter", "_meter"):
        with pytest.raises(TemplateRefused):
            render("{% for " + name + " in [] %}{% endfor %}{{ " + name + " }}")


def crowd(count: int) -> dict[str, tuple[Member, ...]]:
    return {"/shop/db": tuple(replace(DB, slot=slot, address=f"10.0.0.{slot}") for slot in range(count))}


TWO_LOOPS = "{% for a in members %}{% for b in members %}", "{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    "inner",
    [
        "{% if (members|sort(attribute='address')|map(attribute='address')|join)|length %}{% endif %}",
        "{% if apps['/shop/db'] == members %}{% endif %}",
        "{% if [members, members, a] == [b] %}{% endif %}",
        "{% if a in members %}{% endif %}",
        "{% if (members|unique|first).app %}{% endif %}",
        "{% if a.app %}{% endif %}" * 20,
        "{{ '' }}" * 20,
    ],
)
def test_work_without_a_result_is_limited(inner: str) -> None:
    with pytest.raises(TemplateRefused, match="units of work"):
        render_template(inner.join(TWO_LOOPS), crowd(150), None)


def test_text_that_is_not_written_is_limited() -> None:
    text = "{% if members|map(attribute='app')|join('" + "x" * 64 + "') %}{% endif %}"
    with pytest.raises(TemplateRefused, match="join makes more than"):
        render_template(text, crowd(5000), None)


def test_a_large_but_honest_file_is_within_the_limits() -> None:
    line = "{{ m.app }} {{ m.slot }} {{ m.address }}:{{ m.port }} {{ m.name }}\n"
    text = "{% for m in members %}" + line + "{% endfor %}"
    assert render_template(text, crowd(2000), None).count("\n") == 2000
    pairs = "{% if a.slot < b.slot %}{{ a.slot }}-{{ b.slot }} {% endif %}".join(TWO_LOOPS)
    assert render_template(pairs, crowd(80), None).count("-") == 80 * 79 // 2


def test_a_template_is_compiled_once() -> None:
    text = "{{ members|length }} compiled once"
    with patch.object(template, "_check", wraps=template._check) as check:
        assert [render(text), render(text)] == ["2 compiled once"] * 2
    assert check.call_count == 1


MEMBERS = st.recursive(
    st.sampled_from(["members", "apps['/shop/db']", "[a, b, a]"]),
    lambda inner: st.builds(
        "{}|{}".format, inner, st.sampled_from(["sort(attribute='address,slot')", "unique", "default([])"])
    ),
    max_leaves=4,
)
TEXTS = st.recursive(
    st.sampled_from(["a.address", "b.name", "'x'"])
    | st.builds("{}|map(attribute='app')|join('{}')".format, MEMBERS, st.text("-", max_size=64)),
    lambda inner: (
        st.builds("({}|upper)".format, inner)
        | st.builds("[{}, {}]|join".format, inner, inner)
        | st.builds("({} if {} else '')".format, inner, inner)
    ),
    max_leaves=6,
)
ANY = (
    TEXTS | MEMBERS | st.builds("{}|length".format, MEMBERS) | st.builds("[{}, {}]".format, MEMBERS, MEMBERS)
)
CONDITIONS = (
    st.builds("{} == {}".format, ANY, ANY)
    | st.builds("{} in {}".format, TEXTS, TEXTS)
    | st.builds("a in {}".format, MEMBERS)
    | st.builds("({}) and not ({})".format, ANY, ANY)
)
BODIES = st.recursive(
    st.sampled_from(["text", "{{ loop.index }}"]) | st.builds("{{{{ {} }}}}".format, TEXTS),
    lambda inner: (
        st.builds("{{% if {} %}}{}{{% else %}}{}{{% endif %}}".format, CONDITIONS, inner, inner)
        | st.builds("{}{}".format, inner, inner)
    ),
    max_leaves=6,
)
LOOPED = st.sampled_from(["members", "apps['/shop/db']", "members|sort(attribute='slot')|unique"])
LOOPS = "{{% for a in {} %}}{{% for b in {} if {} %}}{}{{% endfor %}}{{% endfor %}}"
TEMPLATES = st.builds(LOOPS.format, LOOPED, LOOPED, CONDITIONS, BODIES)


class Steps:
    """Counts every call that Python makes, of its own and of C functions, while it is entered."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Steps:
        self._before = sys.getprofile()
        sys.setprofile(self._called)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(self._before)

    def _called(self, frame: object, event: str, arg: object) -> None:
        self.count += event in ("call", "c_call")


BUDGET = 3000
STEPS_OF_A_UNIT = 15  # a filter is a few units and some thirty calls


@given(TEMPLATES, st.integers(0, 40))
@settings(max_examples=80, deadline=None)
def test_no_template_does_more_work_than_it_may(text: str, count: int) -> None:
    """Measured from outside: Python's own count of calls, not the meter's."""
    try:
        template._compiled(text)
    except TemplateRefused:
        return
    with Steps() as steps, contextlib.suppress(TemplateRefused):
        assert len(render_template(text, crowd(count), DB, most_work=BUDGET)) <= BUDGET * 64
    assert steps.count <= (BUDGET + MOST_NODES) * STEPS_OF_A_UNIT
