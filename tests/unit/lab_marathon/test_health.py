"""Health checks: who runs them, when failures count, what is announced, and when a task is killed."""

import asyncio

import pytest

FAST = {"intervalSeconds": 0.05, "timeoutSeconds": 1, "delaySeconds": 0, "gracePeriodSeconds": 0}
COMMAND = {**FAST, "protocol": "COMMAND", "command": {"value": "check --me"}, "maxConsecutiveFailures": 3}


@pytest.fixture
async def web():
    """An HTTP service that answers with a settable status, on any port of the loopback."""
    services = []

    class Service:
        status = b"200 OK"
        requests = []

        async def answer(self, reader, writer):
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 " + self.status + b"\r\nContent-Length: 0\r\n\r\n")
            writer.close()

    service = Service()
    server = await asyncio.start_server(service.answer, "127.0.0.1", 0)
    services.append(server)
    service.port = server.sockets[0].getsockname()[1]
    yield service
    server.close()


async def test_a_command_check_runs_in_the_container(lab):
    await create(lab, COMMAND)
    assert await lab.seen("healthy True")
    assert lab.engine.executed[0] == ("/bin/sh", "-c", "check --me")


async def test_a_mesos_check_shows_as_a_repeated_running(lab):
    await create(lab, COMMAND)
    await lab.seen("deployment_success")
    await lab.fresh()
    lab.engine.command_status = 1
    seen = await lab.seen("IC Killed")
    assert seen[:5] == ["SU RUNNING", "alive False", "healthy False", "SU KILLED", "IC Killed"]
    lab.engine.command_status = 0
    assert (await lab.quiet())[0]["id"].endswith("._app.2")


async def test_marathons_own_check_announces_failures_and_the_kill(lab, web):
    check = {**FAST, "protocol": "HTTP", "path": "/up", "port": web.port, "maxConsecutiveFailures": 3}
    await create(lab, check)
    await lab.seen("deployment_success")
    assert web.requests[0].startswith(b"GET /up HTTP/1.1\r\nHost: 127.0.0.1:")
    await lab.fresh()
    web.status = b"503 Service Unavailable"
    seen = await lab.seen("IC Killed")
    assert (
        seen[:9]
        == [
            "failed_health_check_event",
            "alive False",
            "healthy False",
            "failed_health_check_event",
            "failed_health_check_event",
            "unhealthy_instance_kill_event",
            "SU KILLED",
            "IC Killed",
            "healthy None",
        ][: len(seen)]
    )
    kill = next(e for e in lab.events if e["eventType"] == "unhealthy_instance_kill_event")
    assert kill["reason"] == "503 Service Unavailable"


async def test_failures_count_only_after_the_grace_period(lab):
    lab.engine.command_status = 1
    await create(lab, {**COMMAND, "gracePeriodSeconds": 0.5})
    await lab.until(lambda: len(lab.engine.executed) >= 5)
    [task] = (await lab.call("GET", "/v2/apps/shop/web"))["app"]["tasks"]
    assert (task["state"], task["healthCheckResults"]) == ("TASK_RUNNING", [])
    await lab.seen("SU KILLED")


async def test_a_success_ends_the_grace_period(lab):
    await create(lab, {**COMMAND, "gracePeriodSeconds": 60})
    await lab.seen("healthy True")
    lab.engine.command_status = 1
    await lab.seen("SU KILLED")


async def test_zero_failures_allowed_means_never_killed(lab):
    lab.engine.command_status = 1
    await create(lab, {**COMMAND, "maxConsecutiveFailures": 0})
    await lab.seen("healthy False")
    await lab.until(lambda: len(lab.engine.executed) >= 6)
    shown = (await lab.call("GET", "/v2/apps/shop/web"))["app"]
    [result] = shown["tasks"][0]["healthCheckResults"]
    assert (result["alive"], result["lastFailureCause"]) == (False, "Command returned: 1")
    assert result["consecutiveFailures"] >= 5
    assert (shown["tasksHealthy"], shown["tasksUnhealthy"]) == (0, 1)


async def test_recovery_is_announced_and_clears_the_count(lab):
    lab.engine.command_status = 1
    await create(lab, {**COMMAND, "maxConsecutiveFailures": 0})
    await lab.seen("healthy False")
    await lab.fresh()
    lab.engine.command_status = 0
    assert (await lab.seen("healthy True"))[:3] == ["SU RUNNING", "alive True", "healthy True"]


async def test_the_first_probe_of_mesos_waits_its_delay(lab):
    await create(lab, {**COMMAND, "delaySeconds": 0.3})
    await lab.seen("IC Running")
    await asyncio.sleep(0.1)
    assert lab.engine.executed == []
    await lab.seen("healthy True")


async def test_an_instance_is_healthy_when_all_checks_are(lab, web):
    web.status = b"500 Oops"
    http = {**FAST, "protocol": "HTTP", "port": web.port, "maxConsecutiveFailures": 0}
    await create(lab, COMMAND, http)
    await lab.seen("healthy False")
    web.status = b"302 Found"
    await lab.seen("healthy True")


@pytest.mark.parametrize("protocol", ["MESOS_HTTP", "MESOS_TCP", "TCP"])
async def test_network_checks_reach_their_port(lab, web, protocol):
    """The memory engine's containers live in this process's own namespace."""
    await create(lab, {**FAST, "protocol": protocol, "port": web.port})
    await lab.seen("healthy True")


@pytest.mark.parametrize("protocol", ["MESOS_TCP", "TCP"])
async def test_a_refused_connection_is_a_failure(lab, web, unused_port, protocol):
    await create(lab, {**FAST, "protocol": protocol, "port": unused_port, "maxConsecutiveFailures": 0})
    await lab.seen("healthy False")


async def test_marathon_cannot_check_what_has_no_host_port(lab):
    network = [{"mode": "container", "name": "none"}]
    container = {"portMappings": [{"containerPort": 8080}]}
    await create(lab, {**FAST, "protocol": "TCP"}, networks=network, container=container)
    await lab.seen("failed_health_check_event")
    [task] = (await lab.call("GET", "/v2/apps/shop/web"))["app"]["tasks"]
    assert "no port" in task["healthCheckResults"][0]["lastFailureCause"]


async def test_a_probe_that_hangs_fails_after_its_timeout(lab):
    async def hang(*_):
        await asyncio.sleep(60)

    lab.engine.execute = hang
    await create(lab, {**COMMAND, "timeoutSeconds": 0.05, "maxConsecutiveFailures": 0})
    await lab.seen("healthy False")


@pytest.fixture
async def unused_port():
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


async def create(lab, *checks, **fields):
    await lab.fresh()
    app = {"id": "/shop/web", "cmd": "serve", "backoffSeconds": 0, "healthChecks": checks, **fields}
    await lab.call("POST", "/v2/apps", app, expect=201)
