"""Who joins, who is dead, who is missing: verdicts and orders."""

from __future__ import annotations

import pytest

from shoal.runtime.head.core.nodes import join_secret
from shoal.wire import messages as told
from tests.unit.head.desk import CPU, Desk, Node


def alive(desk: Desk) -> list[str]:
    return [node.node_id[:2] for node in desk.core.work(desk.now_s).nodes]


def test_a_joined_node_is_welcomed_with_its_peers_and_everybody_hears_of_it() -> None:
    desk = Desk()
    one = desk.node()
    two = desk.node()
    desk.wait(0.5)

    [welcome] = two.heard(told.Joined)
    assert (welcome.epoch, welcome.cluster_uid, welcome.fence_s) == (1, "ab" * 16, 25.0)
    assert welcome.peers == {one.node_id: ["tcp:10.0.0.1:1"]}
    assert two.node_id in one.tells("nodes")[0]["peers"]
    assert desk.rows["nodes"].keys() == {one.node_id, two.node_id}


def test_silence_is_death_after_40_s_and_a_broken_connection_is_not() -> None:
    desk = Desk()
    one, two = desk.node(), desk.node()
    one.close()

    for _ in range(39):
        desk.wait(1)
        two.report()
    assert alive(desk) == ["01", "02"]
    assert desk.core.work(desk.now_s).nodes[0].is_stale
    desk.wait(2)

    assert alive(desk) == ["02"]
    assert two.tells("node-died")[0]["node_id"] == one.node_id
    assert desk.kinds("node_died")[0]["why"] == "silent for 40 s"


def test_a_dead_node_comes_back_only_under_a_new_id() -> None:
    desk = Desk()
    one = desk.node()
    one.say(told.Leaving("bye"))

    one.join()

    assert one.heard(told.Refused)[0].is_dead
    assert one.connection in desk.hung
    assert alive(desk) == []
    again = desk.node("0a" * 14, instance_id="i-01")
    assert again.heard(told.Joined)


def test_another_agent_of_the_same_instance_ends_the_former_node() -> None:
    desk = Desk()
    old = desk.node(instance_id="i-7")
    new = desk.node("0b" * 14, instance_id="i-7")

    assert alive(desk) == ["0b"]
    assert old.heard(told.Refused)[0].is_dead
    assert desk.core.nodes.by_instance["i-7"].node_id == new.node_id


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"epoch": 2}, "epoch"),
        ({"token": "tok", "join_secret": "00" * 32}, "join secret"),
        ({"token": "tok", "join_secret": ""}, "join secret"),
        ({"token": "", "join_secret": "ff"}, "join secret"),
        ({"instance_id": "i-barred"}, "may not join"),
    ],
)
def test_a_join_without_right_is_refused(more: dict[str, object], why: str) -> None:
    desk = Desk()
    session = desk.ask("open_session", owner="a")
    assert desk.ask("bar", session=session, instance_id="i-barred")

    node = desk.node(**more)

    assert why in node.heard(told.Refused)[0].why
    assert node.connection in desk.hung
    assert alive(desk) == []


def test_a_join_secret_admits_every_machine_of_its_batch_in_any_later_epoch() -> None:
    secret = join_secret(b"k" * 32, "tok")
    first = Desk()
    assert first.ask("join_secret", session=first.ask("open_session", owner="a"), token="tok") == secret
    later = Desk(first.rows, epoch=2, join_key=b"other" * 8)

    one = later.node(token="tok", join_secret=secret, instance_id="i-1")
    two = later.node(token="tok", join_secret=secret, instance_id="i-2")

    assert one.heard(told.Joined) and two.heard(told.Joined)
    assert later.core.meta.epoch == 2


def test_a_restarted_head_misses_its_nodes_and_gives_no_verdict_while_it_settles() -> None:
    before = Desk()
    one, two = before.node(), before.node()
    desk = Desk(before.rows)

    work = desk.core.work(desk.now_s)
    assert work.is_settling and [node.is_missing for node in work.nodes] == [True, True]
    assert all(node.free == {} and node.total == one.total for node in work.nodes), "missing counts as there and full"
    two.desk = desk
    two.join()
    desk.wait(39)
    assert alive(desk) == ["01", "02"]
    two.report()
    desk.wait(1.5)

    assert alive(desk) == ["02"]
    assert not desk.core.work(desk.now_s).is_settling
    assert two.tells("watch-again") == [None]
    assert desk.kinds("head_settled")[0]["missing"] == [one.node_id]


