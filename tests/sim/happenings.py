"""What happens to a story while there is chaos: people deploy, kill and meddle, machines fail.

Each is a function of the story that begins something and returns.  Everyday happenings may come in every
story; of the rarer ones each story has a few, so that they meet in ever new company.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

from mooring.core.model import AppId, HostName, LeaseState
from mooring.core.readmodel import EVERYTHING
from mooring.core.specs import MemberSpec
from mooring.dns.records import RRset
from mooring.handlers.memory_hosts import MemoryPort
from mooring.handlers.wants import NGINX
from tests.sim.apps import SimApp
from tests.sim.lines import told_by_nginx
from tests.sim.pairs import both
from tests.sim.world import ZONE, Lie

if TYPE_CHECKING:
    from tests.sim.story import Story

Happening = Callable[["Story"], None]
_MAC = "0e:00:00:00:00:{:02x}"
ELSEWHERE, ELSEWHERE_6 = "10.66.0.1", "fd00:66::1"  # addresses that are nobody's here
SHORT_S = 11.0  # a lie of this length is believed by nobody, because it cannot be told twice
LONG_S = 45.0


# -- what people do to Marathon


def scale(story: Story) -> None:
    if (app := story.some_app()) is not None:
        count = story.chance.randint(
            1, 7 if story.marathon.apps[app].labels.get("MOORING_POOL") == "tiny" else 4
        )
        story.begins(f"scale {app} to {count}", _if_there(story, app, story.marathon.scale, count))


def restart(story: Story) -> None:
    if (app := story.some_app()) is not None:
        story.begins(f"restart {app}", _if_there(story, app, story.marathon.restart))


def kill(story: Story) -> None:
    if (instance := story.some_instance()) is not None:
        story.begins(f"kill {instance}", story.marathon.kill(instance))


def fail(story: Story) -> None:
    if (instance := story.some_instance()) is not None:
        story.begins(f"{instance} fails", story.marathon.fail(instance))


def delete(story: Story) -> None:
    if (app := story.some_app()) is None or story.chance.random() > 0.6:
        return
    definition = story.marathon.apps[app]
    story.begins(f"delete {app}", _if_there(story, app, story.marathon.delete))
    if story.chance.random() < 0.7:
        again = SimApp(app, story.chance.randint(1, 3), definition.labels, definition.checked)
        story.begins(f"deploy {app} again, later", _later(story, again))


def redefine(story: Story) -> None:
    """New labels: another TTL."""
    if (app := story.some_app()) is None:
        return
    known = story.marathon.apps[app]
    labels = {**known.labels, "MOORING_DNS_TTL": str(story.chance.randint(5, 60))}
    again = replace(known, labels=labels)
    story.begins(f"redefine {app}", _if_there(story, app, lambda _: story.marathon.deploy(again)))


async def _if_there(story: Story, app: str, act: Callable[..., Any], *arguments: Any) -> None:
    if app in story.marathon.apps:
        await act(app, *arguments)


async def _later(story: Story, app: SimApp) -> None:
    await story.world.pause(1.0, 20.0)
    if app.id not in story.marathon.apps:
        await story.marathon.deploy(app)


# -- what happens to machines and lines


def lose_or_regain(story: Story) -> None:
    silent = sorted(story.world.agents.silent)
    if silent and (len(silent) > 1 or story.chance.random() < 0.6):
        rebooted = story.chance.random() < 0.3
        host = story.chance.choice(silent)
        story.begins(f"{host} is back, rebooted {rebooted}", story.marathon.back(host, rebooted=rebooted))
    elif len(silent) < 2:
        host = story.chance.choice([name for name in story.hosts if name not in silent])
        story.begins(f"{host} is lost", story.marathon.lose(host))


def cut(story: Story) -> None:
    if story.life is not None:
        story.world.trace("* the stream is cut")
        story.life.cut_stream()


def die(story: Story) -> None:
    if story.life is not None and story.may_die:
        story.life.kill()


def jump(story: Story) -> None:
    story.world.trace("* the wall clock jumps")
    story.world.jump(story.chance.uniform(-5.0, 5.0))


def sink_away(story: Story) -> None:
    sink = story.chance.choice(("dns", "haproxy", "nginx", "webhook"))
    story.begins(f"{sink} is away", _away(story, sink))


async def _away(story: Story, sink: str) -> None:
    story.world.away.add(sink)
    await story.world.pause(2.0, 25.0)
    story.world.away.discard(sink)


def pause_or_resume(story: Story) -> None:
    engine = story.operator.engine
    if engine is None:
        return
    paused = engine.paused()
    app = story.chance.choice([*sorted(story.marathon.apps), EVERYTHING])
    chosen = None if app == EVERYTHING else AppId(app)
    word = "resume" if app in paused else "pause"
    story.operator.does(f"{word} {app}", engine.resume(chosen) if app in paused else engine.pause(chosen))


EVERYDAY: tuple[Happening, ...] = (
    scale, scale, restart, restart, kill, kill, fail, fail, delete, lose_or_regain, lose_or_regain, cut,
    redefine, die, sink_away, jump, pause_or_resume,
)  # fmt: skip


def flap(story: Story) -> None:
    """A host is away for long enough that its instances leave their ports behind; when it is back, they fail
    where they live by then, and may come to live on it again."""
    if not story.world.agents.silent:
        host = story.chance.choice(story.hosts)
        story.begins(f"{host} is away for a while", _flap(story, host))


async def _flap(story: Story, host: str) -> None:
    there = [one.id for one in story.marathon.instances.values() if one.host == host]
    await story.marathon.lose(host)
    await story.world.pause(10.5, 16.0)
    await story.marathon.back(host)
    await story.world.pause(0.0, 2.0)
    for instance in there:
        await story.marathon.fail(instance)


# -- several daemons, several stores


def freeze(story: Story) -> None:
    """The daemon stops for a while; perhaps another is started meanwhile, which no lock prevents."""
    life = story.life
    if life is None or life.dead or life.frozen:
        return
    life.freeze()
    story.loop.freeze(story.is_frozen)
    story.begins("it thaws later", _thaw(story, life))
    if story.chance.random() < 0.6:
        story.start_another()


async def _thaw(story: Story, life: Any) -> None:
    await story.world.pause(2.0, 25.0)
    life.thaw()


def start_another(story: Story) -> None:
    """A second daemon over the same store, on a file system that ignores locks."""
    if story.life is not None and story.life.primed:
        story.start_another()


def lose_the_store(story: Story) -> None:
    """The disk is lost, or replaced by an old copy; perhaps the old daemon lives on over the old disk."""
    story.lose_the_store(
        copy=story.chance.random() < 0.4, lives_on=story.may_die and story.chance.random() < 0.3
    )


def copy_the_store(story: Story) -> None:
    """Somebody makes a backup."""
    story.copy_the_store()


def copy_behind(story: Story) -> None:
    """A backup is made, what lives on a host moves twice, and the backup is put back while the host between
    them is silent."""
    if not story.world.agents.silent:
        first, second = story.chance.sample(list(story.hosts), 2)
        story.copy_the_store()
        story.begins(
            f"{first}, then {second} fail, and the copy is put back", _copy_behind(story, first, second)
        )


async def _copy_behind(story: Story, first: str, second: str) -> None:
    await story.marathon.lose(first)
    await story.world.pause(0.0, 16.0)
    await story.marathon.back(first)
    await story.world.pause(0.0, 5.0)
    await story.marathon.lose(second)
    await story.world.pause(0.0, 5.0)
    story.lose_the_store(copy=True)
    await story.world.pause(20.0, 60.0)
    await story.marathon.back(second)


def prune(story: Story) -> None:
    engine = story.operator.engine
    if engine is not None:
        before = story.clock.now() - story.chance.uniform(0.0, 60.0)
        story.operator.does("prune the history", engine.records.store.prune(before))


def fence(story: Story) -> None:
    """A host that is lost anyway is switched off and fenced; it may come back before it is unfenced."""
    if silent := sorted(story.world.agents.silent):
        story.operator.fences(story.chance.choice(silent))


def unfence(story: Story) -> None:
    engine = story.operator.engine
    if engine is not None and (fenced := sorted(engine.fences.all())):
        host = story.chance.choice(fenced)
        story.operator.does(f"unfence {host}", engine.unfence(host))


def maintain_or_resume(story: Story) -> None:
    """People begin or end work on a host; as likely as not it is switched off or away meanwhile."""
    engine = story.operator.engine
    if engine is None:
        return
    host = HostName(story.chance.choice(story.hosts))
    if host in engine.maintenance.all():
        story.operator.does(f"resume host {host}", engine.end_maintenance(host))
    else:
        story.operator.does(f"maintain {host}", engine.maintain(host, "new disks"))


def dig_up_a_port(story: Story) -> None:
    """A host's switch has a port again of a container long gone, as from an old copy of its database."""
    host = story.world.agents.hosts[story.chance.choice(story.hosts)]
    address, number = story.chance.choice(_low_addresses(story)), story.chance.randrange(10**6)
    task = f"old_app.instance-{number}._app.1"
    port = MemoryPort(f"mo{number}", address, 24, task.partition("._app.")[0], task, "/old/app", 0, 1,
                      min(host.epoch, 1), f"{task}@0")  # fmt: skip
    story.world.agents.ghosts.add(port.name)
    host.ports[port.name] = port
    story.world.trace(f"* {host.name} has an old port with {address}")


