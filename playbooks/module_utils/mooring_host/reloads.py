"""Writing a dependency file and telling the process, so that the telling is never lost.

A process is told when the content changed, and again when it is not known that the last telling succeeded:
a run may be cut off between the rename and the signal.  What is known stands in a small record on the host,
one file for each container and path, naming the start of the container, the content's digest and the way of
telling.  The records live under /run, readable by root only: outside the container, whose owner could forge
them, and gone after a reboot, like the processes they speak of.  A record lost costs one telling too many,
never one too few.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from .containers import Container
from .errors import Refused, Retry
from .files import write_file
from .host import Host, Result
from .orders import Write

FORGET_AFTER_S = 7 * 86400.0


def write(host: Host, order: Write) -> Result:
    """Put the file in place and tell the process if needed; raises Refused or Retry."""
    digest = hashlib.sha256(order.content).hexdigest()
    if digest != order.digest:
        raise Refused(f"the content of {order.path} does not match its digest")
    _check_epoch(host)
    container = host.engine.find(order.task_id)
    check = host.settings.check
    with host.engine.files(container) as place:
        content_changed, changed = write_file(place, order.path, order.content, order.mode, check=check)
    details = {"path": order.path, "digest": digest, "reloaded": False}
    records = Records(host.settings.state_dir, host.settings.owner)
    listens = bool(order.command or order.signal)
    if listens and (content_changed or not records.confirmed(container, order)):
        if not check:
            _tell(host, container, order)
            records.confirm(container, order)
        details["reloaded"] = changed = True
    return Result(order.id, "done", changed=changed, details=details)


def _check_epoch(host: Host) -> None:
    """Refuse a caller that was overtaken; a host without Open vSwitch has nobody to be overtaken by."""
    if os.path.exists(host.settings.database):
        host.switch().check_epoch(host.settings.epoch)


def _tell(host: Host, container: Container, order: Write) -> None:
    if order.signal:
        host.engine.signal(container, order.signal)
    if order.command:
        code, output = host.engine.execute(container, order.command, order.timeout_s)
        if code != 0:
            raise Retry(f"{order.command[0]} ended with {code}: {output.strip() or 'no output'}")


class Records:
    """The confirmed tellings of one owner on this host."""

    def __init__(self, state_dir: str, owner: str) -> None:
        self._directory = Path(state_dir) / "reloads" / hashlib.sha256(owner.encode()).hexdigest()[:16]

    def confirmed(self, container: Container, order: Write) -> bool:
        """Whether this start of the container was told of exactly this content in exactly this way."""
        try:
            text = self._path(container, order).read_text(encoding="utf-8")
        except OSError:
            return False
        return text == _record(container, order)

    def confirm(self, container: Container, order: Write) -> None:
        """Remember a telling that succeeded, and forget those of long ago."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(container, order)
        temporary = path.with_suffix(".new")
        temporary.write_text(_record(container, order), encoding="utf-8")
        temporary.replace(path)
        self._forget(time.time() - FORGET_AFTER_S)

    def _forget(self, before: float) -> None:
        for path in self._directory.iterdir():
            # Another call may remove the same record at the same time.
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    path.unlink()

    def _path(self, container: Container, order: Write) -> Path:
        key = f"{container.id}\0{order.path}".encode()
        return self._directory / hashlib.sha256(key).hexdigest()


def _record(container: Container, order: Write) -> str:
    return json.dumps([container.incarnation, order.digest, order.signal, order.command])
