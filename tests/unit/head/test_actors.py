"""Actors at the head: names, places, restarts, who ends with whom."""

from __future__ import annotations

import pytest

from shoal.model.demand import Bundle, Strategy
from shoal.wire import messages as told
from tests.unit.head.desk import CPU, Desk, Node


def state(node: Node, actor_id: bytes) -> str:
    found: str = node.ask("watch_actor", actor_id=actor_id)["state"]
    return found


def test_an_actor_is_placed_started_and_told_as_alive() -> None:
    desk = Desk()
    node = desk.node()

    actor_id = node.actor("bob", namespace="n", handle=b"h", spec=b"s", held={"CPU": CPU})
    [start] = node.heard(told.StartActor)
    assert (start.actor_id, start.generation, start.spec, start.held) == (actor_id, 0, b"s", {"CPU": CPU})
    assert (start.options["name"], start.options["restarts"]) == ("bob", 0)
    node.up(actor_id)

    assert node.tells("actor")[-1]["state"] == "ALIVE"
    assert node.tells("actor")[-1]["address"] == ["a"]
    assert node.ask("get_actor", name="bob", namespace="n") == {"actor_id": actor_id, "handle": b"h"}
    assert node.ask("list_named", namespace="n") == [["bob", "n"]]
    assert node.ask("list_named", namespace="x") == []
    assert desk.rows["actors"][actor_id.hex()].node_id == node.node_id


def test_the_same_request_again_is_quiet() -> None:
    desk = Desk()
    node = desk.node()
    actor_id = node.actor("bob")

    again = node.ask("create_actor", actor_id=actor_id, job="", class_name="A", name="bob", amounts={"CPU": CPU})

    assert again == {"actor_id": actor_id, "is_existing": False, "handle": b""}
    assert len(node.heard(told.StartActor)) == 1


def test_a_taken_name_is_refused_or_given_and_free_again_after_death() -> None:
    desk = Desk()
    node = desk.node()
    first = node.actor("bob", handle=b"h")
    args = {"actor_id": b"x" * 16, "job": "", "class_name": "A", "name": "bob", "amounts": {}}

    assert node.refused("create_actor", **args)[0] == "ActorAlreadyExistsError"
    assert node.ask("create_actor", **args, get_if_exists=True) == {
        "actor_id": first,
        "is_existing": True,
        "handle": b"h",
    }
    assert not node.ask("create_actor", **{**args, "namespace": "other"})["is_existing"]
    node.ask("kill_actor", actor_id=first, no_restart=True)

    assert node.refused("get_actor", name="bob", namespace="")[0] == "ValueError"
    assert not node.ask("create_actor", **{**args, "actor_id": b"y" * 16})["is_existing"]


def test_what_fits_nowhere_waits_as_demand_and_starts_when_there_is_room() -> None:
    desk = Desk()
    one = desk.node(cpu=1)
    ids = [one.actor() for _ in range(3)]

    [demand] = desk.core.work(desk.now_s).classes
    assert (demand.kind, demand.waiting, demand.amounts) == ("actor", 2, {"CPU": CPU})
    two = desk.node(cpu=4)
    desk.wait(0.5)

    assert desk.core.work(desk.now_s).classes == ()
    assert [start.actor_id for start in two.heard(told.StartActor)] == ids[1:]


def test_a_refusing_agent_costs_no_restart_and_another_node_is_tried() -> None:
    desk = Desk()
    one, two = desk.node(), desk.node()
    actor_id = one.actor()

    one.say(told.ActorEnded(actor_id, 0, "refused"))
    desk.wait(0.5)

    [start] = two.heard(told.StartActor)
    assert start.generation == 0
    assert desk.core.actors.all[actor_id].row.restarts == 0


def test_an_only_node_that_refuses_is_asked_again_ever_less_often() -> None:
    desk = Desk()
    node = desk.node()
    actor_id = node.actor()
    for _ in range(80):
        if len(node.heard(told.StartActor)) > len(node.heard(told.KillActor)) + node.refusals:
            node.refusals += 1
            node.say(told.ActorEnded(actor_id, 0, "refused"))
        desk.wait(0.25)

    assert 10 < node.refusals < 40, "twenty seconds of refusals"
    assert desk.core.actors.all[actor_id].row.restarts == 0


