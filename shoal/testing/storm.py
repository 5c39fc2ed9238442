"""Storms: seeded worlds in which everything goes wrong for a quarter of an hour, then nothing; then the invariants.

A seed decides policy, work, faults, kills, head restarts, cut networks and lost ledgers; then it plays the drills, each
with one danger at a moment of its choice. `python -m shoal.testing.storm --seeds 10000` runs many seeds, `--seed 8713`
one with its story, `--bugs` plants each known bug in turn and counts the seeds that find it.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import msgspec

from shoal.foundation.chance import Chance
from shoal.model.demand import Strategy
from shoal.model.policy import Budget, Deadlines, NodeType, Policy
from shoal.providers.sim.faults import CALM, Faults
from shoal.testing import (
    builders,
    drills,
    drills_buying,
    drills_keeping,
    drills_owning,
    invariants,
    mutations,
    planted_facts,
    planted_orders,
    planted_plans,
    sim_time,
)
from shoal.testing.drills import settle
from shoal.testing.world import World

_REGISTERED = (drills_buying, drills_keeping, drills_owning, planted_facts, planted_orders, planted_plans)
"""What these modules hold registers itself when they are imported."""

STORM_S = 900.0
LULL_EVERY_S, LULL_S = 300.0, 120.0
SERVED_WITHIN_S = 3 * 3600.0
EMPTY_WITHIN_S = 2 * 3600.0
EVER_S = STORM_S + 2 * (SERVED_WITHIN_S + EMPTY_WITHIN_S)
BOOTED_WITHIN_S = 60
FOUND_LEAST = 0.95
"""Share of the seeds that must find a planted bug."""
BOOT_S = 100.0
"""How long a boot may take."""


WILD = "wild"
"""The name of the part in which everything happens at once; the others are the drills."""


class Outcome(msgspec.Struct, frozen=True):
    """How one storm ended: nothing wrong, or what and in which part; `story` only where asked for."""

    seed: int
    wrong: tuple[str, ...]
    story: str = ""
    simulated_s: float = 0.0
    kills: int = 0
    part: str = WILD
    """The part that went wrong; the wild one if none did."""
    injected: dict[str, int] = {}
    """How often each fault has struck."""


def storm(seed: int, *, bug: str = "", story: bool = False, first: str = "") -> Outcome:
    """Run one seed in virtual time, with a bug planted where named; stop at the first part that goes wrong.

    `first` is the part to begin with: the order changes nothing but how soon a planted bug is found.
    """
    injected: Counter[str] = Counter()
    whole: Outcome | None = None
    with mutations.planted(bug):
        for part in sorted((*drills.DRILLS, WILD), key=lambda name: name != first):
            if part == WILD:
                whole = outcome = sim_time.run(wild(seed, story))
            else:
                ended = drills.run(part, seed, story=story)
                outcome = Outcome(seed, ended.wrong, ended.story, part=part, injected=ended.injected)
            injected.update(outcome.injected)
            if outcome.wrong:
                return outcome
    assert whole is not None, "the wild part is one of the parts"
    return msgspec.structs.replace(whole, injected=dict(injected))


def policy_of(chance: Chance) -> Policy:
    """Return a seed's policy: limits, budget and patience differ."""
    deadlines = Deadlines(requested_s=60.0, booting_s=BOOT_S, draining_s=120.0, lost_s=100.0)
    most = chance.choice((8, 10, 14))
    types = tuple(
        NodeType(
            name=name,
            provider="sim",
            max_workers=chance.choice((4, 10, 50)) if name != "s16" else 50,
            min_up_s=chance.choice((0.0, 20.0)),
            markets=("on-demand", "spot") if chance.random() < 0.5 else ("on-demand",),
            deadlines=deadlines,
        )
        for name in ("s2", "s4", "s16", "g8")
    )
    budget = Budget(usd_per_hour_max=chance.choice((1.6, 2.2, 3.0)))
    return builders.policy(
        node_types=types,
        max_workers=most,
        idle_timeout_s=chance.choice((5.0, 15.0)),
        flap_s=chance.choice((0.0, 20.0)),
        budget=budget,
        gang_hold_s=200.0,
        gc_age_s=60.0,
        health=msgspec.structs.replace(builders.policy().health, ttl_most_s=300.0, breaker_most_s=300.0),
    )


