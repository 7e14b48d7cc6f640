"""A hand on a running lab: asks the containers, the switches and the servers themselves.

Tests and the demo prove what Mooring did by what these methods return, so nothing here reads
Mooring's store or trusts its report: processes are entered, switches and name servers are asked,
pages are fetched through the balancers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiodocker
import aiohttp

from mooring.lab import docker, namespaces, supervise
from mooring.lab.plan import BRIDGE, UPLINK, LabError, LabPlan
from mooring.lab.switches import agent_switch


@dataclass(frozen=True, slots=True)
class Page:
    """What a balancer answered."""

    status: int
    body: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Container:
    """One container the engine knows, running or (briefly) ended."""

    name: str
    id: str
    task_id: str
    host: str
    state: str


def namespace_of(plan: LabPlan, place: str) -> str:
    """The network namespace of `edge` or of an agent's host name; `LabError` for anything else."""
    return plan.edge if place == "edge" else plan.agent(place).namespace


def entering(plan: LabPlan, place: str) -> list[str]:
    """The words that make a command run in `edge`, or on an agent with its files and host name."""
    if place == "edge":
        return ["nsenter", f"--net=/run/netns/{plan.edge}"]
    agent = plan.agent(place)
    pid = supervise.pid_of(plan, f"sshd-{agent.hostname}")
    if pid is None:
        raise LabError(f"{agent.hostname} of lab {plan.name} is not running; see `mooring lab status`")
    return ["nsenter", f"--target={pid}", "--net", "--mount", "--uts"]


