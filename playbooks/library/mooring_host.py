#!/usr/bin/python
"""The Ansible module: unpacks its parameters, lets `mooring_host.operations` work, reports.

The first line is a sign for Ansible, not a path: behind exactly these words it puts the interpreter that the
inventory names for the host; with `python3` it would ignore the inventory.

It fails as a module only when it could not work at all; what became of each operation stands in its result.
"""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: mooring_host
short_description: Attach, detach, observe, write and probe for the containers of one host
description:
  - Does any number of operations on one host in one task. Idempotent; supports check mode.
  - Every operation has its own result, so a bad one never harms the others of the call.
options:
  owner:
    description: Mark of the Mooring instance; only what carries it is ever changed.
    type: str
    required: true
  epoch:
    description: Fencing number of the caller. Refused if the bridge has seen a higher one.
    type: int
    required: true
  bridge:
    description: The Open vSwitch bridge that holds the ports.
    type: str
    required: true
  operations:
    description:
      - The operations, each with C(id) and C(op) (attach, adopt, detach, detect, observe, survey, write,
        probe, check, fabric or gateway).
    type: list
    elements: dict
  operations_base64:
    description:
      - The same as Base64 of JSON. Text inside it cannot be taken for a template by any version of Ansible.
    type: str
  database:
    description: Socket of the Open vSwitch database server.
    type: str
    default: /var/run/openvswitch/db.sock
  engine:
    description: Socket of the Docker engine.
    type: str
    default: /var/run/docker.sock
  state_dir:
    description: Directory for what must outlive a call, best on a file system that a reboot empties.
    type: str
    default: /run/mooring
  wiring:
    description:
      - How a new port is made, C(native) or C(pipework), which has the program of that name make it. For
        anything else an attach is refused.
    type: str
    default: native
  clean_pipework:
    description: Whether ports and links that pipework left behind are removed although they carry no mark.
    type: bool
    default: false
author:
  - Mooring
"""

EXAMPLES = r"""
- name: Report all ports that carry our mark
  mooring_host:
    owner: mooring
    epoch: 3
    bridge: br-mooring
    operations:
      - op: observe
        id: all
"""

RETURN = r"""
results:
  description: One entry per operation, in the order asked.
  returned: always
  type: list
  elements: dict
  contains:
    id:
      description: The operation's id.
      type: str
    status:
      description:
        - done, retry (may succeed later), refused (cannot succeed unchanged), stale (somebody with a higher
          epoch has been here) or conflict (somebody else answers on the address; nothing was attached).
      type: str
    reason:
      description: Why it is not done.
      type: str
    changed:
      description: Whether this operation changed anything.
      type: bool
    answered_by:
      description: The MACs that answered on the address.
      returned: for a conflict
      type: list
      elements: str
    ours:
      description: Ports of ours on this bridge that answered, with their marks.
      returned: for a conflict
      type: list
      elements: dict
"""

# Ansible reads the documentation above without running the module and wants it first.
import base64  # noqa: E402
import json  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.mooring_host.host import Settings  # noqa: E402
from ansible.module_utils.mooring_host.operations import perform  # noqa: E402

ARGUMENTS = {
    "owner": {"type": "str", "required": True},
    "epoch": {"type": "int", "required": True},
    "bridge": {"type": "str", "required": True},
    "operations": {"type": "list", "elements": "dict"},
    "operations_base64": {"type": "str"},
    "database": {"type": "str", "default": "/var/run/openvswitch/db.sock"},
    "engine": {"type": "str", "default": "/var/run/docker.sock"},
    "state_dir": {"type": "str", "default": "/run/mooring"},
    "wiring": {"type": "str", "default": "native"},
    "clean_pipework": {"type": "bool", "default": False},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        mutually_exclusive=[("operations", "operations_base64")],
        required_one_of=[("operations", "operations_base64")],
        supports_check_mode=True,
        # Parameters may hold the content of files; they must not be logged on the host.
        no_log=True,
    )
    given = dict(module.params)
    packed = given.pop("operations_base64")
    operations = given.pop("operations")
    if packed is not None:
        operations = json.loads(base64.b64decode(packed))
    results = perform(Settings(check=module.check_mode, **given), operations)
    # An empty invocation keeps the parameters from travelling back.
    module.exit_json(changed=any(result["changed"] for result in results), results=results, invocation={})


if __name__ == "__main__":
    main()
