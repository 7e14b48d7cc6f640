"""Templates from labels: what they may do, and that they may do nothing else."""

from __future__ import annotations

import pytest

from mooring.core.template import LARGEST_TEXT, Member, TemplateRefused, render_template

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
