"""What is made of a client's app: defaults, service ports, and every complaint about an invalid one."""

import pytest

from mooring.lab.marathon.definition import is_same_config, normalised, service_ports
from mooring.lab.marathon.errors import Invalid

NONE = [{"mode": "container", "name": "none"}]


def web(**fields):
    return {"id": "/web", "cmd": "serve", **fields}


def mapped(*ports):
    mappings = [{"containerPort": 8080, **port} for port in ports]
    return web(networks=NONE, container={"portMappings": mappings})


@pytest.mark.parametrize(
    ("app", "path"),
    [
        ({"cmd": "serve"}, "/id"),
        ({"id": "/Web", "cmd": "serve"}, "/id"),
        ({"id": "/a/../b", "cmd": "serve"}, "/id"),
        ({"id": "/web"}, "/"),
        (web(args=["serve"]), "/"),
        (web(cmd=7), "/cmd"),
        ({"id": "/web", "args": [1]}, "/args"),
        (web(instances=-1), "/instances"),
        (web(instances=1.5), "/instances"),
        (web(cpus="many"), "/cpus"),
        (web(mem=True), "/mem"),
        (web(labels={"a": 1}), "/labels/a"),
        (web(env={"A": 1}), "/env/A"),
        (web(labels=[]), "/labels"),
        (web(upgradeStrategy={"minimumHealthCapacity": 1.1}), "/upgradeStrategy/minimumHealthCapacity"),
        (web(unreachableStrategy="never"), "/unreachableStrategy"),
        (web(unreachableStrategy={"inactiveAfterSeconds": -1}), "/unreachableStrategy/inactiveAfterSeconds"),
        (web(killSelection="RANDOM"), "/killSelection"),
        (web(constraints=[["hostname"]]), "/constraints(0)"),
        (web(constraints=[["hostname", "NEAR", "x"]]), "/constraints(0)"),
        (web(constraints=[["rack", "UNIQUE"]]), "/constraints(0)"),
        (web(constraints=[["hostname", "LIKE"]]), "/constraints(0)"),
        (web(constraints=[["hostname", "LIKE", "("]]), "/constraints(0)"),
        (web(constraints=[["hostname", "MAX_PER", "few"]]), "/constraints(0)"),
        (web(networks=[]), "/networks"),
        (web(networks=[{"mode": "container"}]), "/networks(0)/name"),
        (web(networks=[{"mode": "container/bridge"}]), "/networks(0)"),
        (web(networks=[{"mode": "warp"}]), "/networks(0)/mode"),
        (web(healthChecks=[{"protocol": "UDP"}]), "/healthChecks(0)/protocol"),
        (web(healthChecks=[{"protocol": "MESOS_HTTPS"}]), "/healthChecks(0)/protocol"),
        (web(healthChecks=[{"protocol": "COMMAND"}]), "/healthChecks(0)/command"),
        (web(healthChecks=[{"intervalSeconds": -1}]), "/healthChecks(0)/intervalSeconds"),
        (web(healthChecks=["often"]), "/healthChecks(0)"),
        (web(container={"type": "CHROOT"}), "/container/type"),
        (web(container={"volumes": [{"persistent": {}}]}), "/container/volumes"),
        (
            web(container={"portMappings": [{"containerPort": 70000}]}),
            "/container/portMappings(0)/containerPort",
        ),
        (web(portDefinitions=[5]), "/portDefinitions(0)"),
        (web(readinessChecks=[{}]), "/readinessChecks"),
    ],
)
def test_an_invalid_app_is_refused_with_its_path(app, path):
    with pytest.raises(Invalid) as refused:
        normalised(app, None, ())
    assert refused.value.status == 422
    assert [detail["path"] for detail in refused.value.body["details"]] == [path]


def test_all_complaints_come_at_once():
    with pytest.raises(Invalid) as refused:
        normalised({"id": "/X", "instances": -1, "labels": {"a": 1}}, None, ())
    assert len(refused.value.body["details"]) == 4
    assert refused.value.body["message"] == "Object is not valid"


async def test_an_invalid_app_changes_nothing(lab):
    answer = await lab.call("POST", "/v2/apps", {"id": "/web", "instances": -1}, expect=422)
    assert {detail["path"] for detail in answer["details"]} == {"/", "/instances"}
    assert (await lab.call("GET", "/v2/apps"))["apps"] == []


def test_dynamic_service_ports_are_the_lowest_free_from_10000():
    first = normalised(mapped({}, {}), None, ())
    assert service_ports(first) == [10000, 10001]
    assert service_ports(normalised(mapped({}), None, [10000, 10001])) == [10002]


def test_a_dynamic_port_is_kept_over_updates():
    old = normalised(mapped({}, {}), None, ())
    assert service_ports(normalised(mapped({}, {}, {}), old, ())) == [10000, 10001, 10002]


def test_chosen_service_ports_stay():
    app = normalised(mapped({"servicePort": 10001}, {}, {}), None, ())
    assert service_ports(app) == [10001, 10000, 10002]
    assert service_ports(normalised(web(portDefinitions=[{"port": 80}]), None, ())) == [80]


def test_health_checks_get_marathons_defaults():
    app = normalised(web(healthChecks=[{}, {"protocol": "COMMAND", "command": {"value": "x"}}]), None, ())
    assert app["healthChecks"][0] == {
        "gracePeriodSeconds": 300,
        "ignoreHttp1xx": False,
        "intervalSeconds": 60,
        "maxConsecutiveFailures": 3,
        "path": "/",
        "portIndex": 0,
        "protocol": "HTTP",
        "ipProtocol": "IPv4",
        "timeoutSeconds": 20,
        "delaySeconds": 15,
    }
    assert "portIndex" not in app["healthChecks"][1]


def test_scale_and_version_are_no_configuration():
    app = normalised(web(), None, ())
    assert is_same_config(app, {**app, "instances": 9, "version": "later"})
    assert not is_same_config(app, normalised(web(cpus=2), app, ()))


def test_a_relative_id_becomes_absolute():
    assert normalised({"id": "shop/web/", "cmd": "x"}, None, ())["id"] == "/shop/web"