def set_aside(story: Story) -> None:
    """An operator reserves an address, or gives it back."""
    engine = story.operator.engine
    if engine is None:
        return
    reserved = [lease.address for lease in engine.records.book.leases() if lease.state == LeaseState.RESERVED]
    if reserved and story.chance.random() < 0.5:
        address = story.chance.choice(reserved)
        story.operator.does(f"unreserve {address}", engine.pools.unreserve(address))
    else:
        address = story.chance.choice(_low_addresses(story))
        story.operator.does(f"reserve {address}", engine.pools.reserve(address, "for a printer"))


def new_pool(story: Story) -> None:
    """A pool is added at run time, with an app in it; later it grows and shrinks."""
    if "extra" not in story.world.pools:
        story.operator.adds_pool("extra", "10.64.3.0/28", "10.64.3.1")
    elif "/extra" not in story.marathon.apps:
        app = SimApp("/extra", story.chance.randint(1, 4), {"MOORING_POOL": "extra"})
        story.begins("deploy /extra", story.marathon.deploy(app))
    else:
        story.operator.resizes_pool(
            "extra", story.chance.choice(("10.64.3.0/29", "10.64.3.0/28", "10.64.3.0/27"))
        )


# -- what strangers and meddlers do


def _low_addresses(story: Story) -> list[str]:
    """Those that are given out first."""
    nets = [ip_network(network) for network in story.world.pools.values()]
    return [str(address) for net in nets for address in list(net.hosts())[1:12]]


