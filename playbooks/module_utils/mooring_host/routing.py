"""What a host needs beside addresses to be a gateway: forwarding, and masquerade for pools that want it.

Forwarding belongs to the whole host.  Where we turn it on we write that down below the state directory, and
turn it off again when the last gateway goes; where somebody else had turned it on, it stays as it was.  A
reboot forgets both the setting and the note.

Masquerade stands in one nftables table that is named after our owner and is ours alone; it is written whole,
in one transaction of nft, and removed whole.  It is compared with what the kernel lists, so a table that is
as it should be is left alone, and one that somebody emptied is written again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from .errors import Retry
from .host import Settings

NFT_TIMEOUT_S = 5.0
_FORWARDING = {4: "/proc/sys/net/ipv4/ip_forward", 6: "/proc/sys/net/ipv6/conf/all/forwarding"}


def has_nft() -> bool:
    """Whether the host has the program nft."""
    return _nft() is not None


def _nft() -> str | None:
    return shutil.which("nft", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin")))


class Routing:
    """Forwarding and masquerade of one host, for one owner; `devices` are those of our gateways."""

    def __init__(self, settings: Settings, devices: Collection[str]) -> None:
        self._note = Path(settings.state_dir) / f"forwarding-{settings.owner}.json"
        self._table = "mooring_" + re.sub(r"[^A-Za-z0-9]", "_", settings.owner)
        # By their names, one by one: a pattern such as mg* would take an operator's mgmt0 for ours.
        self._devices = sorted(devices)

    def settle(self, versions: Collection[int], networks: Sequence[str], *, check: bool) -> list[str]:
        """Forward these families and masquerade these networks; returns what differed, after mending it."""
        changed = self._settle_forwarding(versions, check)
        if self._listed() != (set(networks) or None):
            changed.append("masquerade")
            if not check:
                self._write(networks)
        return changed

    # -- forwarding

    def _settle_forwarding(self, versions: Collection[int], check: bool) -> list[str]:
        noted = set(self._noted())
        on = [version for version in sorted(versions) if _read(version) == "0"]
        off = [version for version in sorted(noted - set(versions)) if _read(version) == "1"]
        if not check:
            # As long as we may have turned it on, the note says so: a call can be cut off anywhere in here.
            self._remember(noted | set(on))
            for version in (*on, *off):
                Path(_FORWARDING[version]).write_text("1" if version in on else "0", encoding="ascii")
            self._remember((noted | set(on)) & set(versions))
        return [f"forwarding of IPv{version}" for version in (*on, *off)]

    def _noted(self) -> list[int]:
        try:
            return [version for version in json.loads(self._note.read_text()) if version in _FORWARDING]
        except (FileNotFoundError, ValueError, TypeError):
            return []

    def _remember(self, versions: set[int]) -> None:
        if versions == set(self._noted()):
            return
        self._note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._note.write_text(json.dumps(sorted(versions)))

    # -- masquerade

    def _listed(self) -> set[str] | None:
        """The networks that our table masquerades; None if there is no table, and no words for any other."""
        if not has_nft():
            return None
        tables = json.loads(self._run("-j", "list", "tables"))["nftables"]
        names = [(one["table"]["family"], one["table"]["name"]) for one in tables if "table" in one]
        if ("inet", self._table) not in names:
            return None
        mine = json.loads(self._run("-j", "list", "table", "inet", self._table))["nftables"]
        chains = [one["chain"] for one in mine if "chain" in one]
        if [(one.get("type"), one.get("hook")) for one in chains] != [("nat", "postrouting")]:
            return {"a table that is not as we write it"}
        return {self._network(one["rule"]) for one in mine if "rule" in one}

    def _network(self, rule: dict[str, Any]) -> str:
        """What a rule masquerades, in CIDR form; of a rule that is not ours, its own words."""
        try:
            source, out, verdict = rule["expr"]
            prefix = source["match"]["right"]["prefix"]
            spared = out["match"]["right"]
            spared = [spared] if isinstance(spared, str) else sorted(spared["set"])
            ours = "masquerade" in verdict and spared == self._devices
            return f"{prefix['addr']}/{prefix['len']}" if ours else json.dumps(rule["expr"])
        except (KeyError, TypeError, ValueError):
            return json.dumps(rule.get("expr"))

    def _write(self, networks: Sequence[str]) -> None:
        # Adding first makes the deletion succeed whether the table was there or not.
        lines = [f"add table inet {self._table}", f"delete table inet {self._table}"]
        if networks:
            chain = f"inet {self._table} postrouting"
            lines.append(f"add table inet {self._table}")
            lines.append(f"add chain {chain} {{ type nat hook postrouting priority 100; policy accept; }}")
            devices = ", ".join(f'"{device}"' for device in self._devices)
            for network in sorted(set(networks)):
                family = "ip6" if ":" in network else "ip"
                lines.append(
                    f"add rule {chain} {family} saddr {network} oifname != {{ {devices} }} masquerade"
                )
        self._run("-f", "-", given="\n".join(lines) + "\n")

    def _run(self, *words: str, given: str = "") -> str:
        program = _nft()
        if program is None:
            raise Retry("the program nft has vanished from this host")
        try:
            done = subprocess.run(
                [program, *words],
                input=given,
                capture_output=True,
                text=True,
                timeout=NFT_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Retry(f"nft gave no answer within {NFT_TIMEOUT_S:g} s") from error
        if done.returncode:
            complaint = (done.stderr.strip().splitlines() or ["no word of what is wrong"])[0]
            raise Retry(f"nft did not take our table: {complaint}")
        return done.stdout


def _read(version: int) -> str:
    try:
        return Path(_FORWARDING[version]).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""
