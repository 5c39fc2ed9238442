"""Placement groups and drains in storms, by seed: what the head believes and what the nodes hold agree in the end.

At every moment: a node that said it is empty takes no work until it is told to, and says so only if it has none.
"""

from __future__ import annotations

import pytest

from shoal.foundation.amounts import UNIT
from shoal.model.demand import Bundle, Strategy
from shoal.runtime.decide.group_states import GroupState
from shoal.testing import sim_time
from shoal.wire.asks import What
from shoal.wire.messages import GroupSpec
from tests.virtual.nodes import SimAgent
from tests.virtual.world import Faults, World

STORM = Faults(
    cut=1.0, worker_death=0.3, node_death=0.02, partition=0.1, head_away=0.2, head_crash=0.02, crash_at_commit=0.01
)
CABLES = Faults(cut=4.0, partition=0.1, head_away=0.5)


class Planner:
    """Stands for users who make and remove groups, and for an autoscaler that drains and undrains."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.groups: list[str] = []
        self.removed: set[str] = set()
        self.session = 0
        self.draining: dict[str, str] = {}
        """Instance to order."""
        self.answers: list[str] = []

    def step(self) -> None:
        world, chance = self.world, self.world.chance
        driver = chance.choice(world.drivers)
        if chance.random() < 0.02:
            driver.submit()
        if len(self.groups) < 150 and chance.random() < 0.05:
            count = chance.randint(1, 3)
            bundles = [Bundle(amounts={"CPU": chance.randint(1, 2) * UNIT}) for _ in range(count)]
            group_id = f"{len(self.groups):032x}"
            spec = GroupSpec(group_id, bundles, chance.choice(list(Strategy)), is_detached=True)
            self.groups.append(group_id)
            driver.ask(group_id, What.CREATE_GROUP, {"spec": spec})
        known = [one for one in self.groups if one not in self.removed and one in self.asked()]
        if known and chance.random() < 0.05:
            group_id = chance.choice(known)
            self.removed.add(group_id)
            driver.ask(f"remove {group_id}", What.REMOVE_GROUP, {"group_id": group_id})
        if world.head.is_up and chance.random() < 0.1:
            self.order()
        self.check()

    def asked(self) -> set[str]:
        return {name for driver in self.world.drivers for name in driver.asked}

    def order(self) -> None:
        """Begin a drain of some node, or take one back."""
        world, chance, head = self.world, self.world.chance, self.world.head
        if not self.session or chance.random() < 0.05:
            reply = head.ask("open_session", {"owner": "a"})
            self.session = reply.value
        agent = chance.choice([one for one in world.agents.values() if one is not world.home] or [world.home])
        instance, node = agent.instance, head.core.nodes.alive.get(agent.node_id)
        order = self.draining.get(instance)
        if order is not None or node is None:
            if chance.random() < 0.5 and order is not None:
                del self.draining[instance]
                head.ask("undrain", {"session": self.session, "instance_id": instance, "order": order})
            return
        order = self.draining[instance] = f"o{head.loop.time()}"
        head.ask("cordon", {"session": self.session, "instance_id": instance, "order": order, "ttl_s": 8.0})
        deadline_s = chance.choice([None, None, 0.5, 3.0])
        serial = node.idle_serial if deadline_s is None else None
        told = {"session": self.session, "instance_id": instance, "order": order}
        head.ask("drain", {**told, "idle_serial": serial, "deadline_s": deadline_s})

    def check(self) -> None:
        """See that a node whose answer `emptied` the head holds, under a cordon, has no work."""
        core = self.world.head.core
        if not self.world.head.is_up:
            return
        for agent in self.world.agents.values():
            member = core.nodes.alive.get(agent.node_id)
            if member is None or agent.is_dark or agent.instance not in core.nodes.cordoned:
                continue
            if member.drain_answer == "emptied" and member.drain_order == core.nodes.cordoned[agent.instance]:
                assert not busy(agent), f"{agent.instance} said that it is empty and has {busy(agent)}"
        for _, kind, fields in self.world.head.story[len(self.answers) :]:
            self.answers.append(fields["answer"] if kind == "drain_answered" else "")


def busy(agent: SimAgent) -> list[str]:
    return [one.what for one in agent.busy()]


def check_rest(world: World, planner: Planner) -> None:
    core = world.head.core
    assert set(core.nodes.alive) == {one.node_id for one in world.agents.values()}
    for agent in world.agents.values():
        is_cordoned = agent.instance in core.nodes.cordoned
        assert agent.leases.is_open is not is_cordoned, "the head and the node differ about a cordon"
        assert not agent.bundles._prepared, "a prepared bundle leaked"
        for group_id, numbers in agent.bundles.committed().items():
            group = core.groups.all.get(group_id)
            assert group is not None, "a removed group's bundles are still held"
            assert all(group.row.nodes[number] == agent.node_id for number in numbers)
    for group_id, group in core.groups.all.items():
        for number, node in enumerate(group.row.nodes):
            if node:
                assert number in world.agents[node].bundles.committed().get(group_id, ()), "a bundle that nobody holds"
        if group.row.state is not GroupState.CREATED:
            assert core.groups.gang(group_id, world.loop.time()) is not None, "a group waits and nobody counts it"
    answered = {name for driver in world.drivers for name, (is_ok, _) in driver.asked.items() if is_ok}
    promised = {one for one in planner.groups if one in answered and one not in planner.removed}
    assert promised <= core.groups.all.keys(), "a promised group is gone"
    gone = {one for one in planner.removed if f"remove {one}" in answered}
    assert not gone & core.groups.all.keys(), "a removed group came back"


@pytest.mark.parametrize("faults", [STORM, CABLES, Faults()], ids=["storm", "cables", "calm"])
@pytest.mark.parametrize("seed", range(6))
def test_after_any_storm_the_books_of_head_and_nodes_agree(
    seed: int, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        world = World(seed, faults, monkeypatch)
        planner = Planner(world)
        await world.run_for(20, planner.step)
        refs = [ref for driver in world.drivers for ref in driver.refs.values()]
        for instance in tuple(planner.draining):
            if world.head.is_up:
                told = {"session": planner.session, "instance_id": instance, "order": planner.draining.pop(instance)}
                world.head.ask("undrain", told)
        world.calm()
        await world.run_for(40, pace_s=0.1)
        check_rest(world, planner)
        for group_id in tuple(world.head.core.groups.all):  # what waits for room gets it
            world.drivers[0].ask(f"remove {group_id}", What.REMOVE_GROUP, {"group_id": group_id})
        await world.settle(lambda: all(ref._ready for ref in refs), within_s=100)
        assert faults.cut or {"busy", "emptied"} <= set(planner.answers)

    sim_time.run(main())
