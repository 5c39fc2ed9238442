"""What waits and who follows it: reservations, pushes, stuck classes, deltas, jobs, requests, questions, listings."""

from __future__ import annotations

import pytest

from shoal.foundation.errors import UserError
from shoal.model.demand import Bundle, Strategy
from shoal.runtime.decide.actor_states import ACTOR_TABLE, ActorState
from shoal.runtime.decide.group_states import GROUP_TABLE
from shoal.runtime.head.core.rows import TABLES
from shoal.wire import messages as told
from tests.unit.head.desk import CPU, Desk, Node


def waits(node: Node, waiting: int, seen: int = 0, **more: object) -> None:
    given: dict[str, object] = {"owner": node.process, "class_key": "c", "job": "", "amounts": {"CPU": CPU}, **more}
    node.report(backlog=[told.Backlog(waiting=waiting, seen=seen, **given)])  # type: ignore[arg-type]


def place(node: Node, count: int, **more: object) -> list[tuple[str, int]]:
    args = {"class_key": "c", "amounts": {"CPU": CPU}, "selector": {}, "spread": False, "count": count, **more}
    return [(node_id[:2], taken) for node_id, _, taken in node.ask("place", **args)]


# ------------------------------------------------------------------------------------------ placing tasks


def test_place_packs_reserves_and_forgets_the_reservation() -> None:
    desk = Desk()
    one, two = desk.node(cpu=2), desk.node(cpu=4)

    assert place(one, 3) == [("01", 2), ("02", 1)]
    assert place(one, 10) == [("02", 3)]
    assert place(one, 1) == []
    desk.wait(0.6)
    assert place(one, 1) == [("01", 1)]
    two.report({"CPU": 0})
    desk.wait(0.6)

    assert place(one, 9) == [("01", 2)]


def test_place_keeps_away_spreads_and_obeys_selectors() -> None:
    desk = Desk()
    one, two, three = desk.node(), desk.node(), desk.node(labels={"zone": "b"})

    assert place(one, 1, away_from=[one.node_id]) == [("02", 1)]
    assert sorted(place(one, 3, spread=True)) == [("01", 1), ("02", 1), ("03", 1)]
    assert place(one, 1, selector={"hard": {"zone": "b"}}) == [("03", 1)]
    assert place(one, 1, selector={"hard": {"zone": "x"}, "fallback": [{"zone": "!b"}]}) == [("01", 1)]
    assert place(two, 1, selector={"node_ids": [three.node_id]}) == [("03", 1)]


def test_new_room_is_offered_to_the_home_of_who_waits_and_not_twice() -> None:
    desk = Desk()
    home, rich = desk.node(cpu=1), desk.node(cpu=1)
    home.report({}, is_full=True)
    rich.report({}, is_full=True)
    waits(home, 5)
    desk.wait(1)
    assert not home.heard(told.Granted)

    new = desk.node(cpu=3)
    desk.wait(0.3)

    assert home.heard(told.Granted) == [told.Granted(home.process, "c", [(new.node_id, 3)])]
    assert place(home, 5) == [], "the room is reserved for those leases"


def test_demand_is_what_waits_less_what_is_granted_and_not_seen() -> None:
    desk = Desk()
    home, other = desk.node(), desk.node()
    waits(home, 10)
    other.report(granted=[told.Grants(home.process, "c", 4)])

    [demand] = desk.core.work(desk.now_s).classes
    assert demand.waiting == 6
    waits(home, 6, seen=4)
    [demand] = desk.core.work(desk.now_s).classes
    assert demand.waiting == 6

    home.close()
    assert desk.core.work(desk.now_s).classes[0].waiting == 6, "frozen, still counted"
    home.join()
    home.report({"CPU": CPU}, is_full=True)
    assert desk.core.work(desk.now_s).classes == ()


def test_what_fits_and_waits_is_said_after_2_s_and_not_counted_on_after_10_s() -> None:
    desk = Desk()
    node = desk.node()
    for second in range(14):
        waits(node, 3, waiting_s=float(second))
        desk.wait(1)
        if second == 1:
            assert not desk.kinds("fits_but_waits")
        if second == 5:
            assert desk.core.work(desk.now_s).classes[0].unplaceable_on == ()

    assert len(desk.kinds("fits_but_waits")) == 1
    assert desk.core.work(desk.now_s).classes[0].unplaceable_on == (node.node_id,)
    node.report(granted=[told.Grants(node.process, "c", 1)])
    desk.wait(1)
    assert desk.core.work(desk.now_s).classes[0].unplaceable_on == ()


