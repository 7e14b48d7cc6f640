"""The program for the hosts as one archive, made of the very sources that the Ansible module uses.

Its version is a hash of what is in it, so that "another version" means another content and nothing has to be
counted up by hand.  `roles/mooring_host` carries the archive to the hosts, where it unpacks itself.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

from mooring.handlers.plays import PLAYBOOK_DIR

PACKAGE = "mooring_host"
_ENTRY = """\
import sys
from mooring_host.install import main
sys.exit(main(sys.argv[1:]))
"""
_RUN = """\
import os, sys
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from mooring_host.program import main
sys.exit(main(sys.argv[1:]))
"""
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same sources give the same archive


def sources(playbook_dir: Path = PLAYBOOK_DIR) -> dict[str, bytes]:
    """The archive's members by name, without the version."""
    folder = playbook_dir / "module_utils" / PACKAGE
    members = {f"{PACKAGE}/{path.name}": path.read_bytes() for path in sorted(folder.glob("*.py"))}
    return {**members, "__main__.py": _ENTRY.encode(), "run": _RUN.encode()}


def version_of(members: Mapping[str, bytes]) -> str:
    """Twelve hexadecimal digits that stand for the content."""
    digest = hashlib.sha256()
    for name, content in sorted(members.items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


def helper_version(playbook_dir: Path = PLAYBOOK_DIR) -> str:
    """The version that hosts should have."""
    return version_of(sources(playbook_dir))


def write_archive(path: Path, playbook_dir: Path = PLAYBOOK_DIR) -> str:
    """Write the archive; returns its version."""
    members = sources(playbook_dir)
    version = version_of(members)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**members, "version.txt": version.encode()}.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content)
    return version
