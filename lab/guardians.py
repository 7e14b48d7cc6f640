"""The guardian of each host: the part of the host program that stays, and restores the switch's rules.

It runs inside its host (network, mounts and host name), as the service does on a real one, so that it finds
the switch where a host has it and others on the host find that it runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mooring.lab import sshd
from mooring.lab.plan import BRIDGE, OWNER, AgentPlan, LabError, LabPlan
from mooring.lab.supervise import Part, pid_of, run
from mooring.lab.switches import agent_switch

_PROGRAM = Path(__file__).parents[1] / "playbooks/module_utils"
_OURS = "cookie=0xa0b0000000000000/0xfff0000000000000"


def part(plan: LabPlan, agent: AgentPlan) -> Part:
    """The guardian of one host; needs its switch and its sshd."""
    host = pid_of(plan, sshd.name(agent)) or 0
    system_python = Path("/usr/bin/python3")
    argv = [
        *("nsenter", f"--mount=/proc/{host}/ns/mnt", f"--uts=/proc/{host}/ns/uts"),
        *(f"--net=/run/netns/{agent.namespace}", "--"),
        *(str(system_python if system_python.exists() else sys.executable), "-m", "mooring_host.guardian"),
        *(f"--owner={OWNER}", f"--bridge={BRIDGE}"),
    ]
    return Part(
        name=f"guardian-{agent.hostname}",
        argv=argv,
        ready=lambda: _rules(plan, agent),
        where=f"bridge {BRIDGE}",
        env={"PYTHONPATH": str(_PROGRAM)},
    )


async def _rules(plan: LabPlan, agent: AgentPlan) -> None:
    """Raise unless the bridge has rules of ours."""
    ask = ["ovs-ofctl", "-O", "OpenFlow14", "--timeout=2", "dump-flows", BRIDGE, _OURS]
    if "cookie=" not in await run(plan, ask, env=agent_switch(agent).env, timeout_s=5):
        raise LabError(f"bridge {BRIDGE} of {agent.hostname} has no rules yet")