def test_a_class_that_is_granted_something_now_and_then_is_not_stuck() -> None:
    desk = Desk()
    node = desk.node()
    for second in range(20):
        waits(node, 100, seen=second)
        node.report(granted=[told.Grants(node.process, "c", second)])
        desk.wait(1)

    assert not desk.kinds("fits_but_waits")


# ------------------------------------------------------------------------------------------------ deltas


def test_a_follower_gets_everything_then_only_what_changed() -> None:
    desk = Desk()
    one, two = desk.node(), desk.node()
    waits(one, 3)
    view = desk.core.view
    follower = view.subscribe()

    first = view.delta(follower, desk.now_s)
    assert first.previous_version is None and first.is_all_classes
    assert first.nodes.keys() == {one.node_id, two.node_id} and first.classes["c"].waiting == 3  # type: ignore[union-attr]
    two.report({"CPU": CPU})
    for waiting in range(1000):
        waits(one, waiting + 1)
    second = view.delta(follower, desk.now_s)

    assert second.previous_version == first.version
    assert second.nodes.keys() == {two.node_id}
    assert second.classes["c"].waiting == 1000  # type: ignore[union-attr]
    nothing = view.delta(follower, desk.now_s)
    assert not (nothing.nodes or nothing.classes or nothing.gangs or nothing.standing)
    two.say(told.Leaving("bye"))
    waits(one, 0)
    third = view.delta(follower, desk.now_s)
    assert third.nodes == {two.node_id: None} and third.classes == {"c": None}
    assert third.previous_version == nothing.version


def test_deltas_add_up_to_the_whole_even_when_classes_are_rounded() -> None:
    desk = Desk(classes_max=10)
    node = desk.node()
    view = desk.core.view
    follower = view.subscribe()
    mirror: dict[str, object] = {}

    def catch_up() -> None:
        delta = view.delta(follower, desk.now_s)
        if delta.is_all_classes:
            mirror.clear()
        for key, demand in delta.classes.items():
            mirror.pop(key, None) if demand is None else mirror.__setitem__(key, demand.waiting)
        assert mirror == {one.key: one.waiting for one in desk.core.work(desk.now_s).classes}
        assert len(mirror) <= 10

    for count in (3, 8, 30, 40, 9, 2, 0):
        rows = [
            told.Backlog(node.process, f"c{n}", "", 1 if n < count else 0, 0, {"CPU": (n + 1) * 777}) for n in range(40)
        ]
        node.report(backlog=rows)
        catch_up()


def test_nobody_follows_nothing_is_collected() -> None:
    desk = Desk()
    node = desk.node()
    follower = desk.core.view.subscribe()
    desk.core.view.leave(follower)
    node.report({"CPU": 1})

    assert not follower.dirty["node"] and not desk.core.view.subscribers


# ------------------------------------------------------------------------------------------ jobs and requests


def job(node: Node, **more: object) -> str:
    args = {"entrypoint": "x.py", "namespace": "n", "pid": 1, "process": node.process, **more}
    found: str = node.ask("start_job", **args)["job"]
    return found


def test_a_job_ends_with_its_driver_and_everything_of_it_goes() -> None:
    desk = Desk()
    node, other = desk.node(), desk.node()
    number = job(node)
    assert job(node) == number, "the same driver is the same job"
    actor_id = other.actor(job=number)
    waits(node, 5, job=number)
    node.ask("request_resources", owner="me", job=number, bundles=[{"CPU": 64}], ttl_s=None)
    assert len(desk.core.work(desk.now_s).standing) == 1

    node.say(told.Died(node.process, "exit 0", True))

    work = desk.core.work(desk.now_s)
    assert (work.classes, work.standing) == ((), ())
    assert other.ask("watch_actor", actor_id=actor_id)["state"] == "DEAD"
    assert other.heard(told.Revoke) == [told.Revoke(number, "exit 0")]
    assert desk.ask("state", kind="jobs")["rows"][0]["status"] == "SUCCEEDED"


