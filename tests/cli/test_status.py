"""What `shoal status` shows people, from what the head answered."""

from __future__ import annotations

from typing import Any

from shoal.cli import status


def node(instance: str, **changes: Any) -> dict[str, Any]:
    plain = {
        "instance_id": instance,
        "node_type": "small",
        "is_head": False,
        "total": {"CPU": 2.0},
        "idle_s": 3.0,
        "busy": [],
        "drain_answer": "",
        "notice": "",
    }
    return {**plain, **changes}


def instance(name: str, state: str) -> dict[str, Any]:
    return {
        "instance_id": name,
        "node_type": "small",
        "state": state,
        "since_s": 1.5,
        "step": "waiting for its agent" if state == "booting" else "",
        "price_usd_per_h": 0.1,
        "error": "",
    }


def answer(**changes: Any) -> dict[str, Any]:
    report = {
        "rounds": 7,
        "waiting_for": "",
        "instances": [],
        "unmet": [],
        "failures": [],
        "kept": [],
        "is_price_complete": True,
        "usd_per_hour": 0.2,
        "usd_spent": 0.5,
    }
    plain = {
        "cluster": "t",
        "up_s": 10.0,
        "epoch": 1,
        "autoscaler_ran_ago_s": 0.5,
        "nodes": {},
        "usage": {},
        "demand": [],
        "standing": [],
    }
    return {**plain, **changes, "autoscaler": {**report, **changes.get("autoscaler", {})}}


def shown_of(found: dict[str, Any]) -> str:
    return status._shown(found, verbose=False)


def test_a_machine_is_booting_with_its_step_until_its_node_has_joined() -> None:
    told = {"instances": [instance("i-1", "booting"), instance("i-2", "booting"), instance("i-3", "ready")]}

    shown = shown_of(
        answer(nodes={"idle": [node("i-1")], "active": [node("i-3", busy=[["lease", 2, ""]])]}, autoscaler=told)
    )

    lines = [line.strip() for line in shown.splitlines()]
    assert [line for line in lines if line.startswith("i-1")] == [
        "i-1                small        2 CPU                    idle for 3.0 s"
    ]
    assert any(line.startswith("i-2") and "booting for 1.5 s, waiting for its agent" in line for line in lines)
    assert next(line for line in lines if line.startswith("i-3")).endswith("active: 2 leases")


def test_standing_requests_say_what_they_hold_for_whom_and_how_long() -> None:
    bundles = [{"amounts": {"CPU": 2.0}, "count": 3}, {"amounts": {"GPU": 1.0}, "count": 1}]

    shown = shown_of(
        answer(
            standing=[
                {"owner": "", "bundles": bundles, "ttl_s": 90.0},
                {"owner": "trainer", "bundles": bundles[:1], "ttl_s": 7200.0},
            ]
        )
    )

    assert "  standing request: 3 x 2 CPU, 1 x 1 GPU, for 90 s more" in shown
    assert "  standing request of `trainer`: 3 x 2 CPU, for 2.0 h more" in shown


def test_money_failures_and_the_reason_to_wait_are_told() -> None:
    failure = {"what": "launch", "code": "NoCapacity", "error": "none left", "retry_in_s": 30.0, "at_s": 0.0}

    shown = shown_of(answer(autoscaler={"waiting_for": "2 machines to join", "failures": [failure]}))

    assert "it waits for: 2 machines to join" in shown
    assert "cost      $0.2000/h now, $0.5000 so far" in shown
    assert "launch: NoCapacity none left, again in 30 s" in shown
