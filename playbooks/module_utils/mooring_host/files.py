"""Writing a file inside a running container, whatever the container put in the way.

The container's files belong to its owner, who may have made `/etc/app` a symbolic link to anywhere.  The
write is therefore done by a child process that has first made the container's root its own (`chroot` into
the opened `/proc/PID/root`): every link, relative or absolute, then ends inside the container.  Links of
the `/proc/1/root` kind would still lead out of a container that sees the host's processes, so directories
are opened with RESOLVE_NO_MAGICLINKS.  The child also bounds the damage of a file system that hangs: it is
killed at the deadline, and not waited for if even that does not end it.

The file appears whole or not at all: a temporary file beside it, fsync, rename.  Where the target is a
mount of its own (a file the engine mounted in) rename answers EBUSY, and the content is written in place.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import select
import signal
import stat
import struct
import time
from collections.abc import Iterator
from typing import Any

from .errors import OperationError, Refused, Retry
from .namespaces import Place

DEADLINE_S = 5.0
_BURIAL_S = 0.5
_POLL_S = 0.0005
SYS_OPENAT2 = 437  # the same number on every architecture
RESOLVE_NO_MAGICLINKS = 0x02
_LASTING = {
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.EACCES,
    errno.EPERM,
    errno.ENAMETOOLONG,
}
_libc = ctypes.CDLL(None, use_errno=True)


def write_file(
    place: Place, path: str, content: bytes, mode: int, *, timeout_s: float = DEADLINE_S, check: bool = False
) -> tuple[bool, bool]:
    """Make `path` in the container hold `content` with `mode`.

    Returns (content changed, anything changed); with `check` nothing is written.  Raises Refused for what the
    container's layout does not allow, Retry for what may pass (no space, a hanging file system).
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _child(writer, place, path, content, mode, check)
    os.close(writer)
    try:
        answer = _await(reader, child, min(timeout_s, DEADLINE_S))
    finally:
        os.close(reader)
        _bury(child)
    if "errno" in answer:
        raise _error(path, int(answer["errno"]), str(answer["reason"]))
    return bool(answer["content"]), bool(answer["changed"])


def _await(reader: int, child: int, timeout_s: float) -> dict[str, Any]:
    ready, _, _ = select.select([reader], [], [], timeout_s)
    if not ready:
        os.kill(child, signal.SIGKILL)
        raise Retry(f"writing the file did not end within {timeout_s:g} s")
    data = os.read(reader, 65536)
    if not data:
        raise Retry("the process that writes the file died")
    return dict(json.loads(data))


def _bury(child: int) -> None:
    """Take note of its end, unless it is stuck in the kernel, where a signal does not reach it either."""
    deadline = time.monotonic() + _BURIAL_S
    while os.waitpid(child, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _error(path: str, number: int, reason: str) -> OperationError:
    if number in _LASTING:
        return Refused(f"{path} cannot be written in this container: {reason}")
    return Retry(f"{path} was not written: {reason}")


def _child(writer: int, place: Place, path: str, content: bytes, mode: int, check: bool) -> None:
    """Runs in the forked process and never returns."""
    try:
        try:
            place.enter()
            os.umask(0o022)
            changed = _replace(path, content, mode, check)
            answer: dict[str, object] = {"content": changed[0], "changed": changed[1]}
        except OSError as error:
            answer = {"errno": error.errno or 0, "reason": str(error)}
        os.write(writer, json.dumps(answer).encode())
    finally:
        os._exit(0)


def _replace(path: str, content: bytes, mode: int, check: bool) -> tuple[bool, bool]:
    with _parent(path, create=not check) as directory:
        if directory is None:
            return True, True
        name = os.path.basename(path)
        present = _status(name, directory)
        if present is not None and stat.S_ISDIR(present.st_mode):
            raise OSError(errno.EISDIR, "it is a directory")
        if present is not None and _same_content(name, directory, content):
            return False, _set_mode(name, directory, present, mode, check)
        if not check:
            _write(name, directory, content, mode, present)
        return True, True


@contextlib.contextmanager
def _parent(path: str, *, create: bool) -> Iterator[int | None]:
    """Open the directory of `path`, making what is missing; None if it is missing and must not be made."""
    directory = _open_directory("/")
    try:
        parts = [part for part in path.split("/")[:-1] if part]
        for count, part in enumerate(parts, 1):
            prefix = "/" + "/".join(parts[:count])
            try:
                following = _open_directory(prefix)
            except FileNotFoundError:
                if not create:
                    yield None
                    return
                os.mkdir(part, 0o755, dir_fd=directory)
                following = _open_directory(prefix)
            os.close(directory)
            directory = following
        yield directory
    finally:
        os.close(directory)


def _open_directory(path: str) -> int:
    """Open a directory without passing through magic links; kernels before 5.6 only have the plain way."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    how = ctypes.create_string_buffer(struct.pack("=QQQ", flags, 0, RESOLVE_NO_MAGICLINKS), 24)
    descriptor = int(_libc.syscall(SYS_OPENAT2, -100, path.encode(), how, ctypes.c_size_t(24)))
    if descriptor >= 0:
        return descriptor
    number = ctypes.get_errno()
    if number == errno.ENOSYS:
        return os.open(path, flags)
    raise OSError(number, os.strerror(number), path)


def _status(name: str, directory: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _open_regular(name: str, directory: int, flags: int) -> int | None:
    """Open a plain file, never through a link nor waiting for a pipe's other end; None for anything else."""
    try:
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            return None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def _same_content(name: str, directory: int, content: bytes) -> bool:
    descriptor = _open_regular(name, directory, os.O_RDONLY)
    if descriptor is None:
        return False
    with os.fdopen(descriptor, "rb") as file:
        present = file.read(len(content) + 1)
    return hashlib.sha256(present).digest() == hashlib.sha256(content).digest()


def _set_mode(name: str, directory: int, present: os.stat_result, mode: int, check: bool) -> bool:
    if stat.S_IMODE(present.st_mode) == mode:
        return False
    if not check:
        descriptor = _open_regular(name, directory, os.O_RDONLY)
        if descriptor is not None:
            os.fchmod(descriptor, mode)
            os.close(descriptor)
    return True


def _write(name: str, directory: int, content: bytes, mode: int, present: os.stat_result | None) -> None:
    temporary = f".mooring-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    # One writer per container at a time: a temporary file that exists is the rest of a run that was cut off.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=directory)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        _fill(descriptor, content)
        # The file belongs to whom it belonged before, else to the owner of its directory.
        owner = present or os.fstat(directory)
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.fchmod(descriptor, mode)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
    except OSError as error:
        os.unlink(temporary, dir_fd=directory)
        if error.errno != errno.EBUSY:
            raise
        _write_in_place(name, directory, content, mode)
    finally:
        os.close(descriptor)


def _write_in_place(name: str, directory: int, content: bytes, mode: int) -> None:
    descriptor = _open_regular(name, directory, os.O_WRONLY)
    if descriptor is None:
        raise OSError(errno.EACCES, "it is mounted and no plain file")
    try:
        os.ftruncate(descriptor, 0)
        _fill(descriptor, content)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _fill(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.fsync(descriptor)
