"""Demand from reports of different ages: nothing counts twice, nothing is lost."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.model.demand import DemandClass, Selector
from shoal.runtime.decide.demand_ledger import DemandLedger, bounded
from shoal.wire.messages import Backlog, Grants

CPU = 10_000
OWNER = b"owner"


def row(waiting: int, seen: int = 0, **more: object) -> Backlog:
    given: dict[str, object] = {"owner": OWNER, "class_key": "c", "job": "j", "amounts": {"CPU": CPU}, **more}
    return Backlog(waiting=waiting, seen=seen, **given)  # type: ignore[arg-type]


def demand(ledger: DemandLedger, now_s: float = 0.0, key: str = "c") -> int:
    found = ledger.demand_of(key, now_s)
    return found.waiting if found else 0


def cut(seed: int, *, is_corrected: bool) -> int:
    """64 one-CPU tasks, 16 idle nodes of 4 CPUs: return how much demand beyond free room was ever seen."""
    chance = random.Random(seed)
    nodes, events, order = 16, [], itertools.count()

    def at(when_s: float, call: Callable[[float], None]) -> None:
        heapq.heappush(events, (when_s, next(order), call))

    def late() -> float:
        return chance.uniform(0.0003, 0.002)

    used, granted = [0] * nodes, [0] * nodes
    owner, home = {"waiting": 0, "seen": 0}, {"waiting": 0, "seen": 0}
    reported = [0] * nodes
    ledger = DemandLedger()
    worst = 0

    def report(node: int, now_s: float) -> None:
        backlog = [row(home["waiting"], home["seen"] if is_corrected else 0)] if node == 0 else []
        grants = [Grants(OWNER, "c", granted[node])] if is_corrected else []
        at_report = used[node]

        def arrive(when_s: float) -> None:
            nonlocal worst
            reported[node] = at_report
            ledger.report(str(node), backlog, grants, when_s)
            worst = max(worst, demand(ledger, when_s) - sum(4 - one for one in reported))

        at(now_s + late(), arrive)
        at(now_s + 0.02, lambda when_s: report(node, when_s))

    def tell(now_s: float) -> None:
        said = dict(owner)
        at(now_s + late(), lambda _: home.update(said) if said["seen"] >= home["seen"] else None)

    def got(now_s: float) -> None:
        owner["waiting"] -= 1
        owner["seen"] += 1
        tell(now_s)

    def ask(now_s: float, node: int) -> None:
        def grant(when_s: float) -> None:
            if used[node] < 4:
                used[node] += 1
                granted[node] += 1
                at(when_s + late(), got)

        at(now_s + late(), grant)

    def submit(now_s: float) -> None:
        owner["waiting"] = 64
        tell(now_s)
        for node in range(nodes):
            for _ in range(4):
                ask(now_s + chance.uniform(0, 0.003), node)

    for node in range(nodes):
        at(chance.uniform(0, 0.02), lambda when_s, node=node: report(node, when_s))
    at(0.1, submit)
    while events and events[0][0] <= 0.2:
        when_s, _, call = heapq.heappop(events)
        call(when_s)
    assert owner["seen"] == 64, "every task must have been granted"
    return worst


def test_no_capacity_is_bought_for_work_that_already_runs() -> None:
    phantoms = [seed for seed in range(200) if cut(seed, is_corrected=True) > 0]

    assert phantoms == []


def test_the_simulation_shows_phantoms_without_the_counters() -> None:
    assert sum(cut(seed, is_corrected=False) > 0 for seed in range(40)) >= 5


class Program(random.Random):
    """One owner's random life over three nodes whose reports arrive in order per node, late otherwise."""

    def run(self, steps: int) -> tuple[DemandLedger, dict[str, int]]:
        ledger, wires = DemandLedger(), [list[tuple[list[Backlog], list[Grants]]]() for _ in range(3)]
        count = dict.fromkeys(("submitted", "finished", "running", "upcoming", "waiting", "seen", "unseen"), 0)
        granted = [0, 0, 0]

        def report(node: int) -> None:
            backlog = [row(count["waiting"] + count["unseen"], count["seen"])] if node == 0 else []
            wires[node].append((backlog, [Grants(OWNER, "c", granted[node])]))

        def deliver(node: int) -> None:
            if wires[node]:
                ledger.report(str(node), *wires[node].pop(0), now_s=0.0)

        for _ in range(steps):
            match self.randrange(7):
                case 0:
                    count["submitted"] += 1
                    count[self.choice(["upcoming", "waiting"])] += 1
                case 1 if count["upcoming"]:
                    count["upcoming"] -= 1
                    count["waiting"] += 1
                case 2 if count["waiting"]:
                    granted[self.randrange(3)] += 1
                    count["waiting"] -= 1
                    count["running"] += 1
                    count["unseen"] += 1
                case 3 if count["unseen"]:
                    count["unseen"] -= 1
                    count["seen"] += 1
                case 4 if count["running"]:
                    count["running"] -= 1
                    count["finished"] += 1
                case 5:
                    report(self.randrange(3))
                case _:
                    deliver(self.randrange(3))
        for node in range(3):
            report(node)
            while wires[node]:
                deliver(node)
        return ledger, count