@pytest.mark.parametrize(
    ("cause", "restarts_max", "comes_back"),
    [
        ("crashed", 0, False),
        ("crashed", 1, True),
        ("oom", -1, True),
        ("killed", 1, True),
        ("exited", -1, False),
        ("created-failed", -1, False),
        ("group-removed", -1, False),
    ],
)
def test_only_lost_actors_with_restarts_left_come_back(cause: str, restarts_max: int, comes_back: bool) -> None:
    desk = Desk()
    node = desk.node()
    actor_id = node.actor(max_restarts=restarts_max)
    node.up(actor_id)

    node.say(told.ActorEnded(actor_id, 0, cause, "why", b"error"))

    row = node.ask("watch_actor", actor_id=actor_id)
    if comes_back:
        assert (row["state"], row["generation"], row["restarts"]) == ("RESTARTING", 1, 1)
        assert node.heard(told.StartActor)[-1].generation == 1
        node.up(actor_id, 1)
        assert state(node, actor_id) == "ALIVE"
    else:
        assert (row["state"], row["why"], row["error"]) == ("DEAD", "why", b"error")
        assert len(node.heard(told.StartActor)) == 1


def test_an_older_incarnation_is_not_believed_and_killed() -> None:
    desk = Desk()
    node = desk.node()
    actor_id = node.actor(max_restarts=1)
    node.up(actor_id)
    node.say(told.ActorEnded(actor_id, 0, "crashed"))

    node.up(actor_id, 0)
    assert node.heard(told.KillActor)[-1] == told.KillActor(actor_id, 0, "superseded")
    assert state(node, actor_id) == "RESTARTING"
    node.say(told.ActorEnded(actor_id, 0, "crashed"))

    assert state(node, actor_id) == "RESTARTING", "the same death twice is one"


def test_a_dead_node_restarts_its_actors_elsewhere_and_starting_ones_for_free() -> None:
    desk = Desk()
    one = desk.node()
    running, starting, last = one.actor(max_restarts=1), one.actor(), one.actor()
    one.up(running)
    one.up(last)
    two = desk.node()

    one.say(told.Leaving("bye"))

    starts = {start.actor_id: start for start in two.heard(told.StartActor)}
    assert starts.keys() == {running, starting}
    assert starts[running].options["restarts"] == 1 and starts[starting].options["restarts"] == 0
    assert starts[starting].generation == 1, "its constructor may have run there"
    assert state(two, last) == "DEAD"


def test_a_kill_that_allows_restarts_ends_only_the_process() -> None:
    desk = Desk()
    node = desk.node()
    actor_id = node.actor(max_restarts=1)
    node.up(actor_id)

    node.ask("kill_actor", actor_id=actor_id, no_restart=False)

    assert state(node, actor_id) == "ALIVE"
    assert node.heard(told.KillActor)[-1].generation == 0


def test_dropping_the_last_handle_ends_an_actor_unless_it_is_detached() -> None:
    desk = Desk()
    node = desk.node()
    plain, detached, unplaced = node.actor(), node.actor(is_detached=True), node.actor(amounts={"CPU": 99 * CPU})
    node.up(plain)
    node.up(detached)

    for actor_id in (plain, detached, unplaced):
        node.ask("drop_actor", actor_id=actor_id)

    assert node.heard(told.KillActor) == [told.KillActor(plain, 0, "dropped")]
    assert state(node, plain) == "ALIVE", "its pending calls are done first"
    node.say(told.ActorEnded(plain, 0, "crashed"))
    assert state(node, plain) == "DEAD"
    assert state(node, detached) == "ALIVE"
    assert state(node, unplaced) == "DEAD"


def test_what_a_process_created_dies_with_it_but_for_the_detached() -> None:
    desk = Desk()
    node = desk.node()
    plain, detached = node.actor("a"), node.actor("b", is_detached=True)
    other = desk.node()

    node.say(told.Died(node.process, "killed", True))

    assert state(other, plain) == "DEAD" and state(other, detached) == "PENDING_CREATION"
    assert other.ask("is_alive", processes=[node.process, other.process]) == [False, True]
    assert other.tells("process-died") == [{"process": node.process, "why": "killed"}]


def test_no_verdict_no_death_of_a_process() -> None:
    desk = Desk()
    one, two = desk.node(), desk.node()
    one.close()
    assert two.ask("is_alive", processes=[one.process]) == [True]

    for _ in range(50):
        desk.wait(1)
        two.report()

    assert two.ask("is_alive", processes=[one.process]) == [False]


