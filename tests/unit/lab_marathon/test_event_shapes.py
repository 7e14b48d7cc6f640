"""Every event the lab's Marathon publishes has exactly the fields of the sample, in the same order."""

import json
from pathlib import Path

SAMPLES = Path(__file__).parents[2] / "data" / "marathon-events"
HTTP = {"protocol": "HTTP", "intervalSeconds": 0.05, "gracePeriodSeconds": 0, "maxConsecutiveFailures": 1}


async def test_events_have_the_fields_of_the_samples(lab, shorten):
    app = {"id": "/shop/web", "cmd": "serve", "backoffSeconds": 0, "healthChecks": [HTTP]}
    lab.engine.hold.clear()
    await lab.call("POST", "/v2/apps", app, expect=201)
    await lab.call("PUT", "/v2/apps/shop/web", {"instances": 2}, expect=409)
    await lab.call("PUT", "/v2/apps/shop/web?force=true", {"instances": 2})
    lab.engine.hold.set()
    await lab.seen("unhealthy_instance_kill_event")  # nobody listens on its port
    await lab.seen("IC Killed")
    await lab.call("DELETE", "/v2/apps/shop/web/tasks?wipe=true")
    await lab.seen("unknown_instance_terminated_event")
    await lab.call("DELETE", "/v2/apps/shop/web?force=true")
    await lab.seen("deployment_success")
    published = {e["eventType"]: e for e in lab.events if e["eventType"] != "marker_event"}
    assert set(published) >= {
        "add_health_check_event",
        "api_post_event",
        "app_terminated_event",
        "deployment_failed",
        "deployment_info",
        "deployment_step_failure",
        "deployment_step_success",
        "deployment_success",
        "event_stream_attached",
        "failed_health_check_event",
        "group_change_failed",
        "group_change_success",
        "instance_changed_event",
        "instance_health_changed_event",
        "remove_health_check_event",
        "status_update_event",
        "unhealthy_instance_kill_event",
        "unknown_instance_terminated_event",
    }
    for event_type, event in published.items():
        sample = json.loads((SAMPLES / f"{event_type}.json").read_text())
        assert list(event) == list(sample), event_type
    alive = json.loads((SAMPLES / "health_status_changed_event.json").read_text())
    await lab.fresh()
    check = {"protocol": "COMMAND", "command": {"value": "true"}, "delaySeconds": 0, "intervalSeconds": 1}
    await lab.deploy("/ok", healthChecks=[check])
    await lab.call("DELETE", "/v2/apps/ok")
    flips = [event for event in lab.events if shorten(event).startswith("alive")]
    assert all(list(event) == list(alive) for event in flips)