def test_settling_may_be_set_longer_than_silence() -> None:
    before = Desk()
    before.node()
    desk = Desk(before.rows, settle_s=100.0)

    desk.wait(99)
    assert alive(desk) == ["01"] and desk.core.work(desk.now_s).is_settling
    desk.wait(2)

    assert alive(desk) == []


def test_reports_change_what_the_autoscaler_sees() -> None:
    desk = Desk()
    node = desk.node()
    node.report({"CPU": CPU}, is_full=True, idle_serial=3, busy=[told.BusyFor("lease", 3, "f")])

    [seen] = desk.core.work(desk.now_s).nodes
    assert (seen.free, seen.idle_serial, seen.idle_s) == ({"CPU": CPU}, 3, None)
    assert (seen.busy[0].what, seen.busy[0].count) == ("lease", 3)
    node.report({"CPU": 4 * CPU}, idle_s=0.0, busy=[])
    desk.wait(10)
    node.report(idle_s=10.0)

    [seen] = desk.core.work(desk.now_s).nodes
    assert seen.idle_s == pytest.approx(10.0)
    assert desk.core.work(desk.now_s).idle_s == pytest.approx(10.0)


def test_a_heartbeat_that_says_nothing_new_dirties_nothing() -> None:
    desk = Desk()
    node = desk.node()
    node.report({"CPU": CPU}, is_full=True, idle_s=0.0, busy=[])
    follower = desk.core.view.subscribe()
    desk.core.view.delta(follower, desk.now_s)

    desk.wait(1)
    node.report(idle_s=1.0)

    assert not follower.is_changed


# ------------------------------------------------------------------------------------------------ orders


def test_orders_of_an_older_session_are_refused() -> None:
    desk = Desk()
    old = desk.ask("open_session", owner="a")
    new = desk.ask("open_session", owner="b")

    assert desk.refused("cordon", session=old, instance_id="i", order="o", ttl_s=60)[0] == "StaleSession"
    desk.ask("cordon", session=new, instance_id="i", order="o", ttl_s=60)
    assert Desk(desk.rows).core.meta.session == new


def cordoned(desk: Desk) -> list[bool]:
    return [node.is_cordoned for node in desk.core.work(desk.now_s).nodes]


def test_a_cordon_stops_placing_and_ends_by_itself() -> None:
    desk = Desk()
    node = desk.node()
    session = desk.ask("open_session", owner="a")

    desk.ask("cordon", session=session, instance_id="i-01", order="o1", ttl_s=60)
    assert cordoned(desk) == [True]
    assert node.heard(told.Cordon)[-1] == told.Cordon("o1", True)
    assert node.ask("place", class_key="c", amounts={"CPU": CPU}, selector={}, spread=False, count=1) == []
    for _ in range(4):
        desk.wait(10)
        node.report()
    desk.ask("cordon", session=session, instance_id="i-01", order="o1", ttl_s=60)
    for _ in range(5):
        desk.wait(10)
        node.report()
    assert cordoned(desk) == [True], "the second call extended it"
    desk.wait(11)

    assert cordoned(desk) == [False]
    assert node.heard(told.Cordon)[-1] == told.Cordon("o1", False)
    assert len(node.ask("place", class_key="c", amounts={"CPU": CPU}, selector={}, spread=False, count=1)) == 1


def test_a_drain_needs_a_cordon_and_its_answer_shows() -> None:
    desk = Desk()
    node = desk.node()
    session = desk.ask("open_session", owner="a")
    order = {"session": session, "instance_id": "i-01", "order": "o1"}
    assert "not cordoned" in desk.refused("drain", **order, idle_serial=5)[1]

    desk.ask("cordon", **order, ttl_s=600)
    desk.ask("drain", **order, idle_serial=5)
    assert node.heard(told.Drain) == [told.Drain("o1", 5, None)]
    node.say(told.DrainAnswer("o1", "emptied"))

    [seen] = desk.core.work(desk.now_s).nodes
    assert (seen.drain_order, seen.drain_answer, seen.is_cordoned) == ("o1", "emptied", True)
    desk.ask("undrain", **order)
    [seen] = desk.core.work(desk.now_s).nodes
    assert (seen.drain_order, seen.is_cordoned) == ("", False)