def test_actors_survive_the_head_and_what_is_not_there_was_lost() -> None:
    before = Desk()
    node = before.node()
    there, lost, starting = node.actor("a", max_restarts=1), node.actor("b"), node.actor("c")
    node.up(there)
    node.up(lost)

    desk = Desk(before.rows)
    node.desk = desk
    node.join(actors=[told.ActorHere(there, 0, ["new"]), told.ActorHere(b"unknown", 3, ["x"])])

    assert state(node, there) == "ALIVE"
    assert state(node, lost) == "DEAD"
    assert [one.actor_id for one in node.heard(told.StartActor)][-1] == starting
    assert told.KillActor(b"unknown", 3, "superseded") in node.heard(told.KillActor)
    assert node.refused("create_actor", actor_id=b"z", job="", class_name="A", name="a")[0] == "ActorAlreadyExistsError"


def test_an_actor_in_a_group_waits_for_it_and_is_no_demand_of_its_own() -> None:
    desk = Desk()
    node = desk.node(cpu=1)
    spec = told.GroupSpec("g", [Bundle(amounts={"CPU": 4 * CPU})], Strategy.PACK)
    node.ask("create_group", spec=spec)
    actor_id = node.actor(group_id="g", bundle=-1)

    work = desk.core.work(desk.now_s)
    assert work.classes == () and [gang.gang_id for gang in work.gangs] == ["g"]
    big = desk.node(cpu=8)
    desk.wait(0.5)
    [prepare] = big.heard(told.Prepare)
    big.say(told.Prepared("g", prepare.serial, True))
    big.say(told.Committed("g", prepare.serial))
    desk.wait(0.5)

    [start] = big.heard(told.StartActor)
    assert (start.actor_id, start.group_id, start.bundle) == (actor_id, "g", 0)
    node.ask("remove_group", group_id="g")
    assert state(node, actor_id) == "DEAD"
    assert "placement group" in node.ask("watch_actor", actor_id=actor_id)["why"]


def test_an_actor_of_an_unknown_group_is_refused() -> None:
    desk = Desk()
    node = desk.node()

    name, text = node.refused("create_actor", actor_id=b"a", job="", class_name="A", group_id="nope")

    assert name == "ValueError" and "nope" in text


def test_an_end_that_got_lost_with_a_connection_is_told_with_its_cause_at_the_next_join() -> None:
    desk = Desk()
    one, two = desk.node(), desk.node(cpu=8)
    up, starting = two.actor(max_restarts=-1), two.actor()
    two.up(up)
    two.close()

    two.join(ended=[told.ActorEnded(up, 0, "exited", "it wished so"), told.ActorEnded(starting, 0, "created-failed")])

    rows = [one.ask("watch_actor", actor_id=actor_id) for actor_id in (up, starting)]
    assert [(row["state"], row["cause"]) for row in rows] == [("DEAD", "exited"), ("DEAD", "created-failed")]
    assert len(two.heard(told.StartActor)) == 0, "its constructor ran once"


def test_watchers_that_were_out_of_touch_are_told_to_ask_again_and_hear_of_a_death_they_missed() -> None:
    desk = Desk()
    one, two = desk.node(), desk.node(cpu=8)
    actor_id = two.actor()
    one.ask("watch_actor", actor_id=actor_id)
    assert not one.tells("watch-again"), "it has just come: it follows nothing"
    one.close()
    two.say(told.ActorEnded(actor_id, 0, "crashed"))

    one.join()

    assert one.tells("watch-again") == [None]
    assert one.ask("watch_actor", actor_id=actor_id)["state"] == "DEAD"


def test_long_dead_actors_are_forgotten_and_answered_as_dead() -> None:
    desk = Desk(dead_max=3)
    node = desk.node()
    ids = [node.actor(actor_id=bytes([number]) * 16) for number in range(5)]
    for actor_id in ids:
        node.ask("kill_actor", actor_id=actor_id, no_restart=True)

    assert len(desk.core.actors.all) == 3 == len(desk.rows["actors"])
    assert state(node, ids[0]) == "DEAD"


def test_spread_actors_go_round_the_nodes() -> None:
    desk = Desk()
    nodes = [desk.node() for _ in range(3)]

    for _ in range(6):
        nodes[0].actor(spread=True)

    assert [len(node.heard(told.StartActor)) for node in nodes] == [2, 2, 2]


