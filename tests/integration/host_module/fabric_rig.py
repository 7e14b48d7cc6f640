"""Three hosts and what lies between them: an Ethernet that carries VXLAN, and one that carries VLANs.

    dc        under                            flat            two plain Linux bridges of the data centre
               |  nic0 on each host             |  nic1
    host      br-under 192.0.2.N (netdev)      br-flat         the NIC is the trunk
              br-mooring: tunnels by us

Guests are namespaces with one interface on a bridge; they stand for containers where only the way between
hosts is tested.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mooring.playbooks.module_utils.mooring_host.gateway import restore
from mooring.playbooks.module_utils.mooring_host.host import Host, Settings
from mooring.playbooks.module_utils.mooring_host.namespaces import NetworkNamespace
from mooring.playbooks.module_utils.mooring_host.operations import perform
from tests.integration.host_module.rig import BRIDGE, HostRig, run

FLAT = "br-flat"
UNDER = "br-under"
VNI = 77
_guests = itertools.count(1)


class Guest:
    """A namespace with `eth0` on a bridge of a host."""

    def __init__(self, host: FabricHost, bridge: str, address: str, vlan: int | None, mtu: int) -> None:
        self.address = address.partition("/")[0]
        self.name = f"{host.name}-g{next(_guests)}"
        self._host = host
        self._port = f"g{self.name.rpartition('-g')[2]}"
        run("ip", "netns", "add", self.name)
        run("ip", "-n", host.name, "link", "add", self._port, "type", "veth",
            "peer", "name", "eth0", "netns", self.name)  # fmt: skip
        _sysctl(host.name, f"net.ipv6.conf.{self._port}.disable_ipv6=1")
        run("ip", "-n", host.name, "link", "set", self._port, "up")
        run("ip", "-n", self.name, "link", "set", "eth0", "mtu", str(mtu))
        run("ip", "-n", self.name, "addr", "add", address, "dev", "eth0",
            *(["nodad"] if ":" in address else []))  # fmt: skip
        run("ip", "-n", self.name, "link", "set", "eth0", "up")
        run("ip", "netns", "exec", self.name, "ethtool", "-K", "eth0", "tx", "off")
        host.vsctl("add-port", bridge, self._port, *([f"tag={vlan}"] if vlan else []))
        self.namespace = NetworkNamespace(f"/run/netns/{self.name}")

    @property
    def mac(self) -> str:
        """The MAC of `eth0`."""
        return str(json.loads(run("ip", "-j", "-n", self.name, "link", "show", "eth0"))[0]["address"])

    def ping(self, address: str, *, size: int = 56, tries: int = 5) -> bool:
        """Whether an answer comes; the packet is never split."""
        words = ("ping", "-n", "-c1", "-W1", "-Mdo", "-s", str(size), address)
        return any(self._succeeds(*words) for _ in range(tries))

    def _succeeds(self, *words: str) -> bool:
        inside = ("ip", "netns", "exec", self.name, *words)
        return subprocess.run(inside, capture_output=True, timeout=30, check=False).returncode == 0

    def route(self, via: str) -> None:
        """Set the default gateway."""
        run("ip", "-n", self.name, "route", "replace", "default", "via", via)

    def close(self) -> None:
        self._host.vsctl("--if-exists", "del-port", self._port)
        self.namespace.close()
        run("ip", "netns", "del", self.name, check=False)


class FabricHost(HostRig):
    """One of the hosts; its engine is that of another rig."""

    def __init__(self, directory: Path, number: int, dc: str, engine: str) -> None:
        super().__init__(directory)
        self.number = number
        self.tunnel_address, self.tunnel_address6 = f"192.0.2.{number}", f"2001:db8:2::{number}"
        self.engine = engine
        self._dc = dc
        self._sequence = itertools.count(1)

    def _start_engine(self) -> None:
        """There is one already."""

    def _start_switch(self) -> None:
        super()._start_switch()
        # A new namespace takes after the machine, where an engine may have turned it on.
        _sysctl(self.name, "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")
        run("ip", "-n", self.name, "addr", "flush", "dev", BRIDGE)
        for nic, segment in (("nic0", "under"), ("nic1", "flat")):
            outer = f"{segment}{self.number}"
            run("ip", "-n", self._dc, "link", "add", outer, "type", "veth",
                "peer", "name", nic, "netns", self.name)  # fmt: skip
            run("ip", "-n", self._dc, "link", "set", outer, "master", segment, "up")
            # The kernel sees every frame of the NIC as well; it must not answer beside the switch.
            _sysctl(self.name, f"net.ipv4.conf.{nic}.rp_filter=1", f"net.ipv4.conf.{nic}.arp_ignore=8",
                    f"net.ipv6.conf.{nic}.disable_ipv6=1")  # fmt: skip
            run("ip", "-n", self.name, "link", "set", nic, "up")
            for namespace, end in ((self._dc, outer), (self.name, nic)):
                run("ip", "netns", "exec", namespace, "ethtool", "-K", end, "tx", "off")
        mac = json.loads(run("ip", "-j", "-n", self.name, "link", "show", "nic0"))[0]["address"]
        for bridge, nic in ((UNDER, "nic0"), (FLAT, "nic1")):
            self.vsctl("add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev")
            self.vsctl("add-port", bridge, nic)
        self.vsctl("set", "bridge", UNDER, f'other_config:hwaddr="{mac}"')
        self._address_tunnel_end()

    def reboot(self) -> None:
        """What a reboot does, as far as the ways go: new devices of the switch, an empty firewall."""
        gateways = [port for port in self.ports() if port.startswith("mg")]
        self.switch_daemon.kill()
        self.switch_daemon.wait(10)
        self._processes.remove(self.switch_daemon)
        for device in (*gateways, UNDER):
            run("ip", "-n", self.name, "link", "del", device)
        run("ip", "netns", "exec", self.name, "nft", "flush", "ruleset")
        _sysctl(self.name, "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")
        shutil.rmtree(self.state_dir)
        inside = ("nsenter", f"--net=/run/netns/{self.name}")
        self.switch_daemon = self._spawn(
            "vswitchd.log", *inside, "ovs-vswitchd", f"unix:{self.database}", "--disable-system",
            f"--unixctl={self.directory}/vswitchd.ctl",
        )  # fmt: skip
        self.vsctl("set", "bridge", UNDER, "external_ids:waited=for")  # until the daemon has done it
        self._address_tunnel_end()

    def _address_tunnel_end(self) -> None:
        """What the operator's network configuration does whenever the device appears."""
        run("ip", "-n", self.name, "addr", "replace", f"{self.tunnel_address}/24", "dev", UNDER)
        run("ip", "-n", self.name, "addr", "replace", f"{self.tunnel_address6}/64", "dev", UNDER, "nodad")
        run("ip", "-n", self.name, "link", "set", UNDER, "up")

    def restore(self) -> bool:
        """Give the gateways what a restart took, as a program on the host would."""
        settings = Settings("mooring", 0, BRIDGE, database=self.database, state_dir=self.state_dir)
        host = Host(settings)
        assert self.namespace is not None
        try:
            with self.namespace.entered():
                return restore(host)
        finally:
            host.close()

    def wire(
        self, *operations: dict[str, Any], epoch: int = 1, bridge: str = BRIDGE, number: int | None = None
    ) -> list[dict[str, Any]]:
        """Perform operations on a bridge, as one numbered call."""
        settings = Settings(
            "mooring", epoch, bridge, database=self.database, engine=self.engine, state_dir=self.state_dir
        )
        number = next(self._sequence) if number is None else number
        assert self.namespace is not None
        with self.namespace.entered():
            return perform(settings, [{"sequence": number, **one} for one in operations])

    def links(self) -> dict[str, dict[str, Any]]:
        """The host's devices with their addresses, by name."""
        return {link["ifname"]: link for link in json.loads(run("ip", "-j", "-n", self.name, "addr", "show"))}

    def nft(self) -> str:
        """The host's whole firewall."""
        return run("ip", "netns", "exec", self.name, "nft", "list", "ruleset")