def test_busy_lifts_the_cordon_and_stays_to_be_seen() -> None:
    desk = Desk()
    node = desk.node()
    session = desk.ask("open_session", owner="a")
    order = {"session": session, "instance_id": "i-01", "order": "o1"}
    desk.ask("cordon", **order, ttl_s=600)
    desk.ask("drain", **order, idle_serial=5)

    node.say(told.DrainAnswer("other", "emptied"))
    assert desk.core.work(desk.now_s).nodes[0].drain_answer == "", "that is the answer to another order"
    node.say(told.DrainAnswer("o1", "busy", "a lease came"))

    [seen] = desk.core.work(desk.now_s).nodes
    assert (seen.drain_answer, seen.is_cordoned) == ("busy", False)
    assert node.heard(told.Cordon)[-1] == told.Cordon("o1", False)


def test_orders_are_repeated_to_an_agent_that_comes_back_and_outlive_the_head() -> None:
    desk = Desk()
    node = desk.node()
    session = desk.ask("open_session", owner="a")
    order = {"session": session, "instance_id": "i-01", "order": "o1"}
    desk.ask("cordon", **order, ttl_s=600)
    desk.ask("drain", **order, idle_serial=None, deadline_s=100.0)
    node.close()
    desk.wait(10)
    node.join()

    assert node.heard(told.Cordon) == [told.Cordon("o1", True)]
    assert node.heard(told.Drain) == [told.Drain("o1", None, 90.0)]
    after = Desk(desk.rows, now_s=5000.0)
    node.desk = after
    node.join()
    assert node.heard(told.Cordon)[-1] == told.Cordon("o1", True)
    assert cordoned(after) == [True]


def test_an_agent_that_missed_the_end_of_its_cordon_hears_of_it_when_it_is_back() -> None:
    desk = Desk()
    node = desk.node()
    session = desk.ask("open_session", owner="a")
    desk.ask("cordon", session=session, instance_id=node_instance(node), order="o", ttl_s=600)
    assert node.heard(told.Cordon)[-1].is_on
    node.close()
    desk.ask("undrain", session=session, instance_id=node_instance(node), order="o")

    node.join()

    assert [one.is_on for one in node.heard(told.Cordon)] == [False]


def node_instance(node: Node) -> str:
    return f"i-{node.node_id[:2]}"


def test_bar_answers_joined_if_it_has_joined_and_outlives_the_head() -> None:
    desk = Desk()
    desk.node(instance_id="i-1")
    session = desk.ask("open_session", owner="a")

    assert desk.ask("bar", session=session, instance_id="i-1") is False
    assert desk.ask("bar", session=session, instance_id="i-2") is True

    later = Desk(desk.rows)
    assert later.node("0c" * 14, instance_id="i-2").heard(told.Refused)


def test_a_forgotten_instance_is_dead_at_once() -> None:
    desk = Desk()
    node = desk.node(instance_id="i-1")
    session = desk.ask("open_session", owner="a")
    desk.ask("cordon", session=session, instance_id="i-1", order="o", ttl_s=600)

    desk.ask("forget", session=session, instance_id="i-1")

    assert alive(desk) == []
    assert node.heard(told.Refused)[0].is_dead
    assert desk.rows["orders"] == {}


def test_a_notice_is_seen_and_nothing_more_is_placed_there() -> None:
    desk = Desk()
    node = desk.node(instance_id="i-1")
    node.say(told.Happened([("notice", {"what": "spot", "deadline_s": 120.0})]))
    desk.wait(20)

    [seen] = desk.core.work(desk.now_s).nodes
    assert (seen.notice, seen.notice_deadline_s) == ("spot", pytest.approx(100.0))
    assert node.ask("place", class_key="c", amounts={"CPU": CPU}, selector={}, spread=False, count=1) == []


def test_down_tells_every_agent_and_shuts_the_head() -> None:
    desk = Desk()
    node = desk.node()

    desk.ask("down", why="enough")

    assert node.heard(told.End) == [told.End("enough")]
    assert desk.shut == "enough"


def test_only_callers_in_the_head_may_give_orders() -> None:
    desk = Desk()
    node = desk.node()

    for what in ("cordon", "down", "open_session", "bar", "forget", "publish", "join_secret", "query"):
        assert "knows no request" in node.refused(what, session=0, instance_id="i")[1]