def test_a_job_that_is_ended_by_request_waits_for_nothing_any_more() -> None:
    desk = Desk()
    node = desk.node()
    number = job(node)
    waits(node, 5, job=number, owner=b"a worker of the job")

    node.ask("end_job", job=number)

    assert desk.core.work(desk.now_s).classes == ()


def test_a_node_that_was_away_learns_which_jobs_ended() -> None:
    desk = Desk()
    node, away = desk.node(), desk.node()
    number = job(node)
    away.close()
    node.ask("end_job", job=number)

    away.join()

    assert [one.job for one in away.heard(told.Revoke)] == [number]


def test_a_remote_drivers_job_ends_after_30_s_of_silence() -> None:
    desk = Desk()
    node = desk.node()
    job(node, is_remote=True)
    for _ in range(55):
        node.report()
        desk.wait(1)
        if desk.now_s < 1020:
            node.ask("nodes")

    [row] = desk.ask("state", kind="jobs")["rows"]
    assert row["status"] == "SUCCEEDED" and "silent for 30 s" in row["message"]


def test_a_driver_dies_with_its_node() -> None:
    desk = Desk()
    node = desk.node()
    desk.node()
    job(node)

    node.say(told.Leaving("bye"))

    assert desk.ask("status")["jobs"] == 0


def test_standing_requests_are_kept_per_owner_until_they_run_out() -> None:
    desk = Desk(request_ttl_s=100.0)
    node = desk.node()
    node.ask("request_resources", owner="a", job="", bundles=[{"CPU": 2}, {"CPU": 2}], ttl_s=None)
    node.ask("request_resources", owner="b", job="", bundles=[Bundle(amounts={"GPU": CPU})], ttl_s=5.0)
    desk.wait(2)

    assert [(one.owner, len(one.bundles), one.ttl_s) for one in desk.core.work(desk.now_s).standing] == [
        ("a", 2, pytest.approx(98.0)),
        ("b", 1, pytest.approx(3.0)),
    ]
    desk.wait(4)
    assert [one.owner for one in desk.core.work(desk.now_s).standing] == ["a"]
    later = Desk(desk.rows, now_s=9000.0, wall_at_zero_s=1000.0 - 9000.0 + 50)
    assert later.core.work(9000.0).standing[0].ttl_s == pytest.approx(60.0, abs=1)
    node.ask("request_resources", owner="a", job="", bundles=[], ttl_s=None)
    assert desk.core.work(desk.now_s).standing == () and desk.rows["standing"] == {}


def test_bad_requests_are_refused_by_name() -> None:
    desk = Desk()
    node = desk.node()

    assert "bundles" in node.refused("request_resources", owner="a", job="", bundles=[{"CPU": -1}], ttl_s=None)[1]
    assert "above 0" in node.refused("request_resources", owner="a", job="", bundles=[{"CPU": 1}], ttl_s=-1)[1]
    assert "actor_id" in node.refused("create_actor")[1]
    assert "expected a text" in node.refused("get_actor")[1]
    assert "knows no request" in node.refused("nonsense")[1]
    assert "expected one of" in node.refused("state", kind="what")[1]
    assert "KEY=VALUE" in node.refused("state", kind="nodes", filters=["x"])[1]
    assert "at least 1" in node.refused("state", kind="nodes", limit=0)[1]


def test_keys_are_kept_within_limits() -> None:
    desk = Desk(keys_bytes_max=100, key_bytes_max=60)
    node = desk.node()

    assert node.ask("put_key", space="s", key="k", value=b"1", is_overwriting=False)
    assert node.ask("put_key", space="s", key="k", value=b"1", is_overwriting=False), "the same again is quiet"
    assert not node.ask("put_key", space="s", key="k", value=b"2", is_overwriting=False)
    assert node.ask("put_key", space="s", key="k", value=b"2" * 50, is_overwriting=True)
    assert "at most 60" in node.refused("put_key", space="s", key="j", value=b"x" * 61)[1]
    assert "together" in node.refused("put_key", space="s", key="j", value=b"x" * 51)[1]
    assert Desk(desk.rows).ask("get_key", space="s", key="k") == b"2" * 50
    assert node.ask("delete_key", space="s", key="k") and not node.ask("delete_key", space="s", key="k")
    assert node.ask("get_key", space="s", key="k") is None


