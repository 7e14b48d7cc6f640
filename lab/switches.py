"""The lab's Open vSwitches: one in each agent, one at the top of the rack.

Each has its own database, its own vswitchd and its own run directory, and uses the userspace
datapath, which needs no kernel module and lives wholly inside the namespace of its vswitchd.  On an
agent the run directory is /var/run/openvswitch (see `sshd.py`), so `ovs-vsctl` there finds its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mooring.lab import supervise
from mooring.lab.plan import BRIDGE, TOR, UPLINK, VLANS, AgentPlan, LabPlan
from mooring.lab.supervise import Part, run

_SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")


@dataclass(frozen=True, slots=True)
class Switch:
    """One Open vSwitch: which namespace it is in, where it runs, and what shall be in it."""

    name: str
    namespace: str
    directory: Path
    setup: tuple[str, ...]  # one ovs-vsctl transaction

    @property
    def env(self) -> dict[str, str]:
        """Points every Open vSwitch tool at this one."""
        return {"OVS_RUNDIR": str(self.directory), "OVS_DBDIR": str(self.directory)}


def agent_switch(agent: AgentPlan) -> Switch:
    """The switch of a host: one bridge with the uplink as a trunk."""
    setup = (
        *("--may-exist", "add-br", BRIDGE, "--", "set", "bridge", BRIDGE, "datapath_type=netdev"),
        *("--", "--may-exist", "add-port", BRIDGE, UPLINK, *_trunk(UPLINK)),
    )
    return Switch(f"ovs-{agent.hostname}", agent.namespace, agent.ovs_dir, setup)


def tor_switch(plan: LabPlan) -> Switch:
    """The switch between the hosts: a trunk to each, an access port of the edge in each VLAN."""
    setup = ["--may-exist", "add-br", TOR, "--", "set", "bridge", TOR, "datapath_type=netdev"]
    for agent in plan.agents:
        setup += ["--", *uplink(agent)]
    for vlan in VLANS:
        setup += ["--", "--may-exist", "add-port", TOR, vlan.interface, f"tag={vlan.tag}"]
        setup += ["--", "set", "interface", vlan.interface, "type=internal"]
    return Switch("ovs-tor", plan.edge, plan.tor_dir, tuple(setup))


def uplink(agent: AgentPlan) -> list[str]:
    """What plugs a host's cable into the switch at the top of the rack."""
    return ["--may-exist", "add-port", TOR, agent.edge_uplink, *_trunk(agent.edge_uplink)]


def _trunk(port: str) -> tuple[str, ...]:
    tags = ",".join(str(vlan.tag) for vlan in VLANS)
    return ("--", "set", "port", port, "vlan_mode=trunk", f"trunks={tags}")


def all_switches(plan: LabPlan) -> list[Switch]:
    """Every switch of the lab, the top of the rack first."""
    return [tor_switch(plan), *(agent_switch(agent) for agent in plan.agents)]


async def start(plan: LabPlan, switch: Switch) -> None:
    """Bring one switch up, with its bridge and ports in place."""
    switch.directory.mkdir(parents=True, exist_ok=True)
    database = str(switch.directory / "conf.db")
    await run(plan, ["ovsdb-tool", "create", database, str(_SCHEMA)])
    await start_again(plan, switch)


async def start_again(plan: LabPlan, switch: Switch) -> None:
    """Bring one up that has its database already, with all that is in it."""
    server, daemon = parts(plan, switch)
    await supervise.start(plan, server)
    await run(plan, ["ovs-vsctl", "--no-wait", "init"], env=switch.env)
    await supervise.start(plan, daemon)
    await run(plan, ["ovs-vsctl", "--timeout=15", *switch.setup], env=switch.env)


def parts(plan: LabPlan, switch: Switch) -> tuple[Part, Part]:
    """The two processes of a switch: its database, and what forwards."""
    run_dir = switch.directory
    common = ["-vsyslog:off", "--no-chdir"]
    server = Part(
        name=f"{switch.name}-db",
        argv=[
            *("ovsdb-server", str(run_dir / "conf.db"), f"--remote=punix:{run_dir}/db.sock"),
            *("--remote=db:Open_vSwitch,Open_vSwitch,manager_options", *common),
            *(f"--pidfile={run_dir}/ovsdb-server.pid",),
        ],
        ready=lambda: _ask(plan, switch, "ovs-vsctl", "--timeout=2", "--no-wait", "get-manager"),
        where=f"{run_dir}/db.sock",
        namespace=switch.namespace,
        env=switch.env,
    )
    daemon = Part(
        name=switch.name,
        argv=["ovs-vswitchd", f"unix:{run_dir}/db.sock", *common, f"--pidfile={run_dir}/ovs-vswitchd.pid"],
        ready=lambda: _ask(plan, switch, "ovs-appctl", "--timeout=2", "version"),
        where=f"bridge {TOR if switch.name == 'ovs-tor' else BRIDGE}",
        namespace=switch.namespace,
        env=switch.env,
    )
    return server, daemon


async def _ask(plan: LabPlan, switch: Switch, *argv: str) -> None:
    await run(plan, argv, env=switch.env, timeout_s=5)