def stranger(story: Story) -> None:
    """A machine that nobody told us of takes an address, as likely as not the next to be given out.

    Of a pair it takes the one or the other.
    """
    used = {port.address for _, port in story.world.agents.answering()}
    pair = both(story.chance.choice([one for one in _low_addresses(story) if one not in used]))
    address = story.chance.choice(pair)
    story.begins(f"a stranger takes {address}", _strange(story, address))


async def _strange(story: Story, address: str) -> None:
    story.world.agents.stranger(address, _MAC.format(story.chance.randrange(256)))
    await story.world.pause(5.0, 60.0)
    story.world.agents.stranger(address, None)


def unplug(story: Story) -> None:
    """A port is removed by hand, or moved to another VLAN."""
    ports = [(host.name, port) for host, port in story.world.agents.answering() if host.alive(port)]
    if ports:
        host, port = story.chance.choice(ports)
        if story.chance.random() < 0.7:
            story.world.agents.pull_out(host, port.name)
        else:
            story.world.agents.retag(host, port.name, 99)


def rewrite_a_name(story: Story) -> None:
    """A record of ours is removed or changed by hand, or somebody adds one of his own."""
    server, chance = story.world.server, story.chance
    shown = ((name, kind) for name in story.world.names() for kind in ("A", "AAAA"))
    ours = sorted(
        (
            *(question for question in shown if question in server.sets),
            *((name, "PTR") for name in story.world.pointers()),
        )
    )
    if not ours or chance.random() < 0.3:
        question = (f"by-hand-{len(story.world.foreign)}.{ZONE}", "A")
        server.sets[question] = story.world.foreign[question] = RRset(frozenset({ELSEWHERE}), 60)
    elif chance.random() < 0.5:
        question = chance.choice(ours)
        del server.sets[question]
    else:
        question = chance.choice(ours)
        value = {"A": ELSEWHERE, "AAAA": ELSEWHERE_6}.get(question[1], f"wrong.{ZONE}")
        server.sets[question] = RRset(frozenset({value}), server.sets[question].ttl)
    story.world.trace(f"* by hand: {question} is now {server.sets.get(question)}")


