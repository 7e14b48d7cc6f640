"""Describes a task to the engine: environment, labels and arguments as Mesos and Marathon set them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mooring.lab.engine import Workload
from mooring.lab.marathon.model import Instance, Json, Run, RunSpec
from mooring.lab.marathon.placement import port_mappings


def workload(instance: Instance, run: Run, default_image: str) -> Workload:
    """What the agent shall start for this run."""
    definition = instance.spec.definition
    docker = definition.get("container", {}).get("docker", {})
    return Workload(
        task_id=run.task_id,
        app_id=instance.spec.app_id,
        host=run.host,
        image=docker.get("image", default_image),
        argv=_argv(definition),
        env=_environment(instance.spec, run),
        labels={**_parameters(docker), "MESOS_TASK_ID": run.task_id},
        network="host" if instance.spec.host_network else "none",
        memory_mb=float(definition["mem"]),
    )


def container_ports(spec: RunSpec, run: Run) -> list[int]:
    """The ports as the process inside sees them: host ports, or container ports of mappings."""
    if spec.host_network:
        return list(run.ports)
    host_ports = iter(run.ports)
    ports: list[int] = []
    for mapping in port_mappings(spec):
        mapped = next(host_ports) if mapping.get("hostPort") is not None else 0
        ports.append(mapping.get("containerPort") or mapped)
    return ports


def _argv(definition: Json) -> list[str]:
    if command := definition.get("cmd"):
        return ["/bin/sh", "-c", command]
    return list(definition.get("args", []))


def _parameters(docker: Json) -> dict[str, str]:
    labels: dict[str, str] = {}
    for parameter in docker.get("parameters", []):
        if parameter.get("key") == "label":
            name, _, value = str(parameter.get("value", "")).partition("=")
            labels[name] = value
    return labels


def _environment(spec: RunSpec, run: Run) -> dict[str, str]:
    definition = spec.definition
    labels: dict[str, str] = definition.get("labels", {})
    env = {
        "MESOS_TASK_ID": run.task_id,
        "MARATHON_APP_ID": spec.app_id,
        "MARATHON_APP_VERSION": spec.version,
        "MARATHON_APP_RESOURCE_CPUS": str(definition["cpus"]),
        "MARATHON_APP_RESOURCE_MEM": str(definition["mem"]),
        "MARATHON_APP_RESOURCE_DISK": str(definition["disk"]),
        "MARATHON_APP_RESOURCE_GPUS": str(definition["gpus"]),
        "MARATHON_APP_LABELS": " ".join(_variable(name) for name in labels),
        "HOST": run.host,
    }
    if image := definition.get("container", {}).get("docker", {}).get("image"):
        env["MARATHON_APP_DOCKER_IMAGE"] = image
    env.update({f"MARATHON_APP_LABEL_{_variable(name)}": value for name, value in labels.items()})
    env.update(_ports(spec, run))
    # A secret's value is not known to Marathon itself; the lab has no secret store to ask.
    own: Mapping[str, object] = definition.get("env", {})
    env.update({name: value for name, value in own.items() if isinstance(value, str)})
    return env


def _ports(spec: RunSpec, run: Run) -> dict[str, str]:
    ports = container_ports(spec, run)
    if not ports:
        return {}
    env = {"PORT": str(ports[0]), "PORTS": ",".join(map(str, ports))}
    described = spec.definition.get("portDefinitions", []) if spec.host_network else port_mappings(spec)
    for index, (port, entry) in enumerate(zip(ports, described, strict=True)):
        env[f"PORT{index}"] = str(port)
        if number := entry.get("port") or entry.get("containerPort"):
            env[f"PORT_{number}"] = str(port)
        if name := entry.get("name"):
            env[f"PORT_{_variable(name)}"] = str(port)
    return env


def _variable(name: str) -> str:
    return re.sub(r"[^A-Z0-9_]", "_", name.upper())
