"""Where everything in a lab is, and what it is called.

A lab is decided by three things only: its name, its state directory and its port base.  Every
namespace, address, port and path derives from these here, and nowhere else, so that `up`, `down`,
the tests and the daemon's configuration cannot disagree, and `down` can find what an `up` that was
killed half-way has left.  Nothing in this module touches the machine.

Two labs with different names, directories and port bases never meet: the subnets repeat, but each
lab has them in namespaces of its own.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from mooring.core.errors import MooringError

DEFAULT_NAME = "lab"
DEFAULT_PORT_BASE = 18000
DEFAULT_PARENT = Path("/var/lib/mooring-lab")

# Unix socket paths end at 107 bytes; the longest we need below the state directory is containerd's
# debug socket, 43 bytes.
_LONGEST_STATE_DIR = 62
_MOST_AGENTS = 30  # their ports would meet those of the servers
_NAME = re.compile(r"[a-z][a-z0-9]{0,11}")
_PATH = re.compile(r"/[A-Za-z0-9._/-]+")


class LabError(MooringError):
    """The lab cannot do what was asked. One line: the part, the reason, the remedy."""


@dataclass(frozen=True, slots=True)
class Vlan:
    """One network of the lab's data centre; the edge holds the gateway address."""

    pool: str
    tag: int
    network: IPv4Network
    gateway: IPv4Address

    @property
    def interface(self) -> str:
        """The edge's access port in this VLAN."""
        return f"vlan{self.tag}"


VLANS = (
    Vlan("shop", 100, IPv4Network("10.64.0.0/22"), IPv4Address("10.64.0.1")),
    Vlan("ops", 200, IPv4Network("10.64.8.0/24"), IPv4Address("10.64.8.1")),
)
MANAGEMENT = IPv4Network("10.65.0.0/24")
ZONE = "mooring.test"
REVERSE_ZONES = ("64.10.in-addr.arpa",)
TSIG_KEY = "mooring-key"
TSIG_ALGORITHM = "hmac-sha256"
IMAGE = "mooring-lab/busybox"
BRIDGE = "br-mooring"
OWNER = "mooring"
UPLINK = "uplink0"
TOR = "tor"


@dataclass(frozen=True, slots=True)
class AgentPlan:
    """One agent host."""

    number: int
    hostname: str
    namespace: str
    address: IPv4Address
    ssh_port: int  # on the root namespace's loopback, through the doors
    directory: Path

    @property
    def ovs_dir(self) -> Path:
        """Run directory of this host's Open vSwitch; it is /var/run/openvswitch on the host."""
        return self.directory / "ovs"

    @property
    def edge_management(self) -> str:
        """The edge's end of this host's management cable."""
        return f"mgmt{self.number}"

    @property
    def edge_uplink(self) -> str:
        """The edge's end of this host's data cable."""
        return f"up{self.number}"