def disable_a_server(story: Story) -> None:
    """A balancer's member is disabled or removed by hand."""
    name = story.chance.choice(sorted(story.world.proxies))
    members = story.world.proxies[name].members
    seen = [key for key, spec in sorted(members.items()) if name != NGINX or told_by_nginx(spec)]
    if seen:
        key = story.chance.choice(seen)
        story.world.trace(f"* by hand: {name} loses {key}")
        if story.chance.random() < 0.5:
            del members[key]
        else:
            members[key] = MemberSpec(members[key].endpoints, "declared")


def delete_an_item(story: Story) -> None:
    """Somebody deletes a row of the inventory."""
    if keys := sorted(story.world.inventory):
        key = story.chance.choice(keys)
        story.world.trace(f"* by hand: the inventory loses {key}")
        del story.world.inventory[key]


def lie(story: Story) -> None:
    """Marathon's listings lack much for a short time, or nearly everything for long."""
    marathon, world = story.marathon, story.world
    if world.lie is not None or story.lied or not marathon.apps:
        return
    story.lied = True
    seated, paused = story.audit.seated(), story.paused()
    living = {
        one.id: one.task for one in marathon.instances.values()
        if one.task in seated and one.app.id not in paused and story.still_lives(one.id, one.task)
    }  # fmt: skip
    kind = story.chance.choice(("empty", "short", "most"))
    everything = frozenset((*marathon.apps, *marathon.instances))
    if kind == "empty":
        hidden, seconds = everything, LONG_S
    elif kind == "most" and len(living) >= 14:
        hidden, seconds = (
            frozenset(sorted(marathon.instances)[: max(1, len(marathon.instances) * 3 // 4)]),
            LONG_S,
        )
    else:
        hidden, seconds = frozenset(one for one in sorted(everything) if story.chance.random() < 0.5), SHORT_S
    world.lie = Lie(f"lacks {len(hidden)} of {len(everything)} apps and instances", living, story.still_lives)
    story.begins(f"listings lie: {kind}, {seconds:g} s", _lying(story, hidden, seconds))


async def _lying(story: Story, hidden: frozenset[str], seconds: float) -> None:
    # What is said of one app alone, twice, is believed if it concerns few: the brake is about whole listings.
    story.marathon.hidden, story.marathon.hides_alone = hidden, seconds == SHORT_S
    await story.clock.sleep(seconds)
    story.marathon.hidden = frozenset()
    await story.clock.sleep(10.0)  # what was heard of it has had its effect
    story.world.lie = None


RARER: tuple[Happening, ...] = (
    freeze, start_another, lose_the_store, copy_the_store, copy_behind, prune, fence, unfence, set_aside,
    new_pool, stranger, unplug, rewrite_a_name, disable_a_server, delete_an_item, lie, flap,
    maintain_or_resume, dig_up_a_port,
)  # fmt: skip
