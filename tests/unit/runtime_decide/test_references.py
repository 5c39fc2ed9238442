"""Distributed reference counts against an oracle: nothing live is freed, and nothing dead is kept once all is calm.

A world of processes runs a random program: put, call, keep an argument, return references, get, drop. Messages wait on
links, are delivered in any order between links, and are lost and resent when a link is cut; processes die.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal.foundation.chance import Chance
from shoal.runtime.decide import references as r
from shoal.runtime.decide.references import Handle, Incoming, Outgoing, Ref, References, Token, react

NAMES = ("a", "b", "c", "d")


class Link:
    """One direction between two processes: numbered messages, in order, some of them acknowledged."""

    def __init__(self) -> None:
        self.outgoing, self.incoming = Outgoing(), Incoming()
        self.under_way: deque[tuple[int, Any]] = deque()

    def send(self, message: Any) -> None:
        self.under_way.append(self.outgoing.send(message))

    def cut(self) -> None:
        """Lose what is under way; the new connection starts with everything unacknowledged."""
        self.under_way = deque(self.outgoing.again())

    def take(self, *, is_acknowledged: bool) -> Any:
        serial, message = self.under_way.popleft()
        is_new = self.incoming.accept(serial)
        if is_acknowledged:
            self.outgoing.acknowledged(self.incoming.seen)
        return message if is_new else None


class Process:
    """A process: its reference counts and what its user program holds."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = References(name)
        self.handles: list[Handle] = []
        self.counter = itertools.count(1)
        self.contents: dict[int, list[Handle]] = {}
        """Handles inside the value of each own object that is ready."""
        self.value_of: dict[int, Token] = {}
        """Own objects whose value came in a message."""
        self.tasks: list[tuple[str, Token, list[Handle]]] = []
        """Running here: caller, token, arguments."""
        self.asked: dict[Token, Handle] = {}
        self.readers: dict[int, list[tuple[str, Token]]] = {}
        self.is_dead = False


