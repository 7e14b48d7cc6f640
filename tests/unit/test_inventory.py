"""Which hosts an inventory names, asked of Ansible itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from mooring.core.errors import ConfigRefused
from mooring.handlers.inventory import inventory_hosts


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain", "h2\nh1\n[web]\nh3 ansible_port=2222\n[edge:children]\nweb\n"),
        ("hosts.yml", "all: {hosts: {h1: , h2: {x: 1}}, children: {web: {hosts: {h3: }}}}"),
    ],
)
async def test_every_host_is_named_with_or_without_variables(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert await inventory_hosts(tmp_path / name) == ["h1", "h2", "h3"]


@pytest.mark.parametrize("text", ["", "[web]\n"])
async def test_an_inventory_without_hosts_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "inventory").write_text(text)
    with pytest.raises(ConfigRefused, match="names no host"):
        await inventory_hosts(tmp_path / "inventory")
