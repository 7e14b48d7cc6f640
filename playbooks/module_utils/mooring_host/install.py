"""Unpacks the program from its own archive, beside the version in use, and switches over.

    PYTHON mooring-host.pyz DIRECTORY

leaves `DIRECTORY/<version>/` with the sources, their compiled form and the script `run`, and the link
`DIRECTORY/current`.  The link changes in one step, so a call that starts meanwhile finds the old program or
the new one, and an installation that fails (a full disk) leaves the old one as it was.  The version before is
kept, because a call may still be running from it; older ones go.  A guardian that runs here is restarted.
"""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile

CURRENT = "current"
GUARDIAN = "mooring-guardian.service"
VERSION_MEMBER = "version.txt"


def install(archive: str, directory: str) -> str:
    """Unpack the archive below the directory and switch over; returns the version.

    Raises OSError, and leaves what was there.
    """
    os.makedirs(directory, mode=0o755, exist_ok=True)
    with zipfile.ZipFile(archive) as packed:
        version = packed.read(VERSION_MEMBER).decode("ascii").strip()
        _unpack(packed, directory, version)
    before = _switch(directory, version)
    _drop_others(directory, {version, before})
    return version


def _unpack(packed: zipfile.ZipFile, directory: str, version: str) -> None:
    fresh = tempfile.mkdtemp(prefix=".new-", dir=directory)
    try:
        packed.extractall(fresh)
        os.chmod(fresh, 0o755)  # noqa: S103 (a program for whoever may run it, as others in /usr/local)
        compileall.compile_dir(fresh, quiet=2)
        place = os.path.join(directory, version)
        shutil.rmtree(place, ignore_errors=True)
        os.rename(fresh, place)
    except OSError:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _switch(directory: str, version: str) -> str:
    """Let `current` lead to the version; returns where it led before, or an empty string."""
    link, fresh = os.path.join(directory, CURRENT), os.path.join(directory, f".{CURRENT}-{os.getpid()}")
    before = os.readlink(link) if os.path.islink(link) else ""
    os.symlink(version, fresh)
    os.rename(fresh, link)
    return before


def _drop_others(directory: str, kept: set[str]) -> None:
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False) and entry.name not in kept:
            shutil.rmtree(entry.path, ignore_errors=True)


def _renew_guardian() -> None:
    """Let a guardian that runs here be one of this version; where there is none, nothing happens."""
    if os.path.isdir("/run/systemd/system"):
        subprocess.run(["systemctl", "try-restart", GUARDIAN], capture_output=True, timeout=30, check=False)


def main(arguments: list[str]) -> int:
    """Install from the archive that this runs from; the exit status."""
    if len(arguments) != 1:
        print("usage: PYTHON mooring-host.pyz DIRECTORY", file=sys.stderr)
        return 2
    try:
        print(install(sys.argv[0], arguments[0]))
        _renew_guardian()
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        print(f"not installed below {arguments[0]}: {error}", file=sys.stderr)
        return 1
    return 0
