"""Generations of a configuration on disk: one directory each, and a symlink to the live one.

A generation is complete and durable before `current` points to it, and the switch is one rename, so
whoever starts Nginx at any moment gets a whole configuration.  The generation before stays, because a
reload may fail and then it comes back.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from mooring.core.errors import Refused
from mooring.lb.files import read, sync_directory, write_durably

CONFIG = "nginx.conf"


class Generations:
    """The directory `root` with `generations/<number>-<marker>/` and `current`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._current = root / "current"
        self._shelf = root / "generations"

    def current(self) -> Path | None:
        """The directory that is live on disk; raises `Refused` if `current` is not a symlink."""
        if self._current.is_symlink():
            return self.root / self._current.readlink()
        if self._current.exists():
            raise Refused(f"{self._current} must be a symlink into {self._shelf}, so that it can be switched")
        return None

    def text(self) -> str | None:
        """The configuration that is live on disk."""
        directory = self.current()
        return read(directory / CONFIG) if directory else None

    def add(self, marker: str, contents: Mapping[str, str]) -> Path:
        """Store a generation durably under the next number, without making it live."""
        self._shelf.mkdir(parents=True, exist_ok=True)
        number = max((_number(path) for path in self._shelf.iterdir()), default=0) + 1
        fresh = self._shelf / f"{number:08d}-{marker}"
        building = self.root / "building"
        shutil.rmtree(building, ignore_errors=True)  # left by a crash
        building.mkdir()
        for name, text in contents.items():
            write_durably(building / name, text)
        sync_directory(building)
        building.rename(fresh)
        sync_directory(self._shelf)
        return fresh

    def switch(self, directory: Path) -> None:
        """Make a generation live on disk, in one step."""
        fresh = self.root / "current.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(os.path.relpath(directory, self.root))
        fresh.replace(self._current)
        sync_directory(self.root)

    def find(self, marker: str) -> Path | None:
        """The newest generation with this marker."""
        found = sorted(self._shelf.glob(f"*-{marker}"), key=_number)
        return found[-1] if found else None

    def prune(self, keep: set[Path]) -> None:
        """Forget all numbered generations but these."""
        kept = {path.resolve() for path in keep}
        for path in self._shelf.iterdir():
            if _number(path) and path.resolve() not in kept:
                shutil.rmtree(path)


def _number(path: Path) -> int:
    head = path.name.partition("-")[0]
    return int(head) if head.isdigit() and len(head) == 8 else 0
