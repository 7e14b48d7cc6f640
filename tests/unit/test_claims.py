"""Claims: what stays in force, and that no app gets another's name, in whatever order they are read."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import permutations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mooring.controller.claims import Claims
from mooring.controller.names import name_at, path_of, shown_path
from mooring.core.errors import Refused
from mooring.core.labels import Claim, Rules
from mooring.core.model import (
    App,
    AppId,
    Binding,
    BindingId,
    HostName,
    Instance,
    InstanceId,
    SinkName,
    SinkState,
    State,
    TaskId,
)
from mooring.core.specs import NameSpec, SharedNameSpec, Spec
from mooring.dns.naming import app_name, seat_name
from mooring.handlers.wants import APP_NAMES, NAMES, Facts, wants_of
from mooring.ipam.pools import Pool

ZONE = "mooring.test"
RULES = Rules(pools={"shop": Pool.parse("shop", "10.64.0.0/22")}, zone=ZONE)
WEB = AppId("/shop/web")  # its id reads as web.shop
AAA, BBB, CCC = AppId("/aaa"), AppId("/bbb"), AppId("/ccc")


def app(id: str, name: str | None = None, pool: str | None = "shop", **labels: str) -> App:
    asked = {"MOORING_POOL": pool, "MOORING_DNS_NAME": name} | labels
    return App(AppId(id), 1, {label: value for label, value in asked.items() if value is not None})


def shows(id: AppId, *, wanted: str | None = None, shown: str | None = None, slot: int = 0) -> Binding:
    """A stored binding whose app and seat names are these, below the zone."""

    def state(name: str | None, kind: type[NameSpec] | type[SharedNameSpec]) -> Spec | None:
        return None if name is None else kind(f"{name}.{ZONE}", "10.64.0.9", 10)

    def seat(name: str | None) -> str | None:
        return None if name is None else f"{name.partition('.')[0]}-{slot}.{name}"

    sinks = {
        NAMES: SinkState(state(seat(wanted), NameSpec), state(seat(shown), NameSpec)),
        APP_NAMES: SinkState(state(wanted, SharedNameSpec), state(shown, SharedNameSpec)),
    }
    instance = InstanceId(f"{id.strip('/').replace('/', '_')}.instance-{slot}")
    return Binding(
        BindingId(instance), id, instance, 1, TaskId(f"{instance}._app.1"), HostName("a1"), slot,
        "10.64.0.9", None, False, sinks,
    )  # fmt: skip


class Desk:
    """Claims, and who was said to have changed."""

    def __init__(self, bindings: Iterable[Binding] = ()) -> None:
        self.changed: list[AppId] = []
        self.claims = Claims(RULES, bindings, self.changed.append)

    def read(self, *apps: App) -> None:
        for each in apps:
            self.claims.of(each)

    def see(self, apps: Iterable[App]) -> None:
        listed = {app.id: app for app in apps}
        deque(self.claims.see(listed, listed.get), maxlen=0)

    def names(self, *apps: App) -> Mapping[AppId, str]:
        """The name that each app has now."""
        claims = ((each.id, self.claims.of(each)) for each in apps)
        return {id: name_at(path_of(claim)) for id, claim in claims if claim is not None}

    def refused(self) -> set[AppId]:
        return set(self.claims.refusals)


# -- a name that an app's id reads as


def test_another_apps_name_is_refused_with_label_name_holder_and_remedy() -> None:
    desk = Desk()
    desk.read(app(WEB), thief := app(AAA, "web.shop"))
    assert desk.names(thief) == {}
    reason = "web.shop: the name web.shop is in use by /shop/web; set another one"
    assert desk.claims.refusals[AAA] == f"app /aaa: label MOORING_DNS_NAME: {reason}"


@pytest.mark.parametrize("pool", ["shop", None])
def test_a_listing_decides_for_the_id_in_any_order(pool: str | None) -> None:
    for apps in permutations([app(AAA, "web.shop"), app(WEB, pool=pool), app("/zzz", "web.shop")]):
        desk = Desk()
        desk.see(apps)
        assert desk.names(*apps) == {WEB: "web.shop"}
        assert desk.refused() == {AAA, "/zzz"}


def test_after_a_restart_the_thief_is_still_the_one_refused() -> None:
    desk = Desk([shows(WEB, wanted="web.shop", shown="web.shop")])
    desk.see(apps := [app(AAA, "web.shop"), app(WEB)])
    assert desk.names(*apps) == {WEB: "web.shop"}


def test_an_app_without_instances_keeps_its_name() -> None:
    desk = Desk()
    desk.see([App(WEB, 0, {}), thief := app(AAA, "web.shop")])
    assert desk.names(thief) == {}


def test_an_app_may_ask_for_what_its_id_reads_as() -> None:
    desk = Desk()
    desk.see([plain := app(WEB, "web.shop")])
    assert desk.names(plain) == {WEB: "web.shop"}


def test_an_app_under_another_name_still_keeps_its_own() -> None:
    desk = Desk()
    desk.see([named := app(WEB, "www.shop"), thief := app(AAA, "web.shop")])
    assert desk.names(named, thief) == {WEB: "www.shop"}


def test_a_holder_makes_way_for_a_new_app_and_goes_under_its_own_name() -> None:
    desk = Desk()
    holder = app(AAA, "web.shop", MOORING_DNS_TTL="77")
    assert desk.names(holder) == {AAA: "web.shop"}
    desk.read(web := app(WEB))
    assert desk.names(holder, web) == {AAA: "aaa", WEB: "web.shop"}
    assert desk.changed == [AAA]
    assert "in use by /shop/web" in desk.claims.refusals[AAA]
    claim = desk.claims.of(holder)
    assert claim is not None
    assert claim.ttl == 77


def test_a_holder_with_unreadable_labels_makes_way_as_well() -> None:
    desk = Desk()
    desk.read(app(AAA, "web.shop"), spoilt := app(AAA, "web.shop", pool="nowhere"))
    assert desk.names(spoilt) == {AAA: "web.shop"}
    desk.read(app(WEB))
    assert desk.names(spoilt) == {AAA: "aaa"}


def test_a_holder_makes_way_for_an_app_that_came_while_nobody_watched() -> None:
    desk = Desk([shows(AAA, wanted="web.shop", shown="web.shop")])
    desk.see(apps := [app(AAA, "web.shop"), app(WEB)])
    assert desk.names(*apps) == {AAA: "aaa", WEB: "web.shop"}
    assert desk.refused() == {AAA}


def test_a_holder_that_made_way_gets_its_name_back() -> None:
    desk = Desk()
    desk.read(holder := app(AAA, "web.shop"), app(WEB))
    desk.claims.forget(WEB)
    assert desk.names(holder) == {AAA: "web.shop"}
    assert desk.refused() == set()
    assert desk.changed == [AAA, AAA]


# -- a name that several ask for


def test_the_first_to_ask_has_it() -> None:
    desk = Desk()
    desk.read(first := app(BBB, "x"), second := app(AAA, "x"))
    assert desk.names(first, second) == {BBB: "x"}


def test_of_a_listing_the_first_id_has_it() -> None:
    for apps in permutations([app(AAA, "x"), app(BBB, "x"), app(CCC, "x")]):
        desk = Desk()
        desk.see(apps)
        assert desk.names(*apps) == {AAA: "x"}


@pytest.mark.parametrize("known_by", ["wanted", "shown"])
def test_who_shows_a_name_keeps_it_over_a_restart(known_by: str) -> None:
    desk = Desk([shows(BBB, **{known_by: "deep.x"})])
    desk.see(apps := [app(AAA, "deep.x"), app(BBB, "deep.x")])
    assert desk.names(*apps) == {BBB: "deep.x"}
    assert "in use by /bbb" in desk.claims.refusals[AAA]


@pytest.mark.parametrize("missing", [NAMES, APP_NAMES])
def test_either_of_the_two_names_is_enough(missing: SinkName) -> None:
    binding = shows(BBB, wanted="x", slot=12).with_sink(missing, SinkState())
    desk = Desk([binding])
    desk.see(apps := [app(AAA, "x"), app(BBB, "x")])
    assert desk.names(*apps) == {BBB: "x"}


def test_what_is_left_over_yields_to_what_is_wanted() -> None:
    desk = Desk([shows(AAA, wanted="y", shown="x"), shows(BBB, wanted="x")])
    desk.see(apps := [app(AAA, "y"), app(BBB, "x"), app(CCC, "x")])
    assert desk.names(*apps) == {AAA: "y", BBB: "x"}


def test_of_two_that_show_a_name_the_first_id_has_it() -> None:
    desk = Desk([shows(BBB, wanted="x"), shows(AAA, wanted="x")])
    desk.see(apps := [app(AAA, "x"), app(BBB, "x")])
    assert desk.names(*apps) == {AAA: "x"}


def test_names_of_another_zone_and_other_specs_say_nothing() -> None:
    foreign = shows(BBB).with_sink(APP_NAMES, SinkState(SharedNameSpec("x.other.test", "10.64.0.9", 10)))
    desk = Desk([foreign])
    assert desk.names(app(AAA, "x")) == {AAA: "x"}
    assert shown_path(SharedNameSpec("x.mooring.test", "10.64.0.9", 10), "") is None
    assert shown_path(None, ZONE) is None


# -- seats


@pytest.mark.parametrize("apps", [*permutations([app(WEB), app(AAA, "web-1.web.shop")])])
def test_a_seats_name_is_refused(apps: tuple[App, ...]) -> None:
    desk = Desk()
    desk.see(apps)
    assert desk.names(*apps) == {WEB: "web.shop"}
    assert "the name web.shop is in use by /shop/web" in desk.claims.refusals[AAA]


def test_a_seat_of_a_name_held_by_label_is_refused() -> None:
    desk = Desk()
    desk.read(first := app(BBB, "web.shop"), second := app(AAA, "web-10.web.shop"))
    assert desk.names(first, second) == {BBB: "web.shop"}


def test_a_name_whose_seats_would_be_anothers_is_refused() -> None:
    desk = Desk()
    desk.see(apps := [app(AAA, "shop"), app("/shop/shop-0")])
    assert desk.names(*apps) == {"/shop/shop-0": "shop-0.shop"}
    assert "shop: the name shop-0.shop is in use by /shop/shop-0" in desk.claims.refusals[AAA]


def test_holders_of_a_seats_name_and_of_a_parents_make_way() -> None:
    desk = Desk()
    desk.read(seat := app(AAA, "web-1.web.shop"), desk_of_seat := app(BBB, "db"))
    desk.read(app(WEB), app("/db/db-3"))
    assert desk.names(seat, desk_of_seat) == {AAA: "aaa", BBB: "bbb"}
    assert desk.changed == [AAA, BBB]


def test_a_seat_is_remembered_over_a_restart() -> None:
    desk = Desk([shows(BBB, wanted="web.x")])
    desk.see(apps := [app(AAA, "web-0.web.x"), app(BBB, "web.x")])
    assert desk.names(*apps) == {BBB: "web.x"}


def test_an_app_is_never_refused_its_own_name() -> None:
    desk = Desk([shows(AAA, wanted="web-1.web.shop")])
    desk.read(web := app(WEB))
    assert desk.names(web, app(AAA, "web-1.web.shop")) == {WEB: "web.shop", AAA: "aaa"}


def test_a_seats_name_stays_guarded_when_its_holder_made_way_for_an_app() -> None:
    desk = Desk()
    desk.read(app(BBB, "shop-0.shop"), app("/shop/shop-0"))
    assert desk.refused() == {BBB}
    assert desk.names(app(AAA, "shop")) == {}


@pytest.mark.parametrize("name", ["web-01.web.shop", "web-a.web.shop", "web1.web.shop", "api-1.web.shop"])
def test_what_is_no_seat_is_free(name: str) -> None:
    desk = Desk()
    desk.see([app(WEB), other := app(AAA, name)])
    assert desk.names(other) == {AAA: name}


def test_an_app_may_take_a_seats_name_of_its_own() -> None:
    desk = Desk()
    desk.see([own := app(WEB, "web-1.web.shop")])
    assert desk.names(own) == {WEB: "web-1.web.shop"}


# -- a name becomes free


def test_a_refused_app_cannot_free_anothers_name() -> None:
    desk = Desk()
    desk.read(app(WEB), app(AAA, "web.shop", pool=None), app(AAA, "other", pool=None))
    assert desk.names(third := app(BBB, "web.shop")) == {}
    desk.read(app(CCC, "x"), app(AAA, "x", pool=None), app(AAA, "other", pool=None))
    assert desk.names(third := app(BBB, "x"), app(CCC, "x")) == {CCC: "x"}
    desk.claims.forget(AAA)
    assert desk.names(third) == {}


def test_when_the_holder_is_gone_the_first_who_waits_gets_the_name() -> None:
    desk = Desk()
    apps = [app(CCC, "x"), app(BBB, "x"), app(AAA, "x")]
    desk.read(*apps)
    desk.claims.forget(CCC)
    assert desk.changed == [AAA]
    assert desk.names(*apps[1:]) == {AAA: "x"}
    assert desk.refused() == {BBB}
    desk.claims.forget(AAA)
    assert desk.changed == [AAA, BBB]
    assert desk.names(apps[1]) == {BBB: "x"}


def test_when_the_app_of_that_id_is_gone_its_name_is_free() -> None:
    desk = Desk()
    desk.see([App(WEB, 0, {}), waiting := app(AAA, "web.shop")])
    assert WEB in desk.claims.apps()  # so the janitor tells when it is gone, read for an instance or not
    desk.claims.forget(WEB)
    assert desk.changed == [AAA]
    assert desk.names(waiting) == {AAA: "web.shop"}


def test_a_new_name_of_the_holder_frees_the_old_one() -> None:
    desk = Desk()
    desk.read(app(BBB, "x"), waiting := app(AAA, "x"))
    desk.read(renamed := app(BBB, "y"))
    assert desk.names(renamed, waiting) == {BBB: "y", AAA: "x"}
    assert desk.changed == [AAA]


def test_a_holder_that_makes_way_frees_its_other_name() -> None:
    desk = Desk()
    desk.read(app(AAA, "web.shop"), seat := app(BBB, "web-1.web.shop"))
    assert desk.refused() == {BBB}
    desk.claims.forget(AAA)
    assert desk.names(seat) == {BBB: "web-1.web.shop"}


def test_refused_for_the_next_reason_an_app_waits_for_the_next_owner() -> None:
    desk = Desk()
    desk.read(app(BBB, "web.shop"), waiting := app(AAA, "web.shop"), app(WEB))
    assert desk.changed == [BBB]
    desk.claims.forget(BBB)
    assert desk.names(waiting) == {}
    desk.claims.forget(WEB)
    assert desk.names(waiting) == {AAA: "web.shop"}


def test_a_long_row_of_names_moves_up() -> None:
    desk = Desk()
    count = 2000
    desk.read(*(app(f"/a{n}", f"n{n}") for n in range(count)))
    moved = [app(f"/a{n}", f"n{n + 1}") for n in range(count)]
    desk.read(*moved[:-1])
    assert len(desk.refused()) == count - 1
    desk.read(moved[-1])
    assert desk.names(*moved) == {each.id: each.labels["MOORING_DNS_NAME"] for each in moved}
    assert len(desk.changed) == count - 1


def test_a_holder_that_never_came_back_is_known_and_can_be_forgotten() -> None:
    desk = Desk([shows(BBB, wanted="x")])
    desk.see([waiting := app(AAA, "x")])
    assert set(desk.claims.apps()) == {AAA, BBB}
    desk.claims.forget(BBB)
    assert desk.names(waiting) == {AAA: "x"}
    assert set(desk.claims.apps()) == {AAA}


def test_a_holder_that_came_back_with_another_name_frees_the_old_one() -> None:
    desk = Desk([shows(BBB, wanted="x")])
    desk.see(apps := [app(AAA, "x"), app(BBB, "y")])
    assert desk.names(*apps) == {AAA: "x", BBB: "y"}


def test_nothing_is_left_of_forgotten_apps() -> None:
    desk = Desk([shows(BBB, wanted="x", shown="old")])
    desk.see([app(AAA, "x"), app(BBB, "x"), app("/db/db-3"), app(CCC, "web-1.web.shop"), app(WEB)])
    desk.read(app(BBB, "y"), app(BBB))
    for gone in (AAA, BBB, CCC, WEB, AppId("/db/db-3")):
        desk.claims.forget(gone)
    assert set(desk.claims.apps()) == set()
    fresh = [app("/n1", "x"), app("/n2", "old"), app("/n3", "db"), app("/n4", "web.shop")]
    desk.see(fresh)
    assert desk.refused() == set()


# -- what stays in force


def test_the_last_good_claim_stays_in_force() -> None:
    desk = Desk()
    desk.read(app(AAA, "x"), spoilt := app(AAA, pool="nowhere"))
    assert desk.names(spoilt) == {AAA: "x"}
    assert desk.names(app(BBB, "x")) == {}
    desk.read(app(WEB), wrong := app(AAA, "web.shop"))
    assert desk.names(wrong) == {AAA: "x"}


def test_good_labels_end_the_refusal() -> None:
    desk = Desk()
    desk.read(spoilt := app(AAA, pool="nowhere"))
    assert desk.names(spoilt) == {}
    assert desk.names(app(AAA, "x")) == {AAA: "x"}
    assert desk.refused() == set()


# -- dependents


def notified(id: AppId, sources: str) -> App:
    return app(id, MOORING_NOTIFY_FROM=sources, MOORING_NOTIFY_PATH="/etc/members")


def test_dependents_follow_the_claims_in_force() -> None:
    desk = Desk()
    desk.read(notified(AAA, "/db,/shop/web"), notified(BBB, "/db"))
    assert desk.claims.dependents(AppId("/db")) == {AAA, BBB}
    assert desk.claims.dependents(WEB) == {AAA}
    desk.read(app(AAA, pool="nowhere"))
    assert desk.claims.dependents(WEB) == {AAA}, "the last good claim is in force"
    desk.read(notified(AAA, "/other"))
    assert desk.claims.dependents(WEB) == set()
    assert desk.claims.dependents(AppId("/other")) == {AAA}
    desk.claims.forget(BBB)
    assert desk.claims.dependents(AppId("/db")) == set()


def test_a_holder_that_made_way_keeps_its_files() -> None:
    desk = Desk()
    labels = {"MOORING_NOTIFY_FROM": "/db", "MOORING_NOTIFY_PATH": "/etc/members"}
    desk.read(app(AAA, "web.shop", **labels), app(WEB))
    assert desk.claims.dependents(AppId("/db")) == {AAA}


# -- one notion of names

stems = st.sampled_from(["web", "shop", "db"])
parts = stems | st.builds(lambda stem, slot: f"{stem}-{slot}", stems, st.sampled_from(["0", "1", "12", "01"]))
paths = st.lists(parts, min_size=1, max_size=3).map(lambda labels: AppId("/" + "/".join(labels)))
asked = st.none() | paths.map(name_at)


def claim_of(id: AppId, name: str | None) -> Claim:
    return Claim(id, dns_name=name)


def wanted_names(claim: Claim, slot: int) -> dict[str, Spec]:
    """What the name server is told to show for an instance of an app with this claim."""
    bound = shows(claim.app, slot=slot)
    observed = Instance(bound.instance, 1, bound.task, claim.app, bound.host, State.RUNNING)
    wants = wants_of(Facts(observed, App(claim.app, 1, {}), claim, None, ZONE, 0, None, {}), bound).specs
    return {sink: spec for sink in (NAMES, APP_NAMES) if (spec := wants[sink]) is not None}


@given(paths, asked, st.integers(0, 5000))
def test_what_is_shown_reads_back_as_the_path_that_was_judged(id: AppId, name: str | None, slot: int) -> None:
    claim = claim_of(id, name)
    path = path_of(claim)
    wants = wanted_names(claim, slot)
    assert wants[APP_NAMES].name == app_name(path, ZONE) == f"{name_at(path)}.{ZONE}"  # type: ignore[union-attr]
    assert wants[NAMES].name == seat_name(path, slot, ZONE)  # type: ignore[union-attr]
    assert {shown_path(spec, ZONE) for spec in wants.values()} == {path}


def all_names(claim: Claim) -> set[str]:
    path = path_of(claim)
    return {app_name(path, ZONE), *(seat_name(path, slot, ZONE) for slot in range(13))}


@given(st.dictionaries(paths, asked, max_size=6), st.booleans())
@example({AppId("/shop"): None, AppId("/shop/shop-0"): "db"}, True)
def test_no_two_apps_ever_have_a_name_in_common(wishes: dict[AppId, str | None], listed: bool) -> None:
    groups = {parent for id in wishes for parent in _above(id)}
    assume(not groups & wishes.keys())  # Marathon has no app and group of one name
    apps = [app(id, name) for id, name in wishes.items()]
    desk = Desk()
    if listed:
        desk.see(apps)
    desk.read(*apps)
    claims = [claim for each in apps if (claim := desk.claims.of(each)) is not None]
    for one in claims:
        for other in claims:
            assert one is other or not all_names(one) & all_names(other)


def _above(id: AppId) -> Iterable[AppId]:
    steps = id.split("/")
    return (AppId("/".join(steps[:end])) for end in range(2, len(steps)))


@pytest.mark.parametrize("id", ["/a.b", "/Shop", "/shop/-web"])
def test_an_id_that_cannot_be_a_name_takes_none_from_others(id: str) -> None:
    with pytest.raises(Refused):
        app_name(AppId(id), ZONE)
    desk = Desk()
    desk.see([app(id), other := app(AAA, name_at(AppId(id)).lower().strip("-").replace("-web", "web"))])
    assert desk.refused() == set()
    assert len(desk.names(other)) == 1


# -- whose file is rendered from whose members


def watching(id: str, source: str) -> App:
    labels = {
        "MOORING_POOL": "shop",
        "MOORING_NOTIFY_FROM": source,
        "MOORING_NOTIFY_PATH": "/etc/peers",
        "MOORING_NOTIFY_TEMPLATE": "{{ members | length }}",
        "MOORING_NOTIFY_COMMAND": "reload",
    }
    return App(AppId(id), 1, labels)


def test_dependents_are_told_when_a_source_is_first_read_and_when_its_claim_changes() -> None:
    desk = Desk()
    desk.read(watching(AAA, WEB))
    assert desk.changed == []
    desk.read(app(WEB))
    assert set(desk.changed) == {AAA}, "until now nobody could tell what its members are"
    desk.changed.clear()
    desk.read(app(WEB))
    assert desk.changed == []
    desk.read(app(WEB, "www"))
    assert set(desk.changed) == {AAA}, "its members have another name"


def test_dependents_are_told_of_a_source_that_asks_for_nothing() -> None:
    desk = Desk()
    desk.read(watching(AAA, WEB), app(WEB, pool=None))
    assert set(desk.changed) == {AAA}