class World:
    """All processes, the links between them, and the oracle."""

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        self.processes = {name: Process(name) for name in names}
        self.links = {pair: Link() for pair in itertools.permutations(names, 2)}
        self.freed: list[Ref] = []
        self.parents: dict[tuple[str, Any], tuple[str, Any]] = {}
        """Whence a process has what a reference rests on: (process, support) to that of the lender."""
        self.siblings: dict[tuple[str, Any], set[Ref]] = {}
        """What came together and rests on the same support."""
        self.lender: dict[tuple[str, str, Token], str] = {}
        self.verdicts: list[tuple[str, str]] = []

    # -------------------------------------------------------------------------------------------- carrying out

    def act(self, name: str, event: r.Event) -> None:
        process = self.processes[name]
        for command in react(process.state, event):
            self.carry_out(process, command)

    def carry_out(self, process: Process, command: r.Command) -> None:
        if isinstance(command, r.Free):
            self.freed.append((process.name, command.number))
            process.contents.pop(command.number, None)
            token = process.value_of.pop(command.number, None)
            if token is not None:
                self.act(process.name, r.Discarded(token))
        else:
            self.send(process.name, command.to, command)  # type: ignore[attr-defined]

    def send(self, sender: str, to: str, message: Any) -> None:
        if not self.processes[to].is_dead:
            self.links[sender, to].send(message)

    # ------------------------------------------------------------------------------------------ what programs do

    def put(self, name: str, inside: list[Handle]) -> None:
        process = self.processes[name]
        number = next(process.counter)
        process.contents[number] = list(inside)
        self.act(name, r.Made(number, tuple(inside)))
        process.handles.append(((name, number), (r.OWN, number)))

    def drop(self, name: str, index: int) -> None:
        process = self.processes[name]
        self.act(name, r.Dropped(process.handles.pop(index)))

    def call(self, name: str, worker: str, arguments: list[Handle]) -> None:
        """Start a task on `worker`; its result is a new own object."""
        process = self.processes[name]
        number = next(process.counter)
        self.act(name, r.Made(number))
        process.handles.append(((name, number), (r.OWN, number)))
        token = (name, number)
        self.act(name, r.Sending(worker, token, tuple(arguments), is_arguments=True))
        self.send(name, worker, ("task", token, list(arguments)))

    def keep(self, name: str, task: int, argument: int) -> None:
        """A running task stores one of its arguments for later."""
        process = self.processes[name]
        arguments = process.tasks[task][2]
        if arguments:
            handle = arguments[argument % len(arguments)]
            self.act(name, r.Copied(handle))
            process.handles.append(handle)

    def finish(self, name: str, task: int, result: list[Handle]) -> None:
        """A task returns a value that contains some of its process's or its own arguments' references."""
        process = self.processes[name]
        caller, token, _ = process.tasks.pop(task)
        is_caller_alive = caller not in process.state.dead
        if is_caller_alive:
            self.act(name, r.Sending(caller, token, tuple(result)))
        self.act(name, r.Discarded(token, caller))
        if is_caller_alive:
            self.send(name, caller, ("reply", token, list(result)))

    def get(self, name: str, index: int) -> None:
        """Read an object's value: here if it is our own, else from its owner."""
        process = self.processes[name]
        handle = process.handles[index]
        (owner, number), _ = handle
        if owner == name:
            for inner in process.contents.get(number, ()):
                self.act(name, r.Copied(inner))
                process.handles.append(inner)
        elif owner not in process.state.dead:
            token = (name, next(process.counter))
            self.act(name, r.Copied(handle))
            process.asked[token] = handle
            self.send(name, owner, ("ask", token, number))

    # -------------------------------------------------------------------------------------------------- arriving

    def deliver(self, sender: str, to: str, *, is_acknowledged: bool = True) -> None:
        message = self.links[sender, to].take(is_acknowledged=is_acknowledged)
        if message is None or self.processes[to].is_dead:
            return
        process = self.processes[to]
        match message:
            case ("task", token, handles):
                arguments = self.bring(sender, process, token, handles, is_arguments=True)
                process.tasks.append((sender, token, arguments))
            case ("reply", token, handles):
                if token in process.state.pins:
                    inside = self.bring(sender, process, token, handles, is_arguments=False)
                    process.value_of[token[1]] = token
                    self.settle(process, token[1], inside)
                    self.act(to, r.Replied(token))
            case ("ask", token, number):
                if number in process.contents:
                    self.answer(process, number, sender, token)
                elif process.state.lives(number):
                    process.readers.setdefault(number, []).append((sender, token))
                else:
                    self.send(to, sender, ("answer", token, []))
            case ("answer", token, handles):
                handles = self.bring(sender, process, token, handles, is_arguments=False)
                for handle in handles:
                    self.act(to, r.Copied(handle))
                    process.handles.append(handle)
                self.act(to, r.Discarded(token))
                if token in process.asked:
                    self.act(to, r.Dropped(process.asked.pop(token)))
            case r.Kept(token=token, owners=owners):
                self.act(to, r.KeptHeard(sender, token, owners))
            case r.Lend(serial=serial, borrower=borrower, token=token, numbers=numbers):
                self.lender[to, borrower, token] = sender
                self.act(to, r.LendHeard(sender, serial, borrower, token, numbers))
            case r.Lent(serial=serial):
                self.act(to, r.LentHeard(serial))
            case r.Release(token=token):
                self.act(to, r.ReleaseHeard(sender, token))

    def bring(
        self, sender: str, process: Process, token: Token, handles: list[Handle], *, is_arguments: bool
    ) -> list[Handle]:
        self.act(process.name, r.Received(token, tuple(ref for ref, _ in handles), is_arguments))
        found = []
        for ref, support in handles:
            handle = r.handle_of(process.state, token, ref)
            if handle[1][0] != r.OWN or process.state.lives(ref[1]):
                found.append(handle)
                if handle[1][0] != r.OWN:
                    self.parents[process.name, handle[1]] = (sender, support)
                    self.siblings.setdefault((process.name, handle[1]), set()).add(ref)
        return found

    def settle(self, process: Process, number: int, inside: list[Handle]) -> None:
        """The value of an own object is there. If nobody needs the object any more, the value goes at once."""
        if not process.state.lives(number):
            self.act(process.name, r.Discarded(process.value_of.pop(number)))
            return
        process.contents[number] = inside
        for reader, token in process.readers.pop(number, ()):
            self.answer(process, number, reader, token)

    def answer(self, process: Process, number: int, reader: str, token: Token) -> None:
        inside = process.contents[number]
        self.act(process.name, r.Sending(reader, token, tuple(inside)))
        self.send(process.name, reader, ("answer", token, list(inside)))

    # ----------------------------------------------------------------------------------------------------- faults

    def kill(self, name: str) -> None:
        self.processes[name].is_dead = True
        for other in self.processes.values():
            if not other.is_dead:
                self.verdicts.append((other.name, name))

    def judge(self, index: int) -> None:
        """One process hears the verdict: nothing more comes from the dead, nothing goes there."""
        hearer, dead = self.verdicts.pop(index)
        process = self.processes[hearer]
        if process.is_dead:
            return
        for pair in ((hearer, dead), (dead, hearer)):
            self.links[pair] = Link()
        unanswered = [token for token, (worker, _) in process.state.pins.items() if worker == dead]
        self.act(hearer, r.Died(dead))
        for _, number in unanswered:
            if process.state.lives(number):
                process.contents[number] = []  # an error, or made again: here it is the former
                for reader, token in process.readers.pop(number, ()):
                    self.answer(process, number, reader, token)
        for token, handle in tuple(process.asked.items()):
            if handle[0][0] == dead:
                self.act(hearer, r.Dropped(process.asked.pop(token)))

    # ----------------------------------------------------------------------------------------------------- oracle

    def busy(self) -> list[tuple[str, str]]:
        return [
            pair
            for pair, link in self.links.items()
            if link.under_way and not self.processes[pair[0]].is_dead and not self.processes[pair[1]].is_dead
        ]

    def needed(self) -> Iterator[tuple[str, Handle]]:
        """Yield (process, handle) for everything that a user program can still reach."""
        for process in self.processes.values():
            if process.is_dead:
                continue
            for handle in process.handles:
                yield process.name, handle
            for _, _, arguments in process.tasks:
                for handle in arguments:
                    yield process.name, handle
            for inside in process.contents.values():
                for handle in inside:
                    yield process.name, handle

    def is_excused(self, name: str, support: Any) -> bool:
        """Say whether a dead process stood anywhere between the owner and this reference."""
        link: tuple[str, Any] | None = (name, support)
        seen = set()
        while link is not None and link not in seen:
            seen.add(link)
            if self.processes[link[0]].is_dead:
                return True
            link = self.parents.get(link)
        return False

    def check_nothing_live_was_freed(self) -> None:
        for name, ((owner, number), support) in self.needed():
            if self.processes[owner].is_dead or self.is_excused(name, support):
                continue
            state = self.processes[owner].state
            assert state.lives(number), f"{name} refers to {owner}/{number}, which {owner} has freed"

    def calm(self) -> None:
        """Deliver everything and finish every task, then let all user programs run to their ends."""
        for _ in range(10_000):
            while self.verdicts:
                self.judge(0)
            pairs = self.busy()
            for pair in pairs:
                self.deliver(*pair)
            for process in self.processes.values():
                while process.tasks and not process.is_dead:
                    self.finish(process.name, 0, [])
                    pairs.append(("", ""))
            if not pairs:
                return
        raise AssertionError("the world does not calm down")

    def check_nothing_dead_is_kept(self) -> None:
        """Once calm: what is there is what handles reach through values, and no more.

        But for two things that are meant: a handle keeps its siblings, the references of one owner that came in one
        message; and two tasks may return references to each other's results, a cycle that counting never frees.
        """
        alive = [process for process in self.processes.values() if not process.is_dead]
        handles = [(process.name, handle) for process in alive for handle in process.handles]
        reached = self.reachable([ref for name, handle in handles for ref in self.kept_by(name, handle)])
        everything = [(process.name, number) for process in alive for number in process.contents]
        cyclic = [ref for ref in everything if ref in self.reachable(self.inside(ref))]
        reached |= self.reachable(cyclic + self.lent_by_the_dead())
        for process in alive:
            kept = {(process.name, which) for owner, which in process.state.needs if owner == r.OWN}
            assert kept <= reached, f"{process.name} keeps {kept - reached}, which nobody can reach"
            assert not process.state.lending
            assert not process.state.pins
            assert not process.state.early or len(alive) < len(self.processes), "an early release was never matched"

    def lent_by_the_dead(self) -> list[Ref]:
        """Return what stays lent to a borrower that never got the message: its sender died after telling the owner."""
        return [
            (process.name, number)
            for process in self.processes.values()
            for (borrower, token), numbers in process.state.lent.items()
            for number in numbers
            if self.processes[self.lender.get((process.name, borrower, token), process.name)].is_dead
        ]

    def inside(self, ref: Ref) -> list[Ref]:
        owner = self.processes[ref[0]]
        contents = [] if owner.is_dead else owner.contents.get(ref[1], [])
        return [inner for handle in contents for inner in self.kept_by(owner.name, handle)]

    def kept_by(self, name: str, handle: Handle) -> set[Ref]:
        return self.siblings.get((name, handle[1]), set()) | {handle[0]}

    def reachable(self, refs: list[Ref]) -> set[Ref]:
        reached: set[Ref] = set()
        stack = list(refs)
        while stack:
            ref = stack.pop()
            if ref not in reached:
                reached.add(ref)
                stack += self.inside(ref)
        return reached