def _sysctl(namespace: str, *settings: str) -> None:
    run("ip", "netns", "exec", namespace, "sysctl", "-qw", *settings)


class FabricRig:
    """The hosts, and guests for the time of a test."""

    def __init__(self, hosts: list[FabricHost], dc: str) -> None:
        self.hosts = hosts
        self.dc = dc

    def order(self, host: FabricHost, to: list[FabricHost] | None = None, **changes: Any) -> dict[str, Any]:
        """The fabric of one host: tunnels to all others, or to these."""
        others = [one for one in self.hosts if one is not host] if to is None else to
        told = [{"name": f"h{one.number}", "address": one.tunnel_address} for one in others]
        return {"op": "fabric", "id": "f", "local": host.tunnel_address, "vni": VNI, "port": 4789,
                **({"peers": told} | changes)}  # fmt: skip

    def mesh(self, **changes: Any) -> None:
        """Tunnels between all hosts."""
        for host in self.hosts:
            [result] = host.wire(self.order(host, **changes))
            assert result["status"] == "done", result

    @contextlib.contextmanager
    def guests(
        self, *where: tuple[int, str], vlan: int | None = 100, bridge: str = BRIDGE, mtu: int = 1446
    ) -> Iterator[list[Guest]]:
        """Guests for the time of the body: (index of the host, address in CIDR form)."""
        made: list[Guest] = []
        try:
            for index, address in where:
                made.append(Guest(self.hosts[index], bridge, address, vlan, mtu))
            yield made
        finally:
            for guest in made:
                guest.close()


@contextlib.contextmanager
def fabric_rig(engine: str) -> Iterator[FabricRig]:
    """Three hosts for the time of the body, with the containers of a given engine."""
    directories = [Path(tempfile.mkdtemp(prefix="hm-")) for _ in range(3)]
    dc = f"{directories[0].name}-dc"
    hosts = [FabricHost(directory, number, dc, engine) for number, directory in enumerate(directories, 1)]
    try:
        run("ip", "netns", "add", dc)
        for segment in ("under", "flat"):
            run("ip", "-n", dc, "link", "add", segment, "type", "bridge", "mcast_snooping", "0")
            run("ip", "-n", dc, "link", "set", segment, "up")
        for host in hosts:
            host.start()
        yield FabricRig(hosts, dc)
    finally:
        for host in hosts:
            host.stop()
        run("ip", "netns", "del", dc, check=False)
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)
