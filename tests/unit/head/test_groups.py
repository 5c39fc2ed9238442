"""Placement groups at the head: all bundles or none, in two phases."""

from __future__ import annotations

from collections import Counter

import pytest

from shoal.model.demand import Bundle, Strategy
from shoal.wire import messages as told
from tests.unit.head.desk import CPU, Desk, Node


def spec(group_id: str = "g", *cpus: int, strategy: Strategy = Strategy.PACK, **more: object) -> told.GroupSpec:
    bundles = [Bundle(amounts={"CPU": cpu * CPU}) for cpu in cpus or (1,)]
    return told.GroupSpec(group_id, bundles, strategy, **more)  # type: ignore[arg-type]


def agree(*nodes: Node) -> None:
    """Every agent answers what it was asked last with yes, and confirms."""
    for node in nodes:
        if node.heard(told.Prepare):
            last = node.heard(told.Prepare)[-1]
            node.say(told.Prepared(last.group_id, last.serial, True))
    for node in nodes:
        for commit in node.heard(told.Commit)[-1:]:
            node.say(told.Committed(commit.group_id, commit.serial))


def state(node: Node, group_id: str = "g") -> str:
    found: str = node.ask("watch_group", group_id=group_id)["state"]
    return found


def test_a_group_is_prepared_journaled_committed_and_told() -> None:
    desk = Desk()
    one, two = desk.node(), desk.node()

    one.ask("create_group", spec=spec("g", 1, 1, strategy=Strategy.STRICT_SPREAD, name="pair"))
    assert [len(node.heard(told.Prepare)) for node in (one, two)] == [1, 1]
    one.say(told.Prepared("g", 1, True))
    assert not one.heard(told.Commit), "not before all are ready"
    assert desk.rows["groups"]["g"].nodes == ["", ""]
    two.say(told.Prepared("g", 1, True))
    assert set(desk.rows["groups"]["g"].nodes) == {one.node_id, two.node_id}
    assert not one.tells("group"), "two has not confirmed yet"
    for node in (one, two):
        node.say(told.Committed("g", node.heard(told.Commit)[0].serial))

    assert one.tells("group")[-1]["state"] == "CREATED"
    assert one.ask("get_group", name="pair")["group_id"] == "g"


def test_a_group_on_its_creators_node_is_told_behind_the_commit() -> None:
    desk = Desk()
    node = desk.node()
    node.ask("create_group", spec=spec())

    node.say(told.Prepared("g", 1, True))

    kinds = [type(one).__name__ for one in desk.said[node.connection]]
    assert kinds[-2:] == ["Commit", "Tell"]


def test_one_refusal_undoes_all_and_the_group_waits_as_a_gang() -> None:
    desk = Desk()
    one, two = desk.node(), desk.node()
    one.ask("create_group", spec=spec("g", 1, 1, strategy=Strategy.STRICT_SPREAD))

    one.say(told.Prepared("g", 1, True))
    two.say(told.Prepared("g", 1, False))

    assert one.heard(told.ReturnBundles) == [told.ReturnBundles("g", "undone")]
    assert not two.heard(told.ReturnBundles), "it has nothing to return"
    [gang] = desk.core.work(desk.now_s).gangs
    assert (gang.gang_id, len(gang.bundles), gang.strategy) == ("g", 2, Strategy.STRICT_SPREAD)
    two.report({"CPU": 4 * CPU}, is_full=True)
    desk.wait(0.5)
    agree(one, two)
    assert state(one) == "CREATED"
    assert desk.core.work(desk.now_s).gangs == ()


def test_agents_that_do_not_answer_in_time_are_given_up() -> None:
    desk = Desk()
    one, two = desk.node(), desk.node()
    one.ask("create_group", spec=spec("g", 1, 1, strategy=Strategy.STRICT_SPREAD))
    one.say(told.Prepared("g", 1, True))
    for _ in range(31):
        desk.wait(1)
        one.report()
        two.report()

    assert one.heard(told.ReturnBundles) and two.heard(told.ReturnBundles)


def test_an_agent_that_falls_out_of_touch_while_preparing_is_given_up() -> None:
    desk = Desk()
    one, two, three = desk.node(), desk.node(), desk.node()
    one.ask("create_group", spec=spec("g", 3, 3, strategy=Strategy.STRICT_SPREAD))
    one.say(told.Prepared("g", 1, True))

    two.close()
    desk.wait(0.5)
    agree(one, three)

    assert one.heard(told.ReturnBundles)
    assert set(desk.rows["groups"]["g"].nodes) == {one.node_id, three.node_id}


