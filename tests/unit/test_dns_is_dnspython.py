"""The folder `dns/` must never hide dnspython, wherever Python is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dns.version
import pytest

import dns
import mooring.dns.naming

ROOT = Path(__file__).resolve().parents[2]


def test_import_dns_is_dnspython() -> None:
    assert dns.__file__ is not None
    assert not Path(dns.__file__).resolve().is_relative_to(ROOT / "dns")
    assert dns.version.MAJOR >= 2


def test_our_own_names_live_elsewhere() -> None:
    assert Path(mooring.dns.naming.__file__).resolve() == ROOT / "dns" / "naming.py"


@pytest.mark.parametrize("option", ["-c", "-Pc"])
def test_also_when_started_in_the_checkout(option: str) -> None:
    program = "import dns, dns.update; print(dns.__file__)"
    shown = subprocess.run(
        [sys.executable, option, program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert shown.returncode == 0, shown.stderr
    assert not Path(shown.stdout.strip()).is_relative_to(ROOT / "dns")


def test_no_init_file_appears() -> None:
    assert not (ROOT / "dns" / "__init__.py").exists()
