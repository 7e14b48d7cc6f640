"""The configuration with which a Mooring daemon serves a lab.

Times are short where a person or a test waits for them; everything else is what a data centre would
use.  The daemon runs in the root namespace: it reaches Marathon and the hosts through the doors, and
HAProxy and Nginx, which stand in the edge namespace, through their sockets and files.
"""

from __future__ import annotations

from mooring.lab.plan import (
    BRIDGE,
    REVERSE_ZONES,
    TSIG_ALGORITHM,
    TSIG_KEY,
    VLANS,
    ZONE,
    LabPlan,
    Vlan,
)


def render_daemon_config(plan: LabPlan) -> str:
    """The whole `mooring.toml` of this lab."""
    hosts = "\n".join(f'{agent.hostname} = "{agent.address}"' for agent in plan.agents)
    pools = "\n".join(_pool(vlan) for vlan in VLANS)
    return f"""\
# The Mooring daemon of lab {plan.name}: mooring run --config {plan.daemon_config}
store = "{plan.daemon_dir}/mooring.db"
verify_every_s = 60.0

[hosts]
{hosts}

[marathon]
endpoints = ["{plan.marathon_url}"]
snapshot_every_s = 10.0
absence_confirm_s = 5.0
timeout_s = 10.0

{pools}
[leases]
cooling_s = 30.0

[ansible]
inventory = "{plan.inventory}"
bridge = "{BRIDGE}"
connect_timeout_s = 3
play_timeout_s = 30.0

{_edges(plan)}
[portal]
address = "127.0.0.1"
port = {plan.portal_port}

[control]
socket = "{plan.daemon_dir}/control.sock"
"""


def _pool(vlan: Vlan) -> str:
    return f"""\
[pools.{vlan.pool}]
network = "{vlan.network}"
gateway = "{vlan.gateway}"
vlan = {vlan.tag}
"""


def _edges(plan: LabPlan) -> str:
    reverse = ", ".join(f'"{zone}"' for zone in REVERSE_ZONES)
    return f"""\
[dns]
server = "127.0.0.1"
port = {plan.dns_port}
zone = "{ZONE}"
reverse_zones = [{reverse}]
key_name = "{TSIG_KEY}"
key_algorithm = "{TSIG_ALGORITHM}"
secret_file = "{plan.tsig_secret}"
ttl = 5

[haproxy]
config = "{plan.haproxy_dir}/haproxy.cfg"
socket = "{plan.haproxy_dir}/runtime.sock"
master_socket = "{plan.haproxy_dir}/master.sock"
http_bind = "*:{plan.haproxy_port}"

[nginx]
root = "{plan.nginx_dir}"
pid_file = "{plan.nginx_dir}/nginx.pid"
status_socket = "{plan.nginx_status}"
http_bind = "*:{plan.nginx_port}"

[webhook]
url = "http://127.0.0.1:{plan.cmdb_port}"
secret_file = "{plan.cmdb_secret}"
"""
