"""Storms: many seeds of cuts, partitions, deaths and head crashes; then calm; then everything must be as promised."""

from __future__ import annotations

import msgspec
import pytest

from shoal.model.demand import Bundle, Strategy
from shoal.runtime.decide.actor_states import ActorState
from shoal.runtime.decide.group_states import GroupState
from shoal.wire.messages import GroupSpec
from tests.head.world import Agent, Faults, World

CPU = 10_000
STORM = Faults(
    cut=0.05,
    cut_at_message=0.002,
    head_crash=0.01,
    crash_at_commit=0.01,
    node_death=0.002,
    actor_crash=0.2,
    partition=0.02,
)


def group(number: int, world: World) -> GroupSpec:
    strategy = world.chance.choice(list(Strategy))
    count = world.chance.randint(1, 3)
    bundles = [Bundle(amounts={"CPU": world.chance.randint(1, 2) * CPU}) for _ in range(count)]
    return GroupSpec(f"{number:032x}", bundles, strategy, is_detached=True)


def actor(number: int, world: World) -> dict[str, object]:
    return {
        "actor_id": number.to_bytes(16, "big"),
        "job": "",
        "class_name": "A",
        "name": f"n{number}",
        "is_detached": True,
        "max_restarts": -1,
        "amounts": {"CPU": CPU},
        "held": {"CPU": CPU} if number % 2 else {},
    }


class Outcome(msgspec.Struct, kw_only=True):
    """What was promised by replies, and the world after the calm."""

    world: World
    actors: set[bytes]
    groups: set[str]
    killed: set[bytes]
    removed: set[str]
    removed_perhaps: set[str]


def run_storm(seed: int, faults: Faults, storm_s: float) -> Outcome:
    world = World(seed, faults=faults)
    for _ in range(6):
        world.add({"CPU": 8 * CPU})
    asked: dict[bytes, tuple[Agent, int]] = {}
    groups: dict[str, tuple[Agent, int]] = {}
    removals: dict[str, tuple[Agent, int]] = {}
    kills: dict[bytes, tuple[Agent, int]] = {}
    most_answering = 0
    promised_actors: set[bytes] = set()
    promised_groups: set[str] = set()
    for step in range(int(storm_s * 5)):
        world.run_for(0.2)
        living = [one for one in world.agents if not one.is_dead]
        if len(living) < 4:
            living.append(world.add({"CPU": 8 * CPU}))
        agent = world.chance.choice(living)
        if len(asked) < 20 and step % 2:
            args = actor(len(asked), world)
            asked[args["actor_id"]] = (agent, agent.ask("create_actor", args))  # type: ignore[index]
        if len(groups) < 300 and step % 2 == 0:
            spec = group(len(groups), world)
            groups[spec.group_id] = (agent, agent.ask("create_group", {"spec": spec}))
        if groups and step % 5 < 2:
            chosen = world.chance.choice(sorted(groups))
            owner, rid = groups[chosen]
            if rid in owner.replies and chosen not in removals:
                world.removing.add(chosen)
                removals[chosen] = (agent, agent.ask("remove_group", {"group_id": chosen}))
        if len(kills) < 5 and step % 40 == 39:
            chosen_actor = world.chance.choice(sorted(asked))
            if chosen_actor in promised_actors and chosen_actor not in kills:
                kills[chosen_actor] = (agent, agent.ask("kill_actor", {"actor_id": chosen_actor, "no_restart": True}))
        for actor_id, (owner, rid) in asked.items():
            if rid in owner.replies and owner.replies[rid].is_ok:
                promised_actors.add(actor_id)
            answering = sum(one.answers(actor_id) for one in world.agents)
            most_answering = max(most_answering, answering)
            assert answering <= 1, f"seed {seed}: {answering} incarnations of one actor answer at {world.now_s}"
        for group_id, (owner, rid) in groups.items():
            if rid in owner.replies and owner.replies[rid].is_ok:
                promised_groups.add(group_id)
    world.calm()
    world.run_for(120)
    assert most_answering == 1
    return Outcome(
        world=world,
        actors=promised_actors - kills.keys(),
        groups=promised_groups - removals.keys(),
        killed={one for one, (owner, rid) in kills.items() if rid in owner.replies},
        removed={one for one, (owner, rid) in removals.items() if rid in owner.replies},
        removed_perhaps=set(removals),
    )


def check_calm(after: Outcome) -> None:
    world, head = after.world, after.world.head
    living = {one.node_id: one for one in world.agents if not one.is_dead}
    assert set(head.nodes.alive) == set(living)
    for actor_id in after.actors:
        # A reply was promised durable: after any number of head crashes the actor is known, and (restarts without
        # limit, detached) alive or waiting for room.
        row = head.actors.all[actor_id].row
        assert row.state is not ActorState.DEAD, row.why
        if row.state is ActorState.ALIVE:
            assert living[row.node_id].answers(actor_id)
            assert living[row.node_id].actors[actor_id][0].generation == row.generation
        else:
            assert not row.node_id, "an actor was given a node that does not start it"
    for node_id, one in living.items():
        for actor_id in one.actors:
            assert head.actors.all[actor_id].row.node_id == node_id, "an actor runs that the head does not know there"
        assert not one.prepared, "a prepared bundle leaked"
        for group_id, parts in one.committed.items():
            known = head.groups.all.get(group_id)
            assert known is not None, f"a removed group's bundles are still held: {group_id}"
            assert all(known.row.nodes[number] == node_id for number in parts)
        assert head.spots.free(node_id) == {name: amount for name, amount in one.free.items() if amount}
    for actor_id in after.killed:
        known_actor = head.actors.all.get(actor_id)
        assert known_actor is None or known_actor.row.state is ActorState.DEAD, "a killed actor came back"
    assert not after.removed & head.groups.all.keys(), "a removed group came back"
    for group_id in after.groups:
        known = head.groups.all.get(group_id)
        assert known is not None, "a promised group is gone"
        if known.row.state is GroupState.CREATED:
            assert all(number in living[node].committed[group_id] for number, node in enumerate(known.row.nodes))
        else:
            assert head.groups.gang(group_id, world.now_s) is not None, "a group waits and nobody counts it"


@pytest.mark.parametrize("seed", range(25))
def test_after_any_storm_the_head_knows_the_truth(seed: int) -> None:
    after = run_storm(seed, STORM, 30)

    assert after.actors and after.groups
    check_calm(after)


@pytest.mark.parametrize("seed", range(5))
def test_without_faults_everything_that_fits_is_placed(seed: int) -> None:
    after = run_storm(seed, Faults(), 10)

    check_calm(after)
    assert after.actors
    assert all(after.world.head.actors.all[one].row.restarts == 0 for one in after.actors)
