"""One probe of one health check: None when it passed, else the cause of its failure.

COMMAND and MESOS_* checks are Mesos's own and run where the task runs: the command inside the
container, HTTP and TCP to 127.0.0.1 from inside its network namespace.  HTTP and TCP are run by
Marathon itself, from its own place, against the agent's address and the task's host port; a task
without a host port has no address that Marathon knows, and its check fails, as in real life.
"""

from __future__ import annotations

import asyncio

from mooring.lab.engine import Engine
from mooring.lab.marathon import namespaces
from mooring.lab.marathon.model import Instance, Json, Run
from mooring.lab.marathon.settings import Agent
from mooring.lab.marathon.tasks import container_ports


def run_by_mesos(check: Json) -> bool:
    """Whether the agent runs the check, not Marathon."""
    protocol = str(check["protocol"])
    return protocol == "COMMAND" or protocol.startswith("MESOS_")


async def probe(check: Json, instance: Instance, run: Run, agent: Agent, engine: Engine) -> str | None:
    """Run the check once, within its timeoutSeconds."""
    timeout_s = float(check["timeoutSeconds"])
    try:
        async with asyncio.timeout(timeout_s):
            if check["protocol"] == "COMMAND":
                return await _command(check, run, engine, timeout_s)
            return await _network(check, instance, run, agent, engine)
    except TimeoutError:
        return f"AskTimeoutException: no answer within {timeout_s:g} s"
    except (OSError, EOFError) as error:
        return f"ConnectionAttemptFailed: {error}"
    except Exception as error:  # engines fail in their own ways, usually because the task is gone
        return f"{type(error).__name__}: {error}"


async def _command(check: Json, run: Run, engine: Engine, timeout_s: float) -> str | None:
    argv = ["/bin/sh", "-c", str(check["command"]["value"])]
    status = await engine.execute(await run.container(), argv, timeout_s)
    return None if status == 0 else f"Command returned: {status}"


async def _network(check: Json, instance: Instance, run: Run, agent: Agent, engine: Engine) -> str | None:
    port = _port(check, instance, run)
    if port is None:
        return "The task has no port with this portIndex at an address that Marathon knows"
    host = "127.0.0.1" if run_by_mesos(check) else agent.address
    if run_by_mesos(check):
        pid = await engine.pid(await run.container())
        reader, writer = await namespaces.open_connection(pid, host, port)
    else:
        reader, writer = await asyncio.open_connection(host, port)
    try:
        if check["protocol"].endswith("HTTP"):
            return await _http(reader, writer, f"{host}:{port}", check)
        return None
    finally:
        writer.close()


def _port(check: Json, instance: Instance, run: Run) -> int | None:
    if port := check.get("port"):
        return int(port)
    ports = container_ports(instance.spec, run) if run_by_mesos(check) else run.ports
    index = int(check.get("portIndex", 0))
    return ports[index] if index < len(ports) else None


async def _http(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, check: Json
) -> str | None:
    request = f"GET {check['path']} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    writer.write(request.encode())
    await writer.drain()
    status_line = (await reader.readline()).decode("latin-1").strip()
    parts = status_line.split(" ", 1)
    if len(parts) < 2 or not parts[1][:3].isdigit():
        return f"no HTTP answer: {status_line!r}"
    status = int(parts[1][:3])
    ignored = check.get("ignoreHttp1xx", False) and 100 <= status < 200
    return None if 200 <= status < 400 or ignored else parts[1]