def faults_of(chance: Chance) -> Faults:
    """Return a seed's faults: all that a strict cloud commits, each as strong as the seed says."""
    most = {
        "no_capacity": (0.05, 0.3),
        "late_refusal": (0.02, 0.2),
        "throttle": (0.2, 0.4),
        "lost_reply": (0.25, 0.45),
        "lost_request": (0.1, 0.25),
        "duplicate": (0.05, 0.3),
        "short_list": (0.5, 0.75),
        "list_error": (0.0, 0.3),
        "part_only": (0.05, 0.4),
        "never_join": (0.12, 0.25),
        "smaller": (0.0, 0.2),
        "debris": (0.4, 0.7),
        "halts_per_h": (2.0, 6.0),
        "vanishes_per_h": (2.0, 6.0),
        "interruptions_per_h": (0.5, 5.0),
        "slow_boot": (0.0, 0.1),
    }
    chosen = {name: round(chance.uniform(low, high), 3) for name, (low, high) in most.items()}
    if chance.random() < 0.02:
        chosen["price_changes_per_h"] = 5.0
    if chance.random() < 0.04:
        chosen["hidden"] = 0.2
    return Faults(**chosen)


async def wild(seed: int, with_story: bool = False) -> Outcome:
    """Run the wild part of a seed, inside a loop of virtual time."""
    chance = Chance(f"storm/{seed}")
    world = World(
        seed,
        policy=policy_of(chance.split("policy")),
        faults=faults_of(chance.split("faults")),
        crashes=chance.choice((0.002, 0.006, 0.015)),
        boot_s=(5.0, 45.0),
        listing_lag_s=chance.choice((10.0, 30.0)),
        publish_every_s=(5.0, 30.0),
        dies_in_calls=True,
    )
    world.head.late_grants = 0.8
    wrong: list[str] = []
    try:
        wrong = await _stir(world, chance.split("deeds"))
        if not wrong:
            await _last_gust(world)
            world.cloud.faults, world.crashes, world.head.late_grants = CALM, 0.0, 0.0
            wrong = invariants.while_stormy(world)
        if not wrong:
            await _settle(world)
            wrong = invariants.once_calm(world)
        if not wrong:
            wrong = await _encore(world)
    except sim_time.Deadlock as error:
        wrong.append(f"deadlock: {error}")
    except mutations.CALLER_ERRORS as error:
        wrong.append(f"{type(error).__name__}: {error}")
    await world.stop()
    world.cloud.close()
    story = world.story if with_story else ""
    return Outcome(seed, tuple(wrong), story, world.clock.monotonic_s(), world.kills, injected=dict(world.injected))


async def _stir(world: World, chance: Chance) -> list[str]:
    """Let work come and things go wrong for the length of the storm; return early with what is wrong already."""
    serial = 0
    while (now_s := world.clock.monotonic_s()) < STORM_S:
        draw = chance.random()
        is_lull = now_s % LULL_EVERY_S > LULL_EVERY_S - LULL_S or now_s > STORM_S - 120
        if draw < 0.62 and is_lull:
            pass  # no new work for a while, so that machines go and must come again
        elif draw < 0.45:
            shape = chance.choice(({"cpu": 1}, {"cpu": 2}, {"cpu": 3}, {"cpu": 1, "gpu": 1}, {"cpu": 10}))
            duration_s = chance.choice((5.0, 20.0, 90.0))
            world.submit(shape, chance.choice((1, 3, 12)), duration_s, known=chance.random() < 0.5)
        elif draw < 0.55:
            serial += 1
            bundles = [{"cpu": chance.choice((1, 2))}] * chance.choice((2, 4))
            strategy = chance.choice((Strategy.PACK, Strategy.STRICT_SPREAD, Strategy.STRICT_PACK))
            world.submit_gang(f"g{serial}", bundles, chance.choice((20.0, 90.0)), strategy)
        elif draw < 0.62:
            world.request("owner", [{"cpu": 2}] * chance.choice((0, 1, 3)), ttl_s=chance.choice((60.0, 300.0)))
        elif draw < 0.68 and world.head.is_up:
            world.head.restart(chance.choice((2.0, 20.0)))
        elif draw < 0.84 and world.head.nodes:
            world.cut(chance.choice(sorted(world.head.nodes)), chance.choice((5.0, 60.0, 60.0, 300.0)))
        elif draw < 0.87:
            await world.kill(chance.choice((0.5, 30.0)))
        elif draw < 0.871:
            await world.kill(None)
            world.lose_ledger()
            world.start()
        await world.run_for(chance.expovariate(1 / 10.0))
        if world.violations or world.head.forgotten_busy:
            return invariants.while_stormy(world)
    return []


