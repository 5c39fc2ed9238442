"""Without an autoscaler the head itself says what no node can hold; work bound to a dead node fails at once."""

from __future__ import annotations

from typing import Any

from shoal.model.demand import Bundle, Selector, Strategy
from shoal.placement.fits import Spot
from shoal.runtime.head.core.never_fits import why_no_gang, why_no_node
from shoal.wire import messages as told
from tests.unit.head.desk import CPU, Desk, Node


def waits(node: Node, class_key: str, amounts: dict[str, int], **more: Any) -> None:
    node.report(backlog=[told.Backlog(node.process, class_key, "", 1, 0, amounts, **more)])


def test_what_no_node_holds_is_told_once_and_stays_demand() -> None:
    desk = Desk()
    node = desk.node(cpu=4)
    waits(node, "big", {"CPU": 100 * CPU})
    node.actor(amounts={"GPU": CPU})
    node.ask("create_group", spec=told.GroupSpec("g", [Bundle(amounts={"CPU": 3 * CPU})] * 2, Strategy.PACK))
    desk.wait(1)
    assert node.tells("infeasible") == [], "nodes of a young cluster may be on their way"

    desk.wait(10)

    whys = {one["key"]: one["why"] for one in node.tells("infeasible")}
    assert len(node.tells("infeasible")) == len(whys) == 3
    assert whys["big"] == "100 CPU: no node has more than 4 CPU"
    assert whys["g"] == "a placement group of 2 bundles by PACK: 1 node is not enough for them all"
    assert "1 GPU: no node has any GPU" in whys.values()
    assert {one.key for one in desk.core.work(desk.now_s).classes} >= {"big"}
    assert {one["verdict"] for one in desk.kinds("demand_unmet")} == {"infeasible"}


def test_what_merely_waits_for_a_full_node_is_not_told() -> None:
    desk = Desk()
    node = desk.node(cpu=4)
    node.report({"CPU": 0})
    waits(node, "c", {"CPU": 4 * CPU})

    desk.wait(10)

    assert node.tells("infeasible") == []


def test_an_autoscaler_has_the_word() -> None:
    desk = Desk()
    node = desk.node(cpu=4)
    desk.ask("open_session", owner="a")
    waits(node, "big", {"CPU": 100 * CPU})

    desk.wait(10)

    assert node.tells("infeasible") == []


def test_work_bound_to_a_node_that_is_not_alive_fails_also_under_an_autoscaler() -> None:
    desk = Desk()
    desk.ask("open_session", owner="a")
    node, other = desk.node(), desk.node()
    other.report({"CPU": 0})
    bound = Selector(node_ids=(other.node_id,))
    waits(node, "hard", {"CPU": CPU}, selector=bound)
    actor_id = node.actor(selector={"node_ids": [other.node_id]})
    desk.wait(2)
    assert node.tells("never-fits") == [], "a full node is waited for"

    other.say(told.Leaving("it left"))
    desk.wait(1)

    assert [one["key"] for one in node.tells("never-fits")][:1] == ["hard"]
    assert other.node_id in node.tells("never-fits")[0]["why"]
    row = desk.core.actors.all[actor_id].row
    assert (row.state.value, row.cause) == ("DEAD", "never-fits")


def test_a_soft_bond_to_a_dead_node_fails_nothing() -> None:
    desk = Desk()
    node = desk.node(cpu=1)
    node.report({"CPU": 0})
    waits(node, "soft", {"CPU": CPU}, selector=Selector(node_ids=("ff" * 14,), is_soft_node=True))

    desk.wait(5)

    assert node.tells("never-fits") == []


def test_reasons() -> None:
    spots = [Spot(spot_id="a", free={"CPU": 4 * CPU, "GPU": CPU}, labels={"zone": "x"}), Spot(spot_id="b", free={})]

    assert why_no_node({"CPU": CPU}, Selector(), []) == "there is no node"
    assert why_no_node({"CPU": 4 * CPU}, Selector(), spots) == ""
    assert why_no_node({"CPU": 5 * CPU, "GPU": CPU}, Selector(), spots) == "no node has more than 4 CPU"
    assert why_no_node({"TPU": 1}, Selector(), spots) == "no node has any TPU"
    assert why_no_node({}, Selector(hard={"zone": "y"}), spots) == "no node has labels that match {zone: y}"
    apart = [Spot(spot_id="a", free={"CPU": CPU}), Spot(spot_id="b", free={"GPU": CPU})]
    assert why_no_node({"CPU": CPU, "GPU": CPU}, Selector(), apart) == "no node has all of it"
    two = [Bundle(amounts={"CPU": CPU})] * 2
    assert "1 node is not enough" in why_no_gang(two, Strategy.STRICT_SPREAD, spots[:1])