@dataclass(frozen=True, slots=True)
class LabPlan:
    """All names, addresses, ports and paths of one lab. Raises `LabError` on an unusable combination."""

    name: str = DEFAULT_NAME
    state_dir: Path = DEFAULT_PARENT / DEFAULT_NAME
    port_base: int = DEFAULT_PORT_BASE
    agent_count: int = 3

    marathon_port = 8088  # inside the edge namespace, as are the next two
    haproxy_port = 80
    nginx_port = 8080

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise LabError(f"lab name {self.name!r}: use up to 12 lower-case letters and digits")
        path = str(self.state_dir)
        if not _PATH.fullmatch(path) or ".." in self.state_dir.parts:
            raise LabError(f"state directory {path!r}: give an absolute path of letters, digits, ._-/")
        if len(path) > _LONGEST_STATE_DIR:
            raise LabError(f"state directory {path}: over {_LONGEST_STATE_DIR} bytes, sockets would not fit")
        if path.startswith(("/run/", "/var/run/")):
            raise LabError(
                f"state directory {path}: the lab's hosts have a /run of their own; choose another"
            )
        if not 1 <= self.agent_count <= _MOST_AGENTS:
            raise LabError(f"{self.agent_count} agents: a lab has 1 to {_MOST_AGENTS}")
        if not 1024 <= self.port_base <= 65000:
            raise LabError(f"port base {self.port_base}: choose one from 1024 to 65000")

    # -- namespaces and hosts

    @property
    def edge(self) -> str:
        """Namespace of the data centre: router, top-of-rack switch, balancers, Marathon."""
        return f"mlab-{self.name}-edge"

    @property
    def agents(self) -> tuple[AgentPlan, ...]:
        """The agent hosts, in order."""
        return tuple(
            AgentPlan(
                number=number,
                hostname=f"agent-{number}",
                namespace=f"mlab-{self.name}-{number}",
                address=MANAGEMENT[10 + number],
                ssh_port=self.port_base + 10 + number,
                directory=self.state_dir / "agents" / f"agent-{number}",
            )
            for number in range(1, self.agent_count + 1)
        )

    def agent(self, hostname: str) -> AgentPlan:
        """The agent of that host name; `LabError` when there is none."""
        for agent in self.agents:
            if agent.hostname == hostname:
                return agent
        known = ", ".join(agent.hostname for agent in self.agents)
        raise LabError(f"no agent {hostname!r} in lab {self.name}: there are {known}")

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Every network namespace of this lab."""
        return (self.edge, *(agent.namespace for agent in self.agents))

    @property
    def cgroup(self) -> str:
        """Parent control group of the lab's containers."""
        return f"mooring-lab-{self.name}"

    # -- ports on the root namespace's loopback

    @property
    def marathon_url(self) -> str:
        """Marathon as seen from the root namespace."""
        return f"http://127.0.0.1:{self.port_base}"

    @property
    def haproxy_door(self) -> int:
        """HAProxy's HTTP front end as seen from the root namespace."""
        return self.port_base + 1

    @property
    def nginx_door(self) -> int:
        """Nginx's HTTP listener as seen from the root namespace."""
        return self.port_base + 2

    @property
    def dns_port(self) -> int:
        """BIND, UDP and TCP."""
        return self.port_base + 53

    @property
    def redis_port(self) -> int:
        """Redis."""
        return self.port_base + 79

    @property
    def portal_port(self) -> int:
        """Where the daemon's portal shall listen."""
        return self.port_base + 81

    @property
    def cmdb_port(self) -> int:
        """The webhook receiver that plays a CMDB."""
        return self.port_base + 85

    @property
    def prometheus_port(self) -> int:
        """Prometheus."""
        return self.port_base + 90

    @property
    def ports(self) -> dict[str, int]:
        """Every port the lab itself listens on in the root namespace, by part."""
        doors = {"marathon": self.port_base, "haproxy": self.haproxy_door, "nginx": self.nginx_door}
        hosts = {f"sshd {agent.hostname}": agent.ssh_port for agent in self.agents}
        servers = {
            "bind": self.dns_port,
            "redis": self.redis_port,
            "cmdb": self.cmdb_port,
            "prometheus": self.prometheus_port,
        }
        return {**doors, **hosts, **servers}

    # -- files below the state directory

    @property
    def marker(self) -> Path:
        """Says that the directory is this lab's, with the plan and whether `up` came to its end."""
        return self.state_dir / "lab.json"

    @property
    def log_dir(self) -> Path:
        """One log file for each process."""
        return self.state_dir / "log"

    @property
    def pid_dir(self) -> Path:
        """One pid file for each process."""
        return self.state_dir / "pid"

    @property
    def docker_socket(self) -> Path:
        """The one container engine behind all agents."""
        return self.state_dir / "docker.sock"

    @property
    def docker_dir(self) -> Path:
        """The engine's data and run directories."""
        return self.state_dir / "docker"

    @property
    def tor_dir(self) -> Path:
        """Run directory of the top-of-rack switch."""
        return self.state_dir / "tor"

    @property
    def ssh_dir(self) -> Path:
        """Host key, client key and known hosts."""
        return self.state_dir / "ssh"

    @property
    def client_key(self) -> Path:
        """The private key that opens every agent."""
        return self.ssh_dir / "client_ed25519"

    @property
    def inventory(self) -> Path:
        """Ansible's inventory of the agents."""
        return self.state_dir / "inventory.ini"

    @property
    def bind_dir(self) -> Path:
        """Zones, journals and configuration of BIND."""
        return self.state_dir / "bind"

    @property
    def tsig_secret(self) -> Path:
        """The base64 secret of `TSIG_KEY`, alone in its file."""
        return self.bind_dir / "tsig.secret"

    @property
    def tsig_key(self) -> Path:
        """The same secret as BIND, dig and nsupdate read it."""
        return self.bind_dir / "tsig.key"

    @property
    def haproxy_dir(self) -> Path:
        """Configuration and sockets of HAProxy; the daemon owns `haproxy.cfg` in it."""
        return self.state_dir / "haproxy"

    @property
    def nginx_dir(self) -> Path:
        """Generations of Nginx's configuration; the daemon owns `current` in it."""
        return self.state_dir / "nginx"

    @property
    def nginx_status(self) -> Path:
        """Unix socket on which Nginx tells which generation its workers run."""
        return self.nginx_dir / "status.sock"

    @property
    def redis_dir(self) -> Path:
        """Redis' append-only file."""
        return self.state_dir / "redis"

    @property
    def prometheus_dir(self) -> Path:
        """Prometheus' configuration and data."""
        return self.state_dir / "prometheus"

    @property
    def cmdb_dir(self) -> Path:
        """The webhook receiver's shared secret."""
        return self.state_dir / "cmdb"

    @property
    def cmdb_secret(self) -> Path:
        """The key of the webhook's HMAC, alone in its file."""
        return self.cmdb_dir / "webhook.secret"

    @property
    def marathon_config(self) -> Path:
        """What the lab's Marathon reads at its start."""
        return self.state_dir / "marathon.json"

    @property
    def daemon_dir(self) -> Path:
        """Store, control socket and work files of the Mooring daemon that serves this lab."""
        return self.state_dir / "daemon"

    @property
    def daemon_config(self) -> Path:
        """The configuration `mooring run` needs to serve this lab."""
        return self.state_dir / "mooring.toml"

    # -- remembered plans

    def remember(self) -> dict[str, str | int]:
        """What the marker keeps, so that later commands need the state directory only."""
        return {
            "name": self.name,
            "state_dir": str(self.state_dir),
            "port_base": self.port_base,
            "agent_count": self.agent_count,
        }

    @classmethod
    def recall(cls, state_dir: Path) -> LabPlan | None:
        """The plan of the lab in that directory; None where no marker stands or it is torn."""
        try:
            kept = json.loads((state_dir / "lab.json").read_text())
            return cls(kept["name"], state_dir, kept["port_base"], kept.get("agent_count", 3))
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None
