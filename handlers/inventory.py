"""Which hosts the Ansible inventory names, and what it says of them.

Inventories have many forms (INI, YAML, scripts, plug-ins), so Ansible itself is asked.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from mooring.core.errors import ConfigRefused

_TIMEOUT_S = 60.0


async def inventory_hosts(inventory: Path) -> list[str]:
    """All host names, sorted. Raises `ConfigRefused` if Ansible cannot read the inventory or it is empty."""
    # A host stands in its groups; only one that has variables stands in `_meta` as well.
    groups = (await _listed(inventory)).values()
    hosts = sorted({host for group in groups for host in group.get("hosts", ())})
    if not hosts:
        raise ConfigRefused([f"ansible.inventory: {inventory}: names no host; list the agents"])
    return hosts


async def inventory_variable(inventory: Path, name: str) -> dict[str, str]:
    """The value of a variable for each host that has it. Raises `ConfigRefused` like `inventory_hosts`."""
    variables = (await _listed(inventory)).get("_meta", {}).get("hostvars", {})
    return {host: str(known[name]) for host, known in variables.items() if name in known}


async def _listed(inventory: Path) -> dict[str, Any]:
    program = Path(sys.executable).with_name("ansible-inventory")
    process = await asyncio.create_subprocess_exec(
        str(program if program.exists() else "ansible-inventory"),
        "--inventory",
        str(inventory),
        "--list",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C.UTF-8", "ANSIBLE_DEPRECATION_WARNINGS": "0"},
    )
    output, complaint = await asyncio.wait_for(process.communicate(), _TIMEOUT_S)
    if process.returncode:
        raise ConfigRefused([f"ansible.inventory: {inventory}: {_first_line(complaint)}"])
    return dict(json.loads(output))


def _first_line(complaint: bytes) -> str:
    lines = complaint.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "ansible-inventory failed without a word"
