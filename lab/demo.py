"""`mooring lab demo`: the whole story of a service, each step with its proof.

Every chapter changes something in Marathon or in the data centre, waits until the world agrees, and prints
what containers, switches, name server, balancers and CMDB say.  A chapter whose proof does not come in
time ends the demo with exit status 1 and says what was missing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from mooring.lab import background, remains
from mooring.lab.handle import LabHandle
from mooring.lab.plan import LabError, LabPlan
from mooring.lab.proofs import Proof, eventually, proven
from mooring.lab.sample import DB, WEB, Operator, sample_apps

DEADLINE_S = 60.0


class Demo:
    """The chapters, in order; each leaves the data centre as the next one needs it."""

    def __init__(self, plan: LabPlan, console: Console) -> None:
        self._plan = plan
        self._console = console
        self._handle = LabHandle(plan)
        self._operator = Operator(plan)
        self._began = time.monotonic()

    async def deploy(self) -> list[Proof]:
        """Two apps; web's configuration depends on db's address."""
        self._chapter("Deploy /shop/db x1 and /shop/web x3")
        there = await self._operator.apps()
        for definition in sample_apps():
            if definition["id"] not in there:
                await self._operator.deploy(definition)
        proofs = await self._proven([(DB, 1), (WEB, 3)])
        await self._dependency_followed(proofs)
        self.show(await self._proven([(DB, 1), (WEB, 3)]))
        return proofs

    async def everything(self) -> None:
        """All chapters after the deployment."""
        await self.scale()
        await self.self_heal()
        await self.restart()
        await self.move()
        lost = await self.lose_host()
        await self.return_host(lost)
        await self.delete()
        self._console.print(f"\nAll proven in {time.monotonic() - self._began:.0f} s.")

    async def scale(self) -> None:
        self._chapter("Scale /shop/web 3 -> 5")
        before = _addresses(await self._proven([(WEB, 3)]))
        await self._operator.scale(WEB, 5)
        proofs = await self._proven([(WEB, 5)])
        _insist(before <= _addresses(proofs), "an address changed while scaling up")
        self.show(proofs)

    async def self_heal(self) -> None:
        self._chapter("docker kill one container: the new one has the same address")
        victim = (await self._proven([(WEB, 5)]))[0]
        await self._handle.docker_kill(victim.task)
        healed = await self._incarnation_after(victim)
        _insist(healed.address == victim.address, f"{victim.address} became {healed.address}")
        self.show([healed])

    async def restart(self) -> None:
        self._chapter("POST restart with over-capacity 0: the set of addresses is identical")
        before = await self._proven([(WEB, 5)])
        await self._operator.restart(WEB)
        after = await self._replaced(WEB, before, 5)
        same = _addresses(before) == _addresses(after)
        _insist(same, f"{sorted(_addresses(before))} became {sorted(_addresses(after))}")
        self.show(after)

    async def move(self) -> None:
        self._chapter("Relaunch on another, reachable host: same address, there and nowhere else")
        one = (await self._proven([(WEB, 5)]))[0]
        target = next(agent.hostname for agent in self._plan.agents if agent.hostname != one.host)
        await self._operator.send("POST", f"/lab/instances/{_instance(one)}/move?host={target}")
        moved = await self._incarnation_after(one)
        _insist(
            (moved.host, moved.address) == (target, one.address), f"is on {moved.host} at {moved.address}"
        )
        holders = await remains.holders(self._handle, one.address)
        _insist(holders == [target], f"{one.address} has ports on {holders}")
        self.show([moved])
        self._console.print(f"switch ports with {one.address}: only on {target}")

    async def lose_host(self) -> list[Proof]:
        self._chapter("A host is lost: its instances come back elsewhere, on other addresses")
        before = await self._proven([(DB, 1), (WEB, 5)])
        agent = max({proof.host for proof in before}, key=[proof.host for proof in before].count)
        lost = [proof for proof in before if proof.host == agent]
        await self._handle.lose_host(agent)
        await self._operator.send("POST", f"/lab/hosts/{agent}/lose")
        after = await self._proven([(DB, 1), (WEB, 5)], without=lost)
        _insist(not _addresses(after) & _addresses(lost), "an address of the lost host was given out")
        await self._lease_states(_addresses(lost), {"stranded"})
        self.show(after)
        self._console.print(f"{agent} is lost; stranded: {', '.join(sorted(_addresses(lost)))}")
        return lost

    async def return_host(self, lost: Sequence[Proof]) -> None:
        agent = lost[0].host
        self._chapter(f"{agent} returns: its old ports go before anything is reused")
        await self._handle.return_host(agent)
        await self._operator.send("POST", f"/lab/hosts/{agent}/return")
        await eventually(lambda: remains.ports_gone(self._handle, agent, _addresses(lost)), DEADLINE_S)
        await self._lease_states(_addresses(lost), {"idle", "cooling", "free"})
        self.show(await self._proven([(DB, 1), (WEB, 5)]))
        self._console.print(f"{agent} has no port of {', '.join(sorted(_addresses(lost)))} any more")

    async def delete(self) -> None:
        self._chapter("Delete both apps: nothing is left")
        await self._operator.delete(WEB)
        await self._operator.delete(DB)
        found = await eventually(lambda: remains.nothing_left(self._handle), DEADLINE_S)
        for line in found:
            self._console.print(line)

    def show(self, proofs: Sequence[Proof]) -> None:
        """One line an instance: what the world says about it."""
        table = Table(box=None)
        for heading in ("task", "host", "address", "dig", "haproxy", "page", "nginx", "cmdb", "file"):
            table.add_column(heading, overflow="fold")
        for proof in proofs:
            table.add_row(*_cells(proof))
        self._console.print(table)

    def _chapter(self, title: str) -> None:
        self._console.print(f"\n[bold]{title}[/] [dim]({time.monotonic() - self._began:.0f} s)[/]")

    async def _proven(self, apps: Sequence[tuple[str, int]], without: Sequence[Proof] = ()) -> list[Proof]:
        gone = {proof.task for proof in without}
        proofs = await proven(self._handle, self._operator, apps, DEADLINE_S, gone)
        _insist(len(_addresses(proofs)) == len(proofs), "two containers have the same address")
        return proofs

    async def _replaced(self, app: str, before: Sequence[Proof], instances: int) -> list[Proof]:
        return await self._proven([(app, instances)], without=before)

    async def _incarnation_after(self, proof: Proof) -> Proof:
        """The same instance in its next container."""
        after = await self._proven([(proof.app, 5)], without=[proof])
        return next(found for found in after if _instance(found) == _instance(proof))

    async def _dependency_followed(self, proofs: Sequence[Proof]) -> None:
        db = next(proof for proof in proofs if proof.app == DB)
        expected = f"db {db.address} 5432"

        async def ask() -> tuple[None, str]:
            found = await self._proven([(WEB, 3)])
            behind = [proof.task for proof in found if (proof.file or "").strip() != expected]
            return None, f"{behind} do not have {expected!r}" if behind else ""

        await eventually(ask, DEADLINE_S)

    async def _lease_states(self, addresses: set[str], allowed: set[str]) -> None:
        async def ask() -> tuple[None, str]:
            told = {lease["address"]: lease["state"] for lease in await background.leases(self._plan)}
            wrong = {address: told.get(address, "free") for address in addresses}
            wrong = {address: state for address, state in wrong.items() if state not in allowed}
            return None, f"leases are {wrong}" if wrong else ""

        await eventually(ask, DEADLINE_S)


def _instance(proof: Proof) -> str:
    return proof.task.rpartition("._app.")[0]


def _addresses(proofs: Sequence[Proof]) -> set[str]:
    return {proof.address for proof in proofs}


def _cells(proof: Proof) -> list[str]:
    return [
        _short(proof.task),
        proof.host,
        proof.address,
        " -> ".join(proof.names),
        proof.haproxy,
        "its own" if proof.body == proof.task else "-",
        "its own" if proof.nginx == proof.task else "-",
        f"{proof.item.get('key', '-')} {proof.item.get('status', '')}",
        (proof.file or "-").strip(),
    ]


def _short(task: str) -> str:
    """A task id with its uuid cut to eight digits."""
    app, _, rest = task.partition(".instance-")
    return f"{app}.{rest[:8]}…{rest.rpartition('.')[2]}"


def _insist(holds: bool, otherwise: str) -> None:
    if not holds:
        raise LabError(f"proof failed: {otherwise}")