picks = st.integers(0, 1000)


class Programs(RuleBasedStateMachine):
    """Random programs over links with delay, reordering and cuts."""

    deaths_max = 0

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.deaths = 0

    def living(self, pick: int) -> str:
        names = [process.name for process in self.world.processes.values() if not process.is_dead]
        return names[pick % len(names)]

    def some(self, name: str, chosen: list[int]) -> list[Handle]:
        handles = self.world.processes[name].handles
        return [handles[one % len(handles)] for one in chosen] if handles else []

    @rule(who=picks, inside=st.lists(picks, max_size=2))
    def put(self, who: int, inside: list[int]) -> None:
        name = self.living(who)
        self.world.put(name, self.some(name, inside))

    @rule(who=picks, which=picks)
    def drop(self, who: int, which: int) -> None:
        name = self.living(who)
        handles = self.world.processes[name].handles
        if handles:
            self.world.drop(name, which % len(handles))

    @rule(who=picks, where=picks, arguments=st.lists(picks, max_size=3))
    def call(self, who: int, where: int, arguments: list[int]) -> None:
        name, worker = self.living(who), self.living(where)
        if name != worker and worker not in self.world.processes[name].state.dead:
            self.world.call(name, worker, self.some(name, arguments))

    @rule(who=picks, task=picks, argument=picks)
    def keep(self, who: int, task: int, argument: int) -> None:
        name = self.living(who)
        tasks = self.world.processes[name].tasks
        if tasks:
            self.world.keep(name, task % len(tasks), argument)

    @rule(who=picks, task=picks, result=st.lists(picks, max_size=2), arguments=st.lists(picks, max_size=2))
    def finish(self, who: int, task: int, result: list[int], arguments: list[int]) -> None:
        name = self.living(who)
        tasks = self.world.processes[name].tasks
        if tasks:
            task %= len(tasks)
            own = tasks[task][2]
            returned = self.some(name, result) + ([own[one % len(own)] for one in arguments] if own else [])
            self.world.finish(name, task, returned)

    @rule(who=picks, which=picks)
    def get(self, who: int, which: int) -> None:
        name = self.living(who)
        handles = self.world.processes[name].handles
        if handles:
            self.world.get(name, which % len(handles))

    @rule(link=picks, count=st.integers(1, 4), is_acknowledged=st.booleans())
    def deliver(self, link: int, count: int, is_acknowledged: bool) -> None:
        for _ in range(count):
            pairs = self.world.busy()
            if pairs:
                self.world.deliver(*pairs[link % len(pairs)], is_acknowledged=is_acknowledged)

    @rule(link=picks)
    def cut(self, link: int) -> None:
        pairs = self.world.busy()
        if pairs:
            self.world.links[pairs[link % len(pairs)]].cut()

    @precondition(lambda self: self.deaths < self.deaths_max)
    @rule(who=picks)
    def kill(self, who: int) -> None:
        self.deaths += 1
        self.world.kill(self.living(who))

    @precondition(lambda self: self.world.verdicts)
    @rule(which=picks)
    def judge(self, which: int) -> None:
        self.world.judge(which % len(self.world.verdicts))

    @invariant()
    def nothing_live_was_freed(self) -> None:
        self.world.check_nothing_live_was_freed()

    def teardown(self) -> None:
        self.world.calm()
        self.world.check_nothing_live_was_freed()
        self.world.check_nothing_dead_is_kept()
        for process in self.world.processes.values():
            while process.handles and not process.is_dead:
                self.world.drop(process.name, 0)
        self.world.calm()
        self.world.check_nothing_dead_is_kept()


