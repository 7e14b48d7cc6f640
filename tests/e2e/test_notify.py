"""Files that follow other apps, and the telling of those who read them: as often as needed, never more."""

from __future__ import annotations

import signal
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mooring.lab import background
from mooring.lab.handle import LabHandle
from mooring.lab.plan import LabError, LabPlan
from mooring.lab.proofs import Proof, eventually
from mooring.lab.sample import DB, DEPENDENCY_FILE, TEMPLATE, WEB, Operator, app
from tests.e2e.evidence import DEADLINE_S, agreed, status

TOLD = "/tmp/told"
COUNT_IT = f'/bin/sh -c "echo told >> {TOLD}"'
FILE = {
    "MOORING_NOTIFY_DB_FROM": DB,
    "MOORING_NOTIFY_DB_PATH": DEPENDENCY_FILE,
    "MOORING_NOTIFY_DB_TEMPLATE": TEMPLATE,
}


def database(instances: int = 1) -> dict[str, Any]:
    """A database whose every instance has another address."""
    return app(DB, instances, 5432, {"MOORING_IP_POLICY": "task"})


def reader(instances: int, **labels: str) -> dict[str, Any]:
    return app(WEB, instances, 8080, {**FILE, **{f"MOORING_NOTIFY_DB_{k}": v for k, v in labels.items()}})


def lines_for(databases: Collection[Proof]) -> list[str]:
    return sorted(f"db {proof.address} 5432" for proof in databases)


async def content(handle: LabHandle, task: str, path: str) -> list[str]:
    """The lines of a file in a container; none if there is no such file."""
    code, text = await handle.container_exec(task, ["cat", path])
    return text.splitlines() if code == 0 else []


async def files_say(handle: LabHandle, readers: Collection[Proof], expected: list[str]) -> tuple[None, str]:
    try:
        found = [sorted(await content(handle, proof.task, DEPENDENCY_FILE)) for proof in readers]
    except LabError as error:
        return None, str(error)
    return None, "" if all(lines == expected for lines in found) else f"{found} instead of {expected}"


async def in_step(plan: LabPlan) -> tuple[None, str]:
    found = await status(plan)
    behind = [f"{row.instance}: {row.phase} {row.problem}" for row in found.instances if not row.in_step]
    return None, "; ".join([*behind, *found.readiness])


async def told(handle: LabHandle, readers: Collection[Proof]) -> list[int]:
    """How often each reader was told so far."""
    return [len(await content(handle, proof.task, TOLD)) for proof in readers]


async def both(handle: LabHandle, operator: Operator, databases: int) -> tuple[list[Proof], list[Proof]]:
    """The databases and the two readers, once all are served and the files say so."""
    proofs = await agreed(handle, operator, [(DB, databases), (WEB, 2)])
    dbs = [proof for proof in proofs if proof.app == DB]
    webs = [proof for proof in proofs if proof.app == WEB]
    await eventually(lambda: files_say(handle, webs, lines_for(dbs)), DEADLINE_S)
    return dbs, webs


async def test_a_command_is_run_once_for_each_change(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    await operator.deploy(database())
    await agreed(handle, operator, [(DB, 1)])
    await operator.deploy(reader(2, COMMAND=COUNT_IT))
    (first,), webs = await both(handle, operator, 1)
    await eventually(lambda: in_step(plan), DEADLINE_S)
    assert await told(handle, webs) == [1, 1]

    await operator.scale(DB, 2)
    await both(handle, operator, 2)
    await eventually(lambda: in_step(plan), DEADLINE_S)
    assert await told(handle, webs) == [2, 2]

    await background.stop(plan, signal.SIGKILL)  # whoever starts anew finds nothing to tell
    await background.start(plan)
    await eventually(lambda: in_step(plan), DEADLINE_S)
    assert await told(handle, webs) == [2, 2]

    await handle.docker_kill(webs[0].task)
    await both_after(handle, operator, webs[0].task)
    await eventually(lambda: in_step(plan), DEADLINE_S)
    assert await told(handle, webs[1:]) == [2], "another reader's new container is no news"
    await address_changed(handle, operator, first, webs[1])


async def both_after(handle: LabHandle, operator: Operator, gone: str) -> None:
    """The relaunched reader has the file as well, and was told of it."""
    proofs = await agreed(handle, operator, [(DB, 2), (WEB, 2)], gone={gone})
    expected = lines_for([proof for proof in proofs if proof.app == DB])
    webs = [proof for proof in proofs if proof.app == WEB]
    await eventually(lambda: files_say(handle, webs, expected), DEADLINE_S)
    assert min(await told(handle, webs)) >= 1


async def address_changed(handle: LabHandle, operator: Operator, old: Proof, web: Proof) -> None:
    """A database is killed for good; its successor has another address, and the files follow."""
    await operator.send("DELETE", f"/v2/apps{DB}/tasks/{old.task}?wipe=true")
    proofs = await agreed(handle, operator, [(DB, 2), (WEB, 2)], gone={old.task})
    dbs = [proof for proof in proofs if proof.app == DB]
    assert old.address not in {proof.address for proof in dbs}
    await eventually(lambda: files_say(handle, [web], lines_for(dbs)), DEADLINE_S)


async def test_a_signal_tells_the_first_process(plan: LabPlan, handle: LabHandle, operator: Operator) -> None:
    listening = (
        f"trap 'echo hup >> {TOLD}' HUP; trap 'exit 0' TERM; /bin/workload 8080 & while :; do wait; done"
    )
    await operator.deploy(database())
    await agreed(handle, operator, [(DB, 1)])
    await operator.deploy({**reader(2, SIGNAL="HUP"), "cmd": listening})
    _, webs = await both(handle, operator, 1)
    await eventually(lambda: in_step(plan), DEADLINE_S)
    before = await told(handle, webs)
    await operator.scale(DB, 2)
    await both(handle, operator, 2)
    await eventually(lambda: in_step(plan), DEADLINE_S)
    assert await told(handle, webs) == [count + 1 for count in before]


async def test_a_link_in_the_container_does_not_lead_out_of_it(
    plan: LabPlan, handle: LabHandle, operator: Operator, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    victim = outside / "db.conf"
    victim.write_text("the machine's own\n")
    trap = f"mkdir -p {outside}; ln -s {outside} /etc/shop; exec /bin/workload 8080"
    await operator.deploy(database())
    await operator.deploy({**reader(2), "cmd": trap})
    dbs, webs = await both(handle, operator, 1)
    for web in webs:
        assert await content(handle, web.task, str(victim)) == lines_for(dbs)
    assert victim.read_text() == "the machine's own\n"
    assert sorted(entry.name for entry in outside.iterdir()) == ["db.conf"]