class LabHandle:
    """Questions and interventions on one running lab."""

    def __init__(self, plan: LabPlan) -> None:
        """Nothing happens before the first call."""
        self.plan = plan
        self._pids: dict[str, int] = {}  # by container id

    # -- commands

    async def exec_in(self, place: str, argv: Sequence[str], timeout_s: float = 30.0) -> str:
        """Run a command in `edge` or on an agent; its output. `LabError` when it fails."""
        return await supervise.run(self.plan, [*entering(self.plan, place), *argv], timeout_s=timeout_s)

    # -- containers

    async def containers(self, task_id: str | None = None) -> list[Container]:
        """Every container of the lab, or those of one task."""
        labels = [f"{supervise.MARK}={self.plan.name}"]
        labels += [f"MESOS_TASK_ID={task_id}"] if task_id else []
        async with docker.connect(self.plan.docker_socket) as engine:
            found = await engine.containers.list(all=True, filters=json.dumps({"label": labels}))
        return [_container(entry) for entry in found]

    async def container(self, task_id: str) -> Container:
        """The one running container of a task; `LabError` when there is none, or more."""
        found = [entry for entry in await self.containers(task_id) if entry.state == "running"]
        if len(found) != 1:
            raise LabError(f"task {task_id}: {len(found)} running containers instead of one")
        return found[0]

    async def container_pid(self, task_id: str) -> int:
        """Process id of the task's container, in the root PID namespace."""
        name = (await self.container(task_id)).name
        async with docker.connect(self.plan.docker_socket) as engine:
            shown = await engine.containers.container(name).show()
        return int(shown["State"]["Pid"])

    async def container_started(self, task_id: str) -> str:
        """When the engine started the task's container: UTC, with nanoseconds, as the engine writes it."""
        name = (await self.container(task_id)).name
        async with docker.connect(self.plan.docker_socket) as engine:
            shown = await engine.containers.container(name).show()
        return str(shown["State"]["StartedAt"])

    async def container_exec(
        self, task_id: str, argv: Sequence[str], timeout_s: float = 30.0
    ) -> tuple[int, str]:
        """Run a command inside the task's container: exit status (124: too long) and output."""
        return await docker.execute_in(await self.container_pid(task_id), argv, timeout_s)

    async def running_pids(self) -> dict[str, int]:
        """Process id of every running container, by task id; each container is asked for it only once."""
        running = [container for container in await self.containers() if container.state == "running"]
        new = [container for container in running if container.id not in self._pids]
        async with docker.connect(self.plan.docker_socket) as engine:
            for container in new:
                with suppress(aiodocker.DockerError):  # it has ended meanwhile
                    shown = await engine.containers.container(container.id).show()
                    self._pids[container.id] = int(shown["State"]["Pid"])
        found = {container.task_id: self._pids.get(container.id, 0) for container in running}
        return {task: pid for task, pid in found.items() if pid}

    async def answered_addresses(self) -> dict[str, set[str]]:
        """The IPv4 addresses that every running container answers to now, without loopback, by task id.

        One look at all containers without starting a process: the kernel lists what is local in a
        container's network, which is every address of a link that is up.
        """
        found = {}
        for task, pid in (await self.running_pids()).items():
            with suppress(OSError):  # it has ended meanwhile
                found[task] = _local_addresses(pid)
        return found

    async def container_addresses(self, task_id: str) -> list[str]:
        """The IPv4 addresses (`10.64.0.5/22`) that the container itself has, without loopback."""
        return await self.addresses_of(await self.container_pid(task_id))

    async def addresses_of(self, pid: int) -> list[str]:
        """The same of the container with that process."""
        argv = ["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-json", "-4", "addr"]
        links = json.loads(await supervise.run(self.plan, argv))
        return [
            f"{entry['local']}/{entry['prefixlen']}"
            for link in links
            if link.get("ifname") != "lo"
            for entry in link.get("addr_info", [])
        ]

    async def docker_kill(self, task_id: str) -> None:
        """Kill the task's container behind Marathon's back, as `docker kill` by hand would.

        `LabError` when it does not run.
        """
        name = (await self.container(task_id)).name
        async with docker.connect(self.plan.docker_socket) as engine:
            try:
                await engine.containers.container(name).kill()
            except aiodocker.DockerError as error:
                raise LabError(f"task {task_id}: {error.message}") from error

    async def docker_restart(self, task_id: str) -> None:
        """Start the task's container anew, as `docker restart` by hand would. `LabError` when none runs."""
        name = (await self.container(task_id)).name
        async with docker.connect(self.plan.docker_socket) as engine:
            try:
                await engine.containers.container(name).restart(t=0)
            except aiodocker.DockerError as error:
                raise LabError(f"task {task_id}: {error.message}") from error
            self._pids.clear()  # it has the id that it had, and another process

    # -- switches

    async def ovs_ports(self, agent: str) -> list[dict[str, Any]]:
        """The host's switch ports, without uplink and bridge: name, tag, external_ids, ofport, error."""
        ports = await self._ovs_rows(agent, "port", "name,tag,external_ids")
        interfaces = {
            row["name"]: row for row in await self._ovs_rows(agent, "interface", "name,ofport,error")
        }
        ours = [port for port in ports if port["name"] not in {BRIDGE, UPLINK}]
        return [{**interfaces.get(port["name"], {}), **port} for port in ours]

    async def ovs_marks(self, agent: str) -> dict[str, dict[str, str]]:
        """The external ids of the host's container ports, by name; a port for probes only has no address."""
        ports = await self._ovs_rows(agent, "port", "name,external_ids")
        marks = {port["name"]: port["external_ids"] or {} for port in ports}
        return {name: ids for name, ids in marks.items() if any(key.endswith("address") for key in ids)}

    async def _ovs_rows(self, agent: str, table: str, columns: str) -> list[dict[str, Any]]:
        switch = agent_switch(self.plan.agent(agent))
        argv = ["ovs-vsctl", "--timeout=10", "--format=json", f"--columns={columns}", "list", table]
        told = json.loads(await supervise.run(self.plan, argv, env=switch.env))
        return [
            dict(zip(told["headings"], map(_plain, row), strict=True)) for row in told["data"]
        ]  # one list of cells for each row

    # -- names and pages

    async def dig(self, name: str, type_: str = "A") -> list[str]:
        """What BIND answers, sorted; empty when there is no such record."""
        place = ["@127.0.0.1", "-p", str(self.plan.dns_port), "+short", "+time=2", "+tries=2"]
        question = ["-x", name] if type_ == "PTR" and name[-1].isdigit() else [name, type_]
        told = await supervise.run(self.plan, ["dig", *place, *question])
        return sorted(line for line in told.splitlines() if line)

    async def transfer(self, zone: str) -> list[str]:
        """Every record of a zone, one presentation line each, by a signed zone transfer."""
        place = ["@127.0.0.1", "-p", str(self.plan.dns_port), "+noall", "+answer", "+onesoa", "+time=5"]
        key = ["-k", str(self.plan.tsig_key)]
        told = await supervise.run(self.plan, ["dig", *place, *key, zone, "AXFR"])
        return [line for line in told.splitlines() if line and not line.startswith(";")]

    async def via_haproxy(self, host: str | None = None, path: str = "/", port: int | None = None) -> Page:
        """GET through HAProxy with that Host header; `port` for a service port instead of HTTP's."""
        if port is not None:
            return await self._from_edge(f"http://127.0.0.1:{port}{path}", host)
        return await _get(f"http://127.0.0.1:{self.plan.haproxy_door}{path}", host)

    async def via_nginx(self, host: str | None = None, path: str = "/") -> Page:
        """GET through Nginx with that Host header."""
        return await _get(f"http://127.0.0.1:{self.plan.nginx_door}{path}", host)

    async def from_edge(self, address: str, port: int, path: str = "/", timeout_s: float = 10.0) -> Page:
        """GET from a container's own address, as a client in the data centre's network would.

        `LabError` with curl's complaint when nothing answers within `timeout_s`.
        """
        return await self._from_edge(f"http://{address}:{port}{path}", None, timeout_s)

    async def _from_edge(self, url: str, host: str | None, timeout_s: float = 10.0) -> Page:
        header = ["-H", f"Host: {host}"] if host else []
        argv = ["curl", "-s", "-S", "--max-time", str(timeout_s), "-w", "\n%{http_code}", *header, url]
        body, _, status = (await self.exec_in("edge", argv)).rpartition("\n")
        return Page(int(status), body, {})

    async def haproxy(self, command: str) -> str:
        """The answer to one command on HAProxy's runtime socket."""
        reader, writer = await asyncio.open_unix_connection(str(self.plan.haproxy_dir / "runtime.sock"))
        try:
            writer.write(f"{command}\n".encode())
            return (await reader.read()).decode()
        finally:
            writer.close()

    async def cmdb_items(self) -> dict[str, dict[str, Any]]:
        """What the CMDB holds, by item key; those that ended have the status "retired"."""
        page = await _get(f"http://127.0.0.1:{self.plan.cmdb_port}/items", None)
        items: dict[str, dict[str, Any]] = json.loads(page.body)
        return items

    async def prometheus(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector of an expression, asked of the lab's Prometheus."""
        url = f"http://127.0.0.1:{self.plan.prometheus_port}/api/v1/query"
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, params={"query": expression}) as answer,
        ):
            told = await answer.json()
        if told["status"] != "success":
            raise LabError(f"Prometheus refuses {expression!r}: {told.get('error')}")
        result: list[dict[str, Any]] = told["data"]["result"]
        return result

    # -- interventions

    async def lose_host(self, agent: str) -> None:
        """Cut the host's management and data cables; its containers run on, unreachable."""
        await namespaces.set_cables(self.plan, self.plan.agent(agent), "down")

    async def return_host(self, agent: str) -> None:
        """Plug both cables in again."""
        await namespaces.set_cables(self.plan, self.plan.agent(agent), "up")


