#!/usr/bin/python3
"""Stands in for pipework in tests: the same command line, exit codes and names, and nothing else of it.

    pipework BRIDGE -i INTERFACE CONTAINER IP/LEN[@GATEWAY] MAC[@VLAN]

It only knows an Open vSwitch bridge that exists, and containers of Docker.  Like the real one it names the
port after interface and process, gives a VLAN to a new port only and takes an existing one as it is, replaces
the default route, cares nothing for arping's errors, and ends with 1 at a second run, its link left behind.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run(*words: str) -> str:
    """Run a command; end with 1 if it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr.strip())
        sys.exit(1)
    return done.stdout.strip()


def main(bridge: str, interface: str, container: str, wanted: str, wanted_mac: str) -> None:
    """Wire one container."""
    if bridge not in run("ovs-vsctl", "list-br").split():
        sys.exit(f"I do not know how to setup interface {bridge}.")
    address, _, gateway = wanted.partition("@")
    mac, _, vlan = wanted_mac.partition("@")
    process = run("docker", "inspect", "--format={{ .State.Pid }}", container)
    link = Path("/var/run/netns", process)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(f"/proc/{process}/ns/net")
    here, there = f"v{interface}pl{process}", f"v{interface}pg{process}"
    run("ip", "link", "add", "name", here, "type", "veth", "peer", "name", there)
    if here not in run("ovs-vsctl", "list-ports", bridge).split():
        run("ovs-vsctl", "add-port", bridge, here, *([f"tag={vlan}"] if vlan else []))
    run("ip", "link", "set", here, "up")
    run("ip", "link", "set", there, "netns", process)
    inside = ("nsenter", f"--net=/proc/{process}/ns/net", "ip")
    run(*inside, "link", "set", there, "name", interface)
    run(*inside, "link", "set", "dev", interface, "address", mac)
    run(*inside, "address", "add", address, "dev", interface)
    run(*inside, "link", "set", interface, "up")
    if gateway:
        run(*inside, "route", "replace", f"{gateway}/32", "dev", interface)
        run(*inside, "route", "replace", "default", "via", gateway)
    link.unlink()


if __name__ == "__main__":
    _, bridge_, flag, *rest = sys.argv
    assert flag == "-i"
    main(bridge_, *rest)