class ProgramsWithDeaths(Programs):
    """The same, while up to two of the four processes die."""

    deaths_max = 2


PROFILE = settings(max_examples=25, stateful_step_count=40, deadline=None)
TestPrograms = Programs.TestCase
TestPrograms.settings = PROFILE
TestProgramsWithDeaths = ProgramsWithDeaths.TestCase
TestProgramsWithDeaths.settings = PROFILE


# ------------------------------------------------------------------------------------------------- long random worlds


def live(seed: int, *, steps: int, deaths: int) -> World:
    """Run one long program in a small world in which some links are much slower than others."""
    chance = Chance(seed)
    world = World(NAMES[: chance.choice((2, 3, 3, 4))])
    slow = {pair for pair in world.links if chance.random() < 0.4}
    appetite = chance.choice((2, 4, 8))
    for _ in range(steps):
        names = [process.name for process in world.processes.values() if not process.is_dead]
        name = chance.choice(names)
        process = world.processes[name]
        match chance.randrange(12):
            case 0:
                world.put(name, some(chance, process.handles, 2))
            case 1 | 2 | 3:
                while len(process.handles) > chance.randrange(appetite):
                    world.drop(name, chance.randrange(len(process.handles)))
            case 4 | 5:
                worker = chance.choice(names)
                if worker != name and worker not in process.state.dead:
                    world.call(name, worker, some(chance, process.handles, 3))
            case 6 | 7 if process.tasks:
                task = chance.randrange(len(process.tasks))
                arguments = process.tasks[task][2]
                if arguments and chance.random() < 0.5:
                    world.keep(name, task, chance.randrange(len(arguments)))
                world.finish(name, task, some(chance, process.handles, 1) + some(chance, arguments, 1))
            case 8 if process.handles:
                world.get(name, chance.randrange(len(process.handles)))
            case 9 if chance.random() < 0.5 and (pairs := world.busy()):
                world.links[chance.choice(pairs)].cut()
            case 10 if world.verdicts:
                world.judge(chance.randrange(len(world.verdicts)))
            case 11 if deaths and chance.random() < 0.2 and len(names) > 1:
                deaths -= 1
                world.kill(name)
        for pair in world.busy():
            if chance.random() < (0.05 if pair in slow else 0.6):
                world.deliver(*pair, is_acknowledged=chance.random() < 0.7)
        world.check_nothing_live_was_freed()
    return world


