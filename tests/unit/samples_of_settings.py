"""A configuration file that is in order, for tests of the commands."""

from __future__ import annotations

from pathlib import Path


def settings_file(directory: Path, **changes: str) -> Path:
    """A configuration that is in order."""
    inventory = directory / "inventory"
    inventory.write_text("[agents]\nagent1\n")
    keys = {"store": f'"{directory}/store.db"', **changes}
    path = directory / "mooring.toml"
    path.write_text(
        "".join(f"{key} = {value}\n" for key, value in keys.items())
        + '[marathon]\nendpoints = ["http://127.0.0.1:8080"]\n'
        + '[pools.blue]\nnetwork = "10.64.0.0/24"\n'
        + f'[ansible]\ninventory = "{inventory}"\n'
        + f'[control]\nsocket = "{directory}/c.sock"\n'
    )
    return path
