"""deploy/mooring.toml.example: it loads, and it tells of every setting with the default that it has."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from mooring.controller.settings import Settings, load_settings
from tests.unit.watched import ROOT

EXAMPLE = ROOT / "deploy/mooring.toml.example"
SETTING = re.compile(r'^#(?=["a-z_0-9.-]+ = |\[redis\])', re.MULTILINE)
# One of two ways to authenticate, one of two stores; the whole file shows both.
OTHER_WAY = re.compile(r"^(token_file|store) = .*\n", re.MULTILINE)


def loaded(directory: Path, text: str) -> Settings:
    """The settings, with every file that they name in place."""
    for path in re.findall(r'^#?\w+ = "/etc/mooring/([^"]+)"', text, re.MULTILINE):
        (directory / path).write_text("x")
    file = directory / "mooring.toml"
    file.write_text(text.replace("/etc/mooring/", f"{directory}/"))
    return load_settings(file)


def leaves(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its value; NAME stands for the name of a pool or supernet."""
    for key, value in table.items():
        here = f"{path}.{key}".lstrip(".")
        if isinstance(value, dict) and here not in ("hosts", "fabric.addresses", "pools.shop.reserve"):
            yield from leaves(value, here)
        else:
            named = here.replace("pools.shop", "pools.NAME").replace("supernets.campus", "supernets.NAME")
            yield named, value


def settings_of(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting that there is with its default."""
    for name, field in model.model_fields.items():
        here = f"{path}.{name}".lstrip(".")
        inner = _model(field.annotation)
        if inner is not None and name not in ("routes", "reach"):
            yield from settings_of(inner, f"{here}.NAME" if name in ("pools", "supernets") else here)
        else:
            yield here, None if field.is_required() else field.get_default(call_default_factory=True)


def _model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [_model(part) for part in getattr(annotation, "__args__", ())]
    return next((inner for inner in found if inner), None)


@pytest.fixture
def text() -> str:
    return EXAMPLE.read_text()


def test_it_loads_as_it_is(tmp_path: Path, text: str) -> None:
    settings = loaded(tmp_path, text)
    assert settings.haproxy is not None
    assert settings.nginx is not None


def test_it_loads_with_everything_uncommented(tmp_path: Path, text: str) -> None:
    assert loaded(tmp_path, OTHER_WAY.sub("", SETTING.sub("", text))).pools["shop"].mtu == 1450


def test_it_tells_of_every_setting(text: str) -> None:
    told = {path for path, _ in leaves(tomllib.loads(SETTING.sub("", text)))}
    assert told == {path for path, _ in settings_of(Settings)}


def test_what_is_commented_out_is_the_default(text: str) -> None:
    active = dict(leaves(tomllib.loads(text)))
    everything = dict(leaves(tomllib.loads(SETTING.sub("", text))))
    for path, default in settings_of(Settings):
        if path not in active and default not in (None, (), {}):
            shown = everything[path]
            value = tuple(shown) if isinstance(shown, list) else shown
            assert value == (str(default) if isinstance(default, Path) else default), path