def test_what_the_head_gave_away_it_does_not_give_again() -> None:
    desk = Desk()
    node = desk.node(cpu=4)

    for number in range(3):
        node.ask("create_group", spec=spec(f"g{number}", 2))

    assert [prepare.group_id for prepare in node.heard(told.Prepare)] == ["g0", "g1"]
    agreed = node.heard(told.Prepare)
    for prepare in agreed:
        node.say(told.Prepared(prepare.group_id, prepare.serial, True))
    node.report({})
    node.ask("remove_group", group_id="g0")
    desk.wait(0.3)
    assert node.heard(told.Prepare)[-1].group_id == "g2", "a bundle handed back is room at once"


def test_a_report_from_before_the_order_does_not_free_what_it_took() -> None:
    desk = Desk()
    node = desk.node(cpu=4)
    node.ask("create_group", spec=spec("g0", 3))
    desk.wait(0.5)
    node.report({"CPU": 4 * CPU})

    node.ask("create_group", spec=spec("g1", 3))

    assert [prepare.group_id for prepare in node.heard(told.Prepare)] == ["g0"]
    node.say(told.Prepared("g0", 1, True))
    node.report({"CPU": 1 * CPU})
    assert desk.core.spots.free(node.node_id) == {"CPU": CPU}, "now the report contains it, and it counts once"


def test_a_commit_that_came_too_late_places_those_bundles_anew_and_only_those() -> None:
    desk = Desk()
    one, two = desk.node(), desk.node()
    one.ask("create_group", spec=spec("g", 1, 1, strategy=Strategy.STRICT_SPREAD))
    for node in (one, two):
        node.say(told.Prepared("g", 1, True))
    one.say(told.Committed("g", 1))

    two.say(told.Prepared("g", 1, False))  # it had dropped what it had prepared
    two.report(two.total)
    desk.wait(0.25)

    row = desk.rows["groups"]["g"]
    assert row.nodes.count(one.node_id) == 1
    again = two.heard(told.Prepare)[-1]
    assert again.serial == 2
    two.say(told.Prepared("g", 1, False))  # an answer to the attempt that is over
    agree(two)
    assert state(one) == "CREATED"
    assert not one.heard(told.ReturnBundles)


def test_removal_returns_the_bundles_everywhere_and_is_quiet_twice() -> None:
    desk = Desk()
    one, two = desk.node(), desk.node()
    one.ask("create_group", spec=spec("g", 1, 1, strategy=Strategy.STRICT_SPREAD))
    agree(one, two)

    one.ask("remove_group", group_id="g")
    one.ask("remove_group", group_id="g")

    assert one.heard(told.ReturnBundles) == two.heard(told.ReturnBundles) == [told.ReturnBundles("g", "removed")]
    assert state(one) == "REMOVED"
    assert desk.rows["groups"] == {}
    two.say(told.Prepared("g", 1, True))
    assert len(two.heard(told.ReturnBundles)) == 2, "a late promise is handed back"


def test_a_name_is_unique_and_free_after_removal() -> None:
    desk = Desk()
    node = desk.node()
    node.ask("create_group", spec=spec("g", name="n"))
    node.ask("create_group", spec=spec("g", name="n"))
    assert node.refused("create_group", spec=spec("h", name="n"))[0] == "ValueError"
    assert node.refused("create_group", spec=told.GroupSpec("e", [], Strategy.PACK))[0] == "ValueError"

    node.ask("remove_group", group_id="g")

    node.ask("create_group", spec=spec("h", name="n"))
    assert node.refused("get_group", name="m")[0] == "ValueError"


def test_a_nodes_death_reschedules_only_the_bundles_it_took() -> None:
    desk = Desk()
    one, two = desk.node(), desk.node()
    one.ask("create_group", spec=spec("g", 1, 1, strategy=Strategy.STRICT_SPREAD))
    agree(one, two)
    kept = desk.rows["groups"]["g"].nodes.index(one.node_id)

    two.say(told.Leaving("bye"))
    assert one.tells("group")[-1]["state"] == "RESCHEDULING"
    [gang] = desk.core.work(desk.now_s).gangs
    assert len(gang.bundles) == 1
    three = desk.node()
    desk.wait(0.5)
    assert not one.heard(told.ReturnBundles), "what one holds is not touched, and strict spread keeps off it"
    agree(three)

    assert one.tells("group")[-1]["state"] == "CREATED"
    nodes = desk.rows["groups"]["g"].nodes
    assert nodes[kept] == one.node_id and nodes[1 - kept] == three.node_id