def some(chance: Chance, handles: list[Handle], most: int) -> list[Handle]:
    return [chance.choice(handles) for _ in range(chance.randrange(most + 1))] if handles else []


@pytest.mark.parametrize("seed", range(100))
@pytest.mark.parametrize("deaths", [0, 2])
def test_long_program_frees_nothing_live_and_keeps_nothing_dead(seed: int, deaths: int) -> None:
    world = live(seed, steps=250, deaths=deaths)

    world.calm()
    world.check_nothing_live_was_freed()
    world.check_nothing_dead_is_kept()
    for process in world.processes.values():
        while process.handles and not process.is_dead:
            world.drop(process.name, 0)
    world.calm()
    world.check_nothing_dead_is_kept()


# ----------------------------------------------------------------------------------------------- the rules one by one


def settle_all(world: World) -> None:
    while pairs := world.busy():
        world.deliver(*pairs[0])


def test_argument_stays_until_the_reply_and_nobody_is_told() -> None:
    world = World(("a", "b"))
    world.put("a", [])
    world.call("a", "b", [world.processes["a"].handles[0]])
    world.drop("a", 0)
    settle_all(world)
    assert world.freed == []

    world.finish("b", 0, [])
    settle_all(world)

    assert ("a", 1) in world.freed


def test_argument_that_outlives_its_task_is_kept_until_released() -> None:
    world = World(("a", "b"))
    world.put("a", [])
    world.call("a", "b", [world.processes["a"].handles[0]])
    world.drop("a", 0)
    settle_all(world)
    world.keep("b", 0, 0)
    world.finish("b", 0, [])
    settle_all(world)
    assert world.freed == []

    world.drop("b", 0)
    settle_all(world)

    assert ("a", 1) in world.freed


