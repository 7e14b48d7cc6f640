"""Which hosts the Ansible inventory names.

Inventories have many forms (INI, YAML, scripts, plug-ins), so Ansible itself is asked.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from mooring.core.errors import ConfigRefused

_TIMEOUT_S = 60.0


async def inventory_hosts(inventory: Path) -> list[str]:
    """All host names, sorted. Raises `ConfigRefused` if Ansible cannot read the inventory or it is empty."""
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
    # A host stands in its groups; only one that has variables stands in `_meta` as well.
    groups = json.loads(output).values()
    hosts = sorted({host for group in groups for host in group.get("hosts", ())})
    if not hosts:
        raise ConfigRefused([f"ansible.inventory: {inventory}: names no host; list the agents"])
    return hosts


def _first_line(complaint: bytes) -> str:
    lines = complaint.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "ansible-inventory failed without a word"
