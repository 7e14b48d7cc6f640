"""What this host knows of each file: who wrote it last, which tellings succeeded, and which have not ended.

The records are small files, one for each container and path, naming the start of the container, the content's
digest and the way of telling.  They live under /run, readable by root only: outside the container, whose
owner could forge them, and gone after a reboot, like the processes they speak of.  A record lost costs one
telling too many, never one too few; what a lost record turned away is accepted again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

from .containers import Container
from .errors import Retry, Stale
from .orders import Write

FORGET_AFTER_S = 7 * 86400.0


@dataclass(frozen=True)
class Begun:
    """A command that did not end in its time; `same`: it was to tell of what shall be told now."""

    run: str
    age_s: float
    same: bool


class Tellings:
    """The records of one owner on this host."""

    def __init__(self, state_dir: str, owner: str) -> None:
        self._directory = Path(state_dir) / "reloads" / hashlib.sha256(owner.encode()).hexdigest()[:16]

    def come_after(self, container: Container, order: Write, epoch: int, *, keep: bool) -> None:
        """Turn away a call that was overtaken at this file; with `keep` the next is compared with this one.

        Raises Stale or Retry.
        """
        path = self._path(container, order).with_suffix(".writer")
        found = self._read(path)
        last_epoch, last_number = found if isinstance(found, list) and len(found) == 2 else (0, 0)
        if epoch < last_epoch:
            raise Stale(f"epoch {epoch} is stale: {order.path} was written by epoch {last_epoch}")
        if epoch == last_epoch and 0 < order.sequence < last_number:
            raise Retry(f"call {order.sequence} is late: {order.path} was written by call {last_number}")
        if keep:
            self._write(path, [epoch, order.sequence])

    def newest_epoch(self) -> int:
        """The highest epoch that wrote a file, as far as is known; 0 if none did."""
        records = [self._read(path) for path in self._directory.glob("*.writer")]
        return max((record[0] for record in records if isinstance(record, list)), default=0)

    def confirmed(self, container: Container, order: Write) -> bool:
        """Whether this start of the container was told of exactly this content in exactly this way."""
        return self._read(self._path(container, order)) == _telling(container, order)

    def confirm(self, container: Container, order: Write) -> None:
        """Remember a telling that succeeded, and forget those of long ago."""
        self._write(self._path(container, order), _telling(container, order))
        self.end(container, order)
        self._forget(time.time() - FORGET_AFTER_S)

    def begun(self, container: Container, order: Write) -> Begun | None:
        """The command begun last in this start of the container, unless its end is known."""
        found = self._read(self._begun_path(container, order))
        if not isinstance(found, dict) or found["telling"][0] != container.incarnation:
            return None
        # The clock runs from boot to boot, as long as the records.
        age_s = time.monotonic() - found["began_at"]
        return Begun(found["run"], age_s, found["telling"] == _telling(container, order))

    def begin(self, container: Container, order: Write, run: str) -> None:
        """Remember a command before it is started: this call may not live to see its end."""
        begun = {"telling": _telling(container, order), "run": run, "began_at": time.monotonic()}
        self._write(self._begun_path(container, order), begun)

    def end(self, container: Container, order: Write) -> None:
        """The command has ended, in whatever way."""
        with contextlib.suppress(FileNotFoundError):
            self._begun_path(container, order).unlink()

    def _read(self, path: Path) -> object:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def _write(self, path: Path, record: object) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_suffix(f"{path.suffix}.new")
        temporary.write_text(json.dumps(record), encoding="utf-8")
        temporary.replace(path)

    def _forget(self, before: float) -> None:
        for path in self._directory.iterdir():
            # Another thread or call may rename or remove the same record at the same time.
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    path.unlink()

    def _path(self, container: Container, order: Write) -> Path:
        key = f"{container.id}\0{order.path}".encode()
        return self._directory / hashlib.sha256(key).hexdigest()

    def _begun_path(self, container: Container, order: Write) -> Path:
        return self._path(container, order).with_suffix(".begun")


def _telling(container: Container, order: Write) -> list[object]:
    return [container.incarnation, order.digest, order.signal, order.command]