def test_a_nodes_death_moves_its_bundles_to_room_that_was_there_all_along() -> None:
    desk = Desk()
    one, two, three = desk.node(), desk.node(), desk.node()
    one.ask("create_group", spec=spec("g", 1, 1, strategy=Strategy.STRICT_SPREAD))
    agree(one, two, three)
    (spare,) = (node for node in (one, two, three) if not node.heard(told.Prepare))
    dead = next(node for node in (two, three) if node is not spare)

    dead.say(told.Leaving("gone"))
    desk.wait(0.5)

    assert spare.heard(told.Prepare), "there is room, and nobody tried"


def test_groups_survive_the_head_and_bundles_that_are_not_there_are_rescheduled() -> None:
    before = Desk()
    node = before.node()
    for number in range(3):
        node.ask("create_group", spec=spec(f"g{number}", name=f"n{number}"))
    for number in range(2):
        node.say(told.Prepared(f"g{number}", 1, True))
        node.say(told.Committed(f"g{number}", 1))

    desk = Desk(before.rows)
    node.desk = desk
    node.join(bundles={"g0": [0], "unknown": [0]})

    assert state(node, "g0") == "CREATED"
    assert state(node, "g1") == "RESCHEDULING"
    assert told.ReturnBundles("unknown", "removed") in node.heard(told.ReturnBundles)
    desk.wait(0.5)
    asked = Counter(prepare.group_id for prepare in node.heard(told.Prepare))
    assert asked == {"g1": 1, "g2": 1}
    assert node.refused("create_group", spec=spec("x", name="n0"))[0] == "ValueError"


def test_groups_end_with_their_job_unless_detached() -> None:
    desk = Desk()
    node = desk.node()
    job = node.ask("start_job", entrypoint="x", namespace="", pid=1, process=node.process)["job"]
    node.ask("create_group", spec=spec("plain", job=job))
    node.ask("create_group", spec=spec("kept", job=job, is_detached=True))

    node.say(told.Died(node.process, "gone", True))

    assert state(node, "plain") == "REMOVED"
    assert state(node, "kept") == "PENDING"


def test_a_group_that_an_actor_made_dies_with_the_actor() -> None:
    desk = Desk()
    node = desk.node()
    actor_id = node.actor()
    node.up(actor_id)
    process = desk.core.actors.all[actor_id].row.process
    reply = desk.reply(node.connection, "create_group", {"spec": spec("g")}, process)
    assert reply.is_ok

    node.say(told.Died(process, "crashed"))

    assert state(node) == "REMOVED"


@pytest.mark.parametrize("strategy", list(Strategy))
def test_every_strategy_places_what_placement_says_fits(strategy: Strategy) -> None:
    desk = Desk()
    nodes = [desk.node(cpu=2) for _ in range(100)]

    nodes[0].ask("create_group", spec=spec("g", 1, 1, strategy=strategy))

    asked = [node for node in nodes if node.heard(told.Prepare)]
    assert len(asked) == (1 if strategy in (Strategy.PACK, Strategy.STRICT_PACK) else 2)


def test_a_group_of_a_detached_actor_outlives_the_job_and_ends_with_the_actor() -> None:
    desk = Desk()
    node = desk.node()
    job = node.ask("start_job", job="j1", entrypoint="e", namespace="", pid=1)["job"]
    makers = {}
    for name, is_detached in (("d", True), ("a", False)):
        actor_id = node.actor(name, job=job, is_detached=is_detached, actor_id=name.encode() * 16)
        node.up(actor_id)
        process = bytes.fromhex(node.node_id) + actor_id[-4:]
        made = desk.reply(node.connection, "create_group", {"spec": spec(f"g-{name}", job=job)}, process)
        assert made.is_ok
        makers[name] = process
    assert node.ask("create_group", spec=spec("g-driver", job=job)) is None

    node.ask("end_job", job=job)
    desk.wait(0.5)

    assert [state(node, group) == "REMOVED" for group in ("g-driver", "g-a", "g-d")] == [True, True, False]
    node.say(told.Died(makers["d"], "killed", False))
    assert state(node, "g-d") == "REMOVED"