async def _last_gust(world: World) -> None:
    """Let machines boot that never join, and every node fall silent at once and come back, with work on it."""
    world.cloud.faults = msgspec.structs.replace(
        world.cloud.faults, never_join=0.7, no_capacity=0.0, throttle=0.05, halts_per_h=0.0, vanishes_per_h=0.0
    )
    world.submit({"cpu": 2}, 10, 90.0)
    await world.run_for(70.0)
    for name in sorted(world.head.nodes):
        world.cut(name, 60.0)
    await world.run_for(1.0)


async def _encore(world: World) -> list[str]:
    """Play what every seed shall see, one thing at a time, in a world where nothing else goes wrong.

    A boot without end while listings are short, work that must be bought for once only, a node that is cut off and
    comes back, one that ends while it works, demand beyond the budget, and leases granted just before each drain;
    then everything is served and gone.
    """
    wrong: list[str] = []
    world.cloud.boot_s = (25.0, 45.0)
    world.cloud.faults = msgspec.structs.replace(CALM, never_join=1.0)
    world.submit({"cpu": 2}, 1, 20.0)
    await world.run_for(30.0)
    world.cloud.faults = msgspec.structs.replace(CALM, short_list=1.0)
    world.provider.short_share = 0.0
    for _ in range(int(BOOT_S) + 30):
        await world.run_for(1.0)
        wrong += [one for one in invariants.nothing_closed_exists(world) if one not in wrong]
    world.cloud.faults = CALM
    await world.run_for(30.0)
    wrong += invariants.no_wait_without_end(world, slack_s=30.0)
    await _settle(world)

    world.submit({"cpu": 2}, 2, 150.0)
    most = 0
    for _ in range(BOOTED_WITHIN_S):
        await world.run_for(1.0)
        most = max(most, len(world.machines()))
        if world.head.running or most > 2:
            break
    if most > 2:
        wrong.append(f"{most} machines were bought for two tasks")
    for name in sorted(world.head.nodes)[:1]:
        world.cut(name, 60.0)
    await world.run_for(90.0)
    wrong += invariants.nothing_in_contact_is_lost(world)
    await world.run_for(110.0)
    world.submit({"cpu": 2}, 2, 60.0)
    await world.run_for(BOOTED_WITHIN_S)
    for machine in [one for one in world.machines() if one.is_running][:1]:
        world.cloud.vanish(machine.name)
    for _ in range(2):
        world.submit({"cpu": 10}, 5, 60.0)
        await world.run_for(5.0)
    while not world.head.is_idle and world.clock.monotonic_s() < EVER_S:
        await world.run_for(10.0)
    world.head.late_grants = 1.0
    await world.run_for(60.0)
    world.head.late_grants = 0.0
    await _settle(world)
    return wrong + invariants.once_calm(world)


async def _settle(world: World) -> None:
    """Give the calm world the time it needs: all work done, then all machines gone."""
    await settle(world, SERVED_WITHIN_S, EMPTY_WITHIN_S)