def test_a_full_disk_refuses_what_must_be_durable_and_nothing_else() -> None:
    desk = Desk()
    node = desk.node()
    actor_id = node.actor()

    desk.full(True)

    assert node.refused("create_actor", actor_id=b"n", job="", class_name="A")[0] == "JournalFull"
    assert node.refused("put_key", space="s", key="k", value=b"")[0] == "JournalFull"
    node.up(actor_id)
    assert node.ask("watch_actor", actor_id=actor_id)["state"] == "ALIVE"
    assert place(node, 1) == [("01", 1)]
    assert desk.ask("status")["is_read_only"]
    desk.full(False)
    node.actor("more")


# ----------------------------------------------------------------------------------------- questions, listings


def test_agents_are_asked_merged_filtered_and_limited() -> None:
    desk = Desk()
    one, two = desk.node(), desk.node()
    desk.hear(0, told.Ask(99, b"", "state", {"kind": "tasks", "filters": [["state", "=", "running"]], "limit": 3}))

    for node in (one, two):
        [query] = node.heard(told.Query)
        assert (query.what, query.args["filters"], query.args["limit"]) == ("tasks", [["state", "=", "running"]], 3)
        rows = [{"task_id": f"{node.node_id[:2]}{n}", "state": "RUNNING"} for n in range(2)] + [{"state": "FINISHED"}]
        node.say(told.Answered(query.rid, True, {"rows": rows, "total": 10, "warnings": []}))

    value = desk.answer(0, 99).value
    assert [row["task_id"] for row in value["rows"]] == ["010", "011", "020"]
    assert value["is_partial"] and value["total"] == 20


def test_who_does_not_answer_makes_the_answer_partial() -> None:
    desk = Desk()
    silent, gone, broken, away = desk.node(), desk.node(), desk.node(), desk.node()
    away.close()
    desk.hear(0, told.Ask(99, b"", "state", {"kind": "objects"}))
    gone.close()
    [query] = broken.heard(told.Query)
    broken.say(told.Answered(query.rid, False, "no such thing"))
    desk.wait(6)

    value = desk.answer(0, 99).value
    assert value["rows"] == [] and value["is_partial"]
    warnings = " / ".join(value["warnings"])
    for node in (silent, gone, broken, away):
        assert node.node_id[:8] in warnings
    [query] = silent.heard(told.Query)
    silent.say(told.Answered(query.rid, True, {"rows": [{}], "total": 1}))


def test_a_question_to_nobody_is_answered() -> None:
    desk = Desk()
    desk.hear(0, told.Ask(99, b"", "state", {"kind": "tasks"}))

    assert desk.answer(0, 99).value == {"rows": [], "total": 0, "is_partial": False, "warnings": []}


def test_listings_have_the_columns_of_ray() -> None:
    desk = Desk()
    node = desk.node()
    number = job(node)
    node.actor("bob", job=number, namespace="n")
    node.ask("create_group", spec=told.GroupSpec("g", [Bundle(amounts={"CPU": CPU})], Strategy.PACK, job=number))

    rows = {kind: desk.ask("state", kind=kind)["rows"][0] for kind in ("actors", "nodes", "jobs", "placement-groups")}

    columns = {kind: " ".join(row).upper() for kind, row in rows.items()}
    assert columns == {
        "actors": "ACTOR_ID CLASS_NAME STATE JOB_ID NAME NODE_ID PID RAY_NAMESPACE",
        "nodes": "NODE_ID NODE_IP IS_HEAD_NODE STATE STATE_MESSAGE NODE_NAME RESOURCES_TOTAL LABELS",
        "jobs": "JOB_ID SUBMISSION_ID ENTRYPOINT TYPE STATUS MESSAGE ERROR_TYPE DRIVER_INFO",
        "placement-groups": "PLACEMENT_GROUP_ID NAME CREATOR_JOB_ID STATE",
    }
    assert rows["nodes"]["node_ip"] == "10.0.0.1"
    for kind in rows:
        detailed = desk.ask("state", kind=kind, detail=True)["rows"][0]
        assert len(detailed) > len(rows[kind])
    assert desk.ask("state", kind="actors", filters=[["name", "=", "BOB"]])["total"] == 1
    assert desk.ask("state", kind="actors", filters=[["name", "!=", "bob"]])["total"] == 0


