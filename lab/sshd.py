"""The lab's hosts as Ansible sees them: each an sshd inside its own namespaces.

A host is a network namespace plus a mount and a host name of its own (`files/host.sh`), so that
/var/run/openvswitch and /var/run/docker.sock are what they are on a real agent.  The mount namespace
is a slave of the machine room's (`files/machine-room.sh`), where the container engine runs; that way
the engine's mounts, container namespaces among them, appear on the hosts.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from mooring.lab.namespaces import NamespaceSockets
from mooring.lab.plan import MANAGEMENT, AgentPlan, LabError, LabPlan
from mooring.lab.supervise import MARK, Part, pid_of, run

_FILES = Path(__file__).parent / "files"
_ROOM = "machine-room"


def machine_room(plan: LabPlan) -> Part:
    """The process that holds the mount namespace of engine and hosts."""
    ready_file = plan.state_dir / "machine-room.ready"

    async def ready() -> None:
        if not ready_file.exists():
            raise LabError("mounts are not in place yet")

    script = ["sh", str(_FILES / "machine-room.sh"), str(plan.state_dir), *plan.namespaces]
    argv = ["unshare", "--mount", "--propagation", "private", *script]
    return Part(_ROOM, argv, ready, where="mount namespace of engine and hosts")


def enter_room(plan: LabPlan) -> list[str]:
    """The words that make a command run in the machine room."""
    pid = pid_of(plan, _ROOM)
    if pid is None:
        raise LabError(
            f"the machine room of lab {plan.name} is not running; run `mooring lab down`, then `up`"
        )
    return ["nsenter", f"--mount=/proc/{pid}/ns/mnt"]


async def write_keys(plan: LabPlan) -> None:
    """Make the lab's host key and client key, and what sshd and ssh need to trust them."""
    plan.ssh_dir.mkdir(mode=0o700)
    host_key = plan.ssh_dir / "host_ed25519"
    for key in (host_key, plan.client_key):
        await run(plan, ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", plan.name, "-f", str(key)])
    _write_trust(plan, host_key)


def _write_trust(plan: LabPlan, host_key: Path) -> None:
    public = Path(f"{plan.client_key}.pub").read_text()
    (plan.ssh_dir / "authorized_keys").write_text(public)
    known = Path(f"{host_key}.pub").read_text().strip()
    lines = [f"[127.0.0.1]:{agent.ssh_port} {known}\n" for agent in plan.agents]
    (plan.ssh_dir / "known_hosts").write_text("".join(lines))
    (plan.ssh_dir / "sshd_config").write_text(_sshd_config(plan, host_key))


def _sshd_config(plan: LabPlan, host_key: Path) -> str:
    return f"""\
Port 22
HostKey {host_key}
PidFile none
AuthorizedKeysFile {plan.ssh_dir}/authorized_keys
# The state directory may stand below one that is open to others, such as /tmp.
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
MaxStartups 200
MaxSessions 200
Subsystem sftp internal-sftp
SetEnv {MARK}={plan.name}
"""


def write_inventory(plan: LabPlan) -> None:
    """Ansible's inventory: each agent behind its door, with the lab's key."""
    hosts = [f"{a.hostname} ansible_host=127.0.0.1 ansible_port={a.ssh_port}" for a in plan.agents]
    trust = f"-o UserKnownHostsFile={plan.ssh_dir}/known_hosts -o StrictHostKeyChecking=yes"
    system_python = Path("/usr/bin/python3")
    variables = [
        "ansible_user=root",
        f"ansible_ssh_private_key_file={plan.client_key}",
        f"ansible_ssh_common_args='{trust} -o IdentitiesOnly=yes'",
        f"ansible_python_interpreter={system_python if system_python.exists() else sys.executable}",
        # /run is the host's own; the rest of the file system is shared with the real machine.
        "ansible_remote_tmp=/run/ansible",
        "mooring_helper_dir=/run/mooring-host",
    ]
    lines = ["[agents]", *hosts, "", "[agents:vars]", *variables, ""]
    plan.inventory.write_text("\n".join(lines))


def name(agent: AgentPlan) -> str:
    """What the sshd of a host is called among the parts."""
    return f"sshd-{agent.hostname}"


def part(plan: LabPlan, agent: AgentPlan) -> Part:
    """The sshd of one host; needs the machine room."""
    sshd = ["/usr/sbin/sshd", "-D", "-e", "-f", str(plan.ssh_dir / "sshd_config")]
    host = ["sh", str(_FILES / "host.sh"), str(plan.state_dir), agent.hostname, *sshd]
    own = ["unshare", "--mount", "--uts", "--propagation", "slave", *host]
    # Both namespaces are entered at once: inside the machine room /run/netns is out of sight.
    argv = [*enter_room(plan), f"--net=/run/netns/{agent.namespace}", *own]
    where = f"127.0.0.1:{agent.ssh_port}"
    return Part(name(agent), argv, lambda: banner(plan, agent), where=where)


async def banner(plan: LabPlan, agent: AgentPlan) -> None:
    """Raise unless the host's sshd greets over the management network."""
    sockets = NamespaceSockets(plan.edge)
    try:
        async with asyncio.timeout(2):
            connected = await sockets.connect((str(agent.address), 22))
            with connected:
                greeting = await asyncio.get_running_loop().sock_recv(connected, 64)
    finally:
        sockets.close()
    if not greeting.startswith(b"SSH-"):
        raise LabError(f"{agent.hostname} {MANAGEMENT}: no ssh greeting but {greeting!r}")