def test_a_selector_is_obeyed() -> None:
    desk = Desk()
    one = desk.node()
    gpu = desk.node(labels={"kind": "gpu"})

    one.actor(selector={"hard": {"kind": "gpu"}})
    one.actor(selector={"hard": {"kind": "gpu"}}, amounts={"CPU": 99 * CPU})

    assert len(gpu.heard(told.StartActor)) == 1 and not one.heard(told.StartActor)
    [demand] = desk.core.work(desk.now_s).classes
    assert demand.selector.hard == {"kind": "gpu"}


def test_kills_and_drops_reach_an_agent_that_was_out_of_touch() -> None:
    desk = Desk()
    node, other = desk.node(), desk.node()
    killed, dropped, ended = (node.actor(max_restarts=1) for _ in range(3))
    for actor_id in (killed, dropped, ended):
        node.up(actor_id)
    node.close()
    other.ask("kill_actor", actor_id=killed, no_restart=False)
    other.ask("drop_actor", actor_id=dropped)
    other.ask("kill_actor", actor_id=ended, no_restart=True)

    node.join(actors=[told.ActorHere(actor_id, 0, ["a"]) for actor_id in (killed, dropped, ended)])

    kills = {one.actor_id: one.why for one in node.heard(told.KillActor)}
    assert kills == {killed: "killed", dropped: "dropped", ended: "superseded"}


def test_a_node_that_was_away_over_a_restart_learns_which_jobs_ended_and_drivers_stay_dead() -> None:
    before = Desk()
    driver, away = before.node(), before.node()
    job = driver.ask("start_job", entrypoint="x", namespace="", pid=1, process=driver.process)["job"]
    away.close()
    driver.say(told.Died(driver.process, "gone", True))

    desk = Desk(before.rows)
    away.desk = desk
    away.join()

    assert [one.job for one in away.heard(told.Revoke)] == [job]
    assert away.ask("is_alive", processes=[driver.process]) == [False]


def test_an_actor_that_is_too_large_for_the_journal_is_refused() -> None:
    desk = Desk(spec_bytes_max=100)
    node = desk.node()

    assert "use put" in node.refused("create_actor", actor_id=b"a", job="", class_name="A", spec=b"x" * 101)[1]


def test_a_restarted_head_knows_the_dead_by_who_is_not_named() -> None:
    before = Desk()
    node, other = before.node(), before.node()
    prefix = bytes.fromhex(node.node_id)
    named = [prefix + number.to_bytes(4, "big") for number in (1, 3)]

    desk = Desk(before.rows)
    node.desk = other.desk = desk
    node.join(processes=named)
    other.join()
    asked = [prefix + number.to_bytes(4, "big") for number in (1, 2, 3, 4)]

    assert other.ask("is_alive", processes=asked) == [True, False, True, True], "4 may have begun since"
    node.say(told.Died(named[0], "x"))
    assert other.ask("is_alive", processes=asked) == [False, False, True, True]


def test_seats_in_a_group_survive_the_head() -> None:
    before = Desk()
    node = before.node(cpu=8)
    bundles = [Bundle(amounts={"CPU": 2 * CPU})] * 2
    node.ask("create_group", spec=told.GroupSpec("g", bundles, Strategy.PACK, is_detached=True))
    node.say(told.Prepared("g", 1, True))
    node.say(told.Committed("g", 1))
    full = {"amounts": {"CPU": 2 * CPU}, "held": {"CPU": 2 * CPU}, "group_id": "g", "is_detached": True}
    first = node.actor(**full)
    assert node.heard(told.StartActor)[-1].bundle == 0

    desk = Desk(before.rows)
    node.desk = desk
    node.join(bundles={"g": [0, 1]})
    assert node.heard(told.StartActor)[-1].bundle == 0, "started again where it was"
    node.actor(**full)
    assert node.heard(told.StartActor)[-1].bundle == 1
    third = node.actor(**full)
    assert state(node, third) == "PENDING_CREATION" and desk.core.work(desk.now_s).classes == ()
    node.ask("kill_actor", actor_id=first, no_restart=True)
    desk.wait(0.3)

    assert (node.heard(told.StartActor)[-1].actor_id, node.heard(told.StartActor)[-1].bundle) == (third, 0)