@given(st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_conservation_after_every_random_program(seed: int) -> None:
    ledger, count = Program(seed).run(200)

    others = count["finished"] + count["running"] + count["upcoming"]
    assert count["submitted"] == others + demand(ledger)


def test_grants_unseen_for_too_long_hide_nothing_any_more() -> None:
    ledger = DemandLedger()
    ledger.report("home", [row(10)], [], 0.0)
    ledger.report("away", [], [Grants(OWNER, "c", 4)], 0.0)
    assert demand(ledger) == 6

    assert ledger.settle(4.9) == set()
    assert ledger.settle(5.1) == {"c"}

    assert demand(ledger) == 10


def test_a_busy_stream_of_grants_is_never_void() -> None:
    ledger = DemandLedger()
    ledger.report("home", [row(100)], [], 0.0)
    for step in range(200):
        ledger.report("away", [], [Grants(OWNER, "c", step + 20)], step * 0.1)
        ledger.report("home", [row(100, seen=step)], [], step * 0.1 + 0.05)
        assert ledger.settle(step * 0.1 + 0.06) == set()
        assert demand(ledger) == 80, "twenty are always on their way, never the same ones"


def test_a_grant_that_was_void_and_is_seen_or_revoked_later_hides_nothing() -> None:
    for revoke in (False, True):
        ledger = DemandLedger()
        ledger.report("home", [row(10)], [], 0.0)
        ledger.report("away", [], [Grants(OWNER, "c", 4)], 0.0)
        ledger.settle(6.0)

        if revoke:
            ledger.report("away", [], [Grants(OWNER, "c", 0)], 7.0)
            ledger.report("away", [], [Grants(OWNER, "c", 1)], 7.1)
        else:
            ledger.report("home", [row(10, seen=4)], [], 7.0)
            ledger.report("away", [], [Grants(OWNER, "c", 5)], 7.1)

        assert demand(ledger) == 9, "the new grant is on its way"


def test_a_closed_stream_freezes_and_a_full_report_replaces() -> None:
    ledger = DemandLedger()
    ledger.report("home", [row(5), row(7, class_key="d")], [], 0.0)

    ledger.freeze("home")
    assert demand(ledger) == 5 and ledger.is_frozen("home")
    touched = ledger.report("home", [row(3)], [], 1.0, is_full=True)

    assert touched == {"c", "d"}
    assert demand(ledger) == 3 and demand(ledger, key="d") == 0
    assert not ledger.is_frozen("home")


def test_a_dead_home_takes_its_owners_demand_with_it() -> None:
    ledger = DemandLedger()
    ledger.report("home", [row(5)], [], 0.0)

    assert ledger.drop_node("home") == {"c"}
    assert ledger.classes(0.0) == []


def test_grants_of_a_dead_node_stay_counted_for_owners_that_saw_them() -> None:
    ledger = DemandLedger()
    ledger.report("away", [], [Grants(OWNER, "c", 10)], 0.0)
    ledger.report("home", [row(5, seen=10)], [], 0.0)

    ledger.drop_node("away")
    ledger.report("other", [], [Grants(OWNER, "c", 2)], 0.1)

    assert demand(ledger) == 3, "two new grants that the owner has not seen yet"


def test_rows_end_with_owner_and_job() -> None:
    ledger = DemandLedger()
    ledger.report("home", [row(5), row(2, owner=b"two", job="k")], [], 0.0)

    assert ledger.drop_owner(OWNER) == {"c"}
    assert demand(ledger) == 2
    assert ledger.drop_job("k") == {"c"}
    assert ledger.count == 0


def test_owners_of_one_class_are_merged() -> None:
    ledger = DemandLedger()
    ledger.report("a", [row(6, duration_s=2.0, running_slots=3, waiting_s=4.0)], [], 10.0)
    ledger.report("b", [row(2, owner=b"two", job="k", duration_s=4.0, running_slots=1)], [], 10.0)

    merged = ledger.demand_of("c", 11.0)

    assert merged is not None
    assert (merged.waiting, merged.running_slots, merged.duration_s, merged.jobs) == (8, 4, 2.5, ("j", "k"))
    assert merged.waiting_s == pytest.approx(5.0)


def test_a_few_owners_without_samples_do_not_make_the_duration_unknown() -> None:
    ledger = DemandLedger()
    ledger.report("a", [row(9, duration_s=2.0), row(1, owner=b"two")], [], 0.0)
    assert ledger.demand_of("c", 0.0).duration_s == 2.0  # type: ignore[union-attr]

    ledger.report("a", [row(50, owner=b"two")], [], 0.0)
    assert ledger.demand_of("c", 0.0).duration_s is None  # type: ignore[union-attr]


def test_an_owner_that_moves_home_is_counted_once() -> None:
    ledger = DemandLedger()
    ledger.report("a", [row(5)], [], 0.0)
    ledger.report("b", [row(4)], [], 1.0)

    ledger.drop_node("a")

    assert demand(ledger) == 4


def many(count: int, seed: int) -> list[DemandClass]:
    chance = random.Random(seed)
    return [
        DemandClass(
            key=f"k{number}",
            amounts={"CPU": chance.randint(1, 64 * CPU), "memory": chance.randint(1, 10**14)},
            waiting=chance.randint(1, 100),
            selector=Selector(hard={"zone": f"z{chance.randint(0, 3)}"}),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [400, 500, 501, 2000, 5000])
def test_a_snapshot_holds_at_most_500_classes_and_no_work_is_lost(count: int) -> None:
    classes = many(count, count)

    found = bounded(classes, 500)

    assert len(found) <= 500
    assert sum(one.waiting for one in found) == sum(one.waiting for one in classes)
    assert any(one.is_quantised for one in found) == (count > 500)
    assert len({one.key for one in found}) == len(found)


def test_quantised_shapes_cover_what_they_stand_for() -> None:
    classes = many(800, 7)
    found = bounded(classes, 500)
    exact = {one.key for one in found}

    for one in classes:
        if one.key in exact:
            continue
        assert any(
            big.is_quantised
            and big.selector == one.selector
            and all(big.amounts[name] >= amount for name, amount in one.amounts.items())
            for big in found
        ), "rounded shapes must never be smaller than the work"