async def _get(url: str, host: str | None) -> Page:
    timeout = aiohttp.ClientTimeout(total=10)
    headers = {"Host": host} if host else {}
    session = aiohttp.ClientSession(timeout=timeout)
    async with session, session.get(url, headers=headers, allow_redirects=False) as answer:
        return Page(answer.status, await answer.text(), dict(answer.headers))


def _container(entry: Any) -> Container:
    labels = entry["Labels"]
    name = entry["Names"][0].lstrip("/")
    return Container(name, entry["Id"], labels["MESOS_TASK_ID"], labels["MOORING_LAB_HOST"], entry["State"])


def _local_addresses(pid: int) -> set[str]:
    """The addresses that the kernel lists as local in the process's network."""
    lines = [line.split() for line in Path(f"/proc/{pid}/net/fib_trie").read_text().splitlines()]
    return {
        above[1]
        for above, line in pairwise(lines)
        if line == ["/32", "host", "LOCAL"] and above[0] == "|--" and not above[1].startswith("127.")
    }


def _plain(cell: Any) -> Any:
    """One cell of Open vSwitch's JSON as a plain value: maps as dict, an empty set as None."""
    match cell:
        case ["map", pairs]:
            return dict(pairs)
        case ["set", []]:
            return None
        case ["set", values]:
            return [_plain(value) for value in values]
        case ["uuid", value]:
            return value
    return cell