def test_lend_of_a_third_party_is_acknowledged_before_the_lender_lets_go() -> None:
    state = References("lender")
    handle = (("owner", 1), ("owner", ("lender", 1)))
    react(state, r.Received(("lender", 1), (("owner", 1),)))

    lends = react(state, r.Sending("borrower", ("borrower", 5), (handle,)))
    nothing = react(state, r.Discarded(("lender", 1)))
    after = react(state, r.LentHeard(1))

    assert lends == [r.Lend("owner", 1, "borrower", ("borrower", 5), (1,))]
    assert nothing == []
    assert after == [r.Release("owner", ("lender", 1))]


def test_release_that_overtakes_the_lend_is_remembered() -> None:
    state = References("owner")
    react(state, r.Made(1))
    react(state, r.ReleaseHeard("borrower", ("borrower", 5)))

    react(state, r.LendHeard("lender", 1, "borrower", ("borrower", 5), (1,)))
    commands = react(state, r.Dropped((("owner", 1), (r.OWN, 1))))

    assert commands == [r.Free(1)]
    assert not state.early


def test_death_of_a_borrower_frees_what_it_held() -> None:
    state = References("owner")
    react(state, r.Made(1))
    react(state, r.Sending("borrower", ("borrower", 1), ((("owner", 1), (r.OWN, 1)),)))
    react(state, r.Dropped((("owner", 1), (r.OWN, 1))))

    assert react(state, r.Died("borrower")) == [r.Free(1)]
    react(state, r.LendHeard("lender", 1, "borrower", ("borrower", 2), (1,)))
    assert state.lent == {}


def test_long_chain_of_values_is_freed_without_recursion() -> None:
    state = References("a")
    react(state, r.Made(0))
    for number in range(1, 20_000):
        inner = (("a", number - 1), (r.OWN, number - 1))
        react(state, r.Made(number, (inner,)))
        react(state, r.Dropped(inner))

    freed = react(state, r.Dropped((("a", 19_999), (r.OWN, 19_999))))

    assert len(freed) == 20_000


def test_cut_link_loses_and_doubles_nothing() -> None:
    link = Link()
    for number in range(5):
        link.send(number)

    heard = [link.take(is_acknowledged=True), link.take(is_acknowledged=False)]
    link.cut()
    while link.under_way:
        heard.append(link.take(is_acknowledged=True))

    assert [one for one in heard if one is not None] == [0, 1, 2, 3, 4]
    assert len(link.outgoing) == 0


def test_gap_is_a_bug() -> None:
    incoming = Incoming()
    incoming.accept(1)

    with pytest.raises(AssertionError, match="message 3 after 1"):
        incoming.accept(3)
