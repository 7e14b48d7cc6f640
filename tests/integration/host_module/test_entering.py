"""Finding and entering the right container, the fence against a race, and probing."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import pytest

from mooring.playbooks.module_utils.mooring_host.containers import Engine
from mooring.playbooks.module_utils.mooring_host.errors import Retry
from mooring.playbooks.module_utils.mooring_host.ovsdb import Ovsdb, OvsdbStale
from mooring.playbooks.module_utils.mooring_host.switch import Transaction, read_switch

from .rig import BRIDGE, HostRig, until
from .stale_engine import stale_engine

pytestmark = pytest.mark.root


def test_a_reused_process_id_is_not_mistaken_for_the_container(rig: HostRig) -> None:
    task, _ = rig.container()
    engine = Engine(rig.engine)
    try:
        container = engine.find(task)
        handle = engine.namespace(container)
        # Where the engine's handle cannot be seen, the process id leads to the same namespace ...
        by_process = engine.namespace(dataclasses.replace(container, sandbox="/nowhere"))
        assert handle.identity == by_process.identity
        handle.close()
        by_process.close()
        # ... but not when the container was started anew since, or the id belongs to somebody else.
        for stale in ({"started_at": "2020-01-01T00:00:00Z"}, {"pid": os.getpid()}):
            other = dataclasses.replace(container, sandbox="/nowhere", **stale)
            with pytest.raises(Retry, match="restarted meanwhile"):
                engine.namespace(other)
            with pytest.raises(Retry, match="restarted meanwhile"):
                engine.files(other).__enter__()
    finally:
        engine.close()


def test_a_process_id_that_became_another_containers_leads_nowhere(rig: HostRig, tmp_path: Path) -> None:
    """The container was started anew between two looks, and its process id went to a neighbour."""
    task, container = rig.container()
    _, neighbour = rig.container()
    pid = int(rig.docker("inspect", "--format", "{{.State.Pid}}", neighbour))
    attach = {
        "op": "attach", "id": "a", "task_id": task, "app": "/web", "slot": 0, "instance": "web.instance-9",
        "address": "10.64.3.9", "prefix": 22, "gateway": None, "routes": [], "vlan": None, "mtu": None,
        "generation": 1,
    }  # fmt: skip
    before = rig.ports()
    with stale_engine(tmp_path / "e.sock", rig.engine, container, pid) as engine:
        [result] = rig.do(attach, engine=str(tmp_path / "e.sock"))
        assert engine.looks == 2, "it was asked again before anything was touched"
        assert (result["status"], result["changed"]) == ("retry", False)
        assert "restarted meanwhile" in result["reason"]
        assert rig.ports() == before
        assert "eth0" not in rig.inside(neighbour, "ip", "addr")
        [again] = rig.do(attach, engine=str(tmp_path / "e.sock"))
    assert again["status"] == "done", again
    assert "10.64.3.9" in rig.inside(container, "ip", "addr")
    assert "eth0" not in rig.inside(neighbour, "ip", "addr")


@pytest.mark.parametrize("change", ["marks", "ports"])
def test_a_transaction_is_void_if_the_bridge_changed_since_it_was_read(rig: HostRig, change: str) -> None:
    database = Ovsdb(rig.database)
    try:
        switch = read_switch(database, BRIDGE, "mooring")
        transaction = Transaction(switch, switch.epoch)
        transaction.add("hm-race", None, {"owner": "mooring"})
        if change == "marks":
            rig.vsctl("set", "Bridge", BRIDGE, "external_ids:mooring-epoch=99")
        else:
            rig.vsctl(
                "add-port",
                BRIDGE,
                "hm-race-other",
                "--",
                "set",
                "Interface",
                "hm-race-other",
                "type=internal",
            )
        with pytest.raises(OvsdbStale):
            transaction.commit(database)
        assert "hm-race" not in rig.ports()
    finally:
        database.close()
        rig.vsctl("clear", "Bridge", BRIDGE, "external_ids")
        rig.vsctl("--if-exists", "del-port", BRIDGE, "hm-race-other")


def test_waiting_for_the_switch_daemon_ends_at_its_deadline(rig: HostRig) -> None:
    database = Ovsdb(rig.database)
    try:
        began = time.monotonic()
        assert not database.wait_applied(1 << 40, 0.3)
        assert 0.3 <= time.monotonic() - began < 3.0
    finally:
        database.close()


def test_a_probe_tells_open_from_closed_and_from_silent(rig: HostRig) -> None:
    task, _ = rig.container()
    place = {"op": "attach", "id": "a", "task_id": task, "app": "/p", "slot": 0, "instance": "probed",
             "address": "10.64.2.1", "prefix": 22, "gateway": None, "generation": 1}  # fmt: skip
    rig.do(place)
    probe = {"op": "probe", "id": "p", "task_id": task, "address": "10.64.2.1", "timeout_s": 0.4}
    until(lambda: rig.do({**probe, "ports": [8080]})[0]["status"] == "done", "the web server")
    began = time.monotonic()
    results = rig.do(
        {**probe, "ports": [8080, 81]},
        {**probe, "address": "10.64.2.2", "ports": [80]},
        {**probe, "address": "192.0.2.1", "ports": [80]},
        {**probe, "task_id": "no.such.task", "ports": [80]},
        {**probe, "ports": [0]},
    )
    assert time.monotonic() - began < 2.0
    assert [result["status"] for result in results] == ["retry"] * 4 + ["refused"]
    assert (results[0]["open"], results[0]["closed"]) == ([8080], {"81": "Connection refused"})
    assert results[1]["closed"] == {"80": "no answer in time"}
    assert "unreachable" in results[2]["reason"]


def test_a_probe_waits_for_a_process_that_is_starting(rig: HostRig) -> None:
    task, container = rig.container()
    rig.docker("exec", "-d", container, "sh", "-c", "sleep 1; httpd -f -p 127.0.0.1:8099 -h /www")
    probe = {
        "op": "probe",
        "id": "p",
        "task_id": task,
        "address": "127.0.0.1",
        "ports": [8099],
        "timeout_s": 10,
    }
    began = time.monotonic()
    [result] = rig.do(probe)
    assert result["status"] == "done", result
    assert time.monotonic() - began < 5.0