@click.command()
@click.option("--seeds", default=100, help="How many seeds to run.")
@click.option("--first", default=0, help="The first seed.")
@click.option("--seed", type=int, default=None, help="Run this seed only and print its story.")
@click.option("--processes", default=1, help="How many processes to use.")
@click.option("--bugs", is_flag=True, help="Plant each known bug and count the seeds that find it.")
@click.option("--bug", default="", help="Plant this bug.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Keep what was counted in this JSON file.")
def main(seeds: int, first: int, seed: int | None, processes: int, bugs: bool, bug: str, out: Path | None) -> None:
    """Run storms. Exits with 1 if any seed finds something wrong (with --bugs: if a bug escapes too often)."""
    if bug and bug not in mutations.BUGS:
        raise click.BadParameter(f"no bug `{bug}`; there are {', '.join(mutations.BUGS)}", param_hint="--bug")
    if seed is not None:
        outcome = storm(seed, bug=bug, story=True)
        click.echo(outcome.story)
        for wrong in outcome.wrong:
            click.echo(wrong)
        raise SystemExit(1 if outcome.wrong else 0)
    numbers = range(first, first + seeds)
    began_s = time.monotonic()
    with _Runner(processes) as runner:
        if bugs:
            found = _table(numbers, runner)
            kept: dict[str, object] = {"seeds_that_find": found}
            is_well = min(found.values()) >= FOUND_LEAST * len(numbers)
        else:
            outcomes = list(runner.run(numbers, bug))
            failed = [one for one in outcomes if one.wrong]
            for outcome in failed[:20]:
                click.echo(f"make storm SEED={outcome.seed}: {outcome.wrong[0]}")
            click.echo(f"{seeds} seeds, {len(failed)} failed, {time.monotonic() - began_s:.1f} s")
            injected = sum((Counter(one.injected) for one in outcomes), Counter())
            click.echo("faults that struck: " + ", ".join(f"{name} {injected[name]}" for name in sorted(injected)))
            kept = {"failed": [one.seed for one in failed], "injected": dict(injected)}
            is_well = not failed
    if out is not None:
        _keep(out, {"seeds": [numbers.start, numbers.stop - 1], **kept})
    raise SystemExit(0 if is_well else 1)


class _Runner:
    """Runs seeds one after another, or in several processes."""

    def __init__(self, processes: int) -> None:
        self._pool = ProcessPoolExecutor(processes) if processes > 1 else None

    def __enter__(self) -> _Runner:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(self, numbers: Sequence[int], bug: str, first: str = "") -> Iterator[Outcome]:
        """Yield the outcome of each seed, in their order."""
        jobs = [(number, bug, first) for number in numbers]
        yield from map(_one, jobs) if self._pool is None else self._pool.map(_one, jobs, chunksize=4)


def _one(job: tuple[int, str, str]) -> Outcome:
    number, bug, first = job
    return storm(number, bug=bug, first=first)


def _table(numbers: Sequence[int], runner: _Runner) -> dict[str, int]:
    """Print and return for each planted bug how many of the seeds find it."""
    counts: dict[str, int] = {}
    for name in mutations.BUGS:
        # Whatever part finds it in one seed is asked first in the others.
        (first,) = runner.run(numbers[:1], name)
        outcomes = [first, *runner.run(numbers[1:], name, first.part if first.wrong else "")]
        counts[name] = sum(1 for one in outcomes if one.wrong)
        example = next((one.wrong[0] for one in outcomes if one.wrong), "")
        click.echo(f"{name:40} {counts[name]:4} of {len(numbers)}   {example[:110]}")
    return counts


def _keep(out: Path, what: Mapping[str, object]) -> None:
    """Write the counts with the commit they hold for; an older file's other counts stay."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    before = json.loads(out.read_text()) if out.exists() else {}
    out.write_text(json.dumps({**before, "commit": commit.stdout.strip(), **what}, indent=1) + "\n")


__all__ = ["FOUND_LEAST", "WILD", "Outcome", "main", "storm", "wild"]

if __name__ == "__main__":
    main()
