"""What an owner remembers to make lost values again."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.runtime.decide.lineage import Lineage


def lineage(
    *tasks: tuple[str, tuple[str, ...]], bytes_max: int = 1000, size: int = 1, retries: int = 3
) -> Lineage[str]:
    """Return a lineage in which each named task made the value of the same name in lower case."""
    found: Lineage[str] = Lineage(bytes_max)
    for task, needs in tasks:
        found.remember(task, [task.lower()], needs, size, retries)
    return found


def nothing_there(_: str) -> bool:
    return False


def test_lost_value_is_made_by_its_task() -> None:
    plan = lineage(("A", ())).plan(["a"], nothing_there)

    assert plan.runs == ["A"]
    assert plan.lost == {}


def test_arguments_are_made_first_and_once() -> None:
    diamond = lineage(("A", ()), ("B", ("a",)), ("C", ("a",)), ("D", ("b", "c")))

    runs = diamond.plan(["d", "b"], nothing_there).runs

    assert sorted(runs) == ["A", "B", "C", "D"]
    assert runs.index("A") < runs.index("B") < runs.index("D")
    assert runs.index("C") < runs.index("D")


def test_what_is_there_is_not_made_again() -> None:
    assert lineage(("A", ()), ("B", ("a",))).plan(["b"], lambda one: one == "a").runs == ["B"]


def test_put_value_cannot_come_back_and_takes_its_users_along() -> None:
    found: Lineage[str] = lineage(("A", ()))
    found.remember("B", ["b"], ["a", "put"], 1, 3)

    assert found.plan(["put"], nothing_there).lost == {"put": "put"}
    assert found.plan(["b"], lambda one: one == "put").runs == ["A", "B"]


def test_used_up_retries_are_told_and_spread() -> None:
    chain = lineage(("A", ()), ("B", ("a",)), retries=1)
    chain.ran_again("A")

    plan = chain.plan(["a", "b"], nothing_there)

    assert plan.runs == []
    assert plan.lost == {"a": "retries-used-up", "b": "dependency-lost"}


def test_recipe_lives_while_a_value_or_a_recipe_needs_it() -> None:
    chain = lineage(("A", ()), ("B", ("a",)))

    chain.drop("a")
    assert chain.plan(["b"], nothing_there).runs == ["A", "B"]

    chain.drop("b")
    assert len(chain) == 0
    assert chain.bytes_held == 0


def test_oldest_goes_at_the_limit_and_the_loss_says_so() -> None:
    chain = lineage(("A", ()), ("B", ("a",)), ("C", ()), bytes_max=2)

    assert len(chain) == 2
    assert chain.evicted == 1
    assert chain.plan(["a"], nothing_there).lost == {"a": "lineage-evicted"}
    assert chain.plan(["b"], nothing_there).lost == {"b": "dependency-lost"}
    assert chain.plan(["b"], lambda one: one == "a").runs == ["B"]


def test_recipe_over_the_limit_is_not_kept() -> None:
    big: Lineage[str] = Lineage(10)

    assert big.remember("A", ["a"], [], 11, 3) == ["A"]
    assert big.plan(["a"], nothing_there).lost == {"a": "lineage-evicted"}


def test_task_without_retries_leaves_nothing() -> None:
    found: Lineage[str] = Lineage()
    found.remember("A", ["a"], [], 1, 0)

    assert len(found) == 0


def test_long_chain_is_planned_and_dropped_without_recursion() -> None:
    chain: Lineage[int] = Lineage()
    for n in range(50_000):
        chain.remember(n, [n], [n - 1] if n else [], 1, 3)

    plan = chain.plan([49_999], lambda _: False)
    for n in range(50_000):
        chain.drop(n)

    assert plan.runs == list(range(50_000))
    assert len(chain) == 0


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_random_histories(data: st.DataObject) -> None:
    found: Lineage[int] = Lineage(bytes_max=data.draw(st.integers(5, 60)))
    needs: dict[int, list[int]] = {}
    alive: set[int] = set()
    for n in range(data.draw(st.integers(1, 25))):
        needs[n] = data.draw(st.lists(st.sampled_from(sorted(alive)), max_size=3, unique=True)) if alive else []
        found.remember(n, [n], needs[n], data.draw(st.integers(1, 5)), 3)
        alive.add(n)
        for one in data.draw(st.lists(st.sampled_from(sorted(alive)), max_size=2, unique=True)):
            alive.discard(one)
            found.drop(one)
        assert found.bytes_held <= found.bytes_max

    there = data.draw(st.sets(st.sampled_from(sorted(needs))))
    wanted = sorted(alive - there)
    plan = found.plan(wanted, lambda one: one in there)

    made = set(there)
    for task in plan.runs:
        assert set(needs[task]) <= made, "an argument is missing when its task runs"
        assert task not in made
        made.add(task)
    assert set(wanted) == {one for one in wanted if one in made} | set(plan.lost)
    assert not set(plan.lost) & set(plan.runs)
    for one in sorted(alive):
        found.drop(one)
    assert len(found) == 0
    assert found.bytes_held == 0