def test_status_joins_demand_with_the_autoscalers_verdicts() -> None:
    desk = Desk()
    node, idle = desk.node(), desk.node()
    node.report({"CPU": CPU}, is_full=True, busy=[told.BusyFor("lease", 3)])
    idle.report({"CPU": 4 * CPU}, is_full=True, idle_s=0.0, busy=[])
    waits(node, 5)
    session = desk.ask("open_session", owner="a")
    desk.ask("publish", session=session, report={"unmet": [{"demand": "c", "verdict": "blocked", "why": "limit"}]})
    desk.wait(1)

    status = desk.ask("status")

    assert [len(status["nodes"][word]) for word in ("active", "idle", "draining", "missing")] == [1, 1, 0, 0]
    assert status["usage"] == {"CPU": [3.0, 8.0]}
    [demand] = status["demand"]
    assert (demand["count"], demand["verdict"], demand["why"]) == (5, "blocked", "limit")
    assert status["autoscaler_ran_ago_s"] == pytest.approx(1.0)
    assert desk.refused("publish", session=0, report={})[0] == "StaleSession"


def test_what_nothing_can_ever_hold_is_told_to_its_owners_once() -> None:
    desk = Desk()
    node, other = desk.node(), desk.node()
    waits(node, 5, class_key="c")
    other.actor(amounts={"GPU": CPU})
    other.ask("create_group", spec=told.GroupSpec("g", [Bundle(amounts={"TPU": CPU})], Strategy.PACK))
    session = desk.ask("open_session", owner="a")
    unmet = [
        {"demand": "c", "verdict": "infeasible", "why": "no type has 100 CPUs"},
        {"demand": f"actor GPU={CPU}", "verdict": "infeasible", "why": "no GPUs"},
        {"demand": "g", "verdict": "blocked", "why": "limit"},
    ]

    for _ in range(3):
        desk.ask("publish", session=session, report={"unmet": unmet})
    assert node.tells("infeasible") == [{"key": "c", "why": "no type has 100 CPUs"}]
    assert other.tells("infeasible") == [{"key": f"actor GPU={CPU}", "why": "no GPUs"}]
    desk.ask("publish", session=session, report={"unmet": [{"demand": "g", "verdict": "infeasible"}]})

    assert [one["key"] for one in other.tells("infeasible")] == [f"actor GPU={CPU}", "g"]


def test_versions_rise_across_restarts() -> None:
    desk = Desk()
    desk.node()
    before = desk.core.work(desk.now_s)

    after = Desk(desk.rows).core.work(desk.now_s)

    assert (after.epoch, after.version) > (before.epoch, before.version)


@pytest.mark.parametrize(
    ("settings", "what"), [({"cluster_uid": "cd" * 16}, "expected cluster"), ({"epoch": 0}, "newer head")]
)
def test_a_journal_of_another_cluster_or_a_newer_head_is_refused(settings: dict[str, object], what: str) -> None:
    desk = Desk()

    with pytest.raises(UserError, match=what):
        Desk(desk.rows, **settings)


def test_config_generations_count_changes_and_outlive_the_head() -> None:
    desk = Desk()

    assert desk.ask("config_generation", hash="a") == {"generation": 1, "hash": "a"}
    assert desk.ask("config_generation", hash="a") == {"generation": 1, "hash": "a"}
    assert desk.ask("config_generation", hash="b")["generation"] == 2
    assert Desk(desk.rows).ask("config_generation") == {"generation": 2, "hash": "b"}


# --------------------------------------------------------------------------------------------- documentation


@pytest.mark.parametrize(
    ("mark", "table", "words"), [("actors", ACTOR_TABLE, ActorState), ("groups", GROUP_TABLE, None)]
)
def test_the_documented_state_tables_are_the_real_ones(mark: str, table: str, words: type[ActorState] | None) -> None:
    from pathlib import Path

    page = Path(__file__).parents[3].joinpath("docs/head.md").read_text()
    block = page.split(f"<!-- states:{mark} -->")[1].strip().splitlines()[: len(table.strip().splitlines()) + 1]
    documented = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in block]
    head, *rows = (line.split() for line in table.strip().splitlines())

    def shown(name: str) -> str:
        return "stays" if name == "." else words[name].value if words else name

    assert documented[0][1:] == head
    assert documented[2:] == [[shown(cell) for cell in row] for row in rows]


def test_every_table_of_the_journal_is_documented() -> None:
    assert set(TABLES) == {"meta", "nodes", "joins", "orders", "jobs", "actors", "groups", "standing", "keys"}
