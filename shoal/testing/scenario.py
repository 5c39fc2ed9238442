"""Scenario files: commands to a `World` and the story that must follow, in one text that people read.

    # A capacity error tries the next offer at once.
    > world types=s2 seed=1
    > limit s2/z1 0
    > submit 1 x cpu=2 for 30
    > run 60
          0 s  #1 wanted: s2 in z2, $0.1/h
      ...

A line beginning with `> ` is a command; the indented lines after it are what happened during it. Instances are shown
by their serial numbers, times to 10 s. `python -m shoal.testing.scenario FILE...` checks files, with `--accept` it
rewrites them.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from shoal.foundation.eventlog import Event, Kind
from shoal.model.demand import Strategy
from shoal.model.offer import MICRO, ON_DEMAND, OfferKey, offer_key
from shoal.model.policy import Budget, NodeType, Thinking
from shoal.providers.sim.faults import Faults, SimQuota
from shoal.testing import builders, invariants, sim_time
from shoal.testing.world import World

_PROMPT = "> "


def played(text: str) -> str:
    """Return the text with the story that really follows each of its commands.

    Raises:
        ValueError: a command is not known or not complete; the message names it.
    """
    return sim_time.run(_play(text))


async def _play(text: str) -> str:
    lines: list[str] = []
    stage = _Stage()
    for line in text.splitlines():
        if line.startswith(_PROMPT):
            lines.append(line)
            try:
                shown = await stage.obey(shlex.split(line.removeprefix(_PROMPT)))
            except (ValueError, KeyError, IndexError, StopIteration) as error:
                raise ValueError(f"`{line}`: {type(error).__name__}: {error}") from error
            lines.extend(f"  {one}" for one in shown)
        elif not line.startswith("  "):
            lines.append(line)
    await stage.end()
    return "\n".join(lines).rstrip() + "\n"


class _Stage:
    """One scenario's world, and the commands that drive it."""

    def __init__(self) -> None:
        self._built: World | None = None
        self._seen = 0

    @property
    def world(self) -> World:
        if self._built is None:
            self._built = _world({})
        return self._built

    async def obey(self, words: list[str]) -> list[str]:
        """Do one command and return what it shows: its own answer, then the story since the last one."""
        verb, rest = words[0], words[1:]
        command: Callable[[list[str]], Any] = getattr(self, f"_{verb}", self._unknown)
        answer = command(rest)
        if hasattr(answer, "__await__"):
            answer = await answer
        return [*story(self._fresh_events()), *(answer or [])]

    async def end(self) -> None:
        """Stop the autoscaler and the cloud."""
        await self.world.stop()
        self.world.cloud.close()

    def _fresh_events(self) -> list[Event]:
        events = list(self.world.log.events)[self._seen :]
        self._seen += len(events)
        return events

    # setting the stage

    def _world(self, words: list[str]) -> None:
        self._built = _world(_options(words))

    def _fault(self, words: list[str]) -> None:
        self.world.cloud.faults = msgspec.convert(
            {name: float(value) for name, value in _options(words).items()}, Faults
        )

    def _limit(self, words: list[str]) -> None:
        for key in self._offers(words[0]):
            cloud = self.world.cloud
            cloud.offers[key] = msgspec.structs.replace(cloud.offers[key], limit=int(words[1]))

    def _price(self, words: list[str]) -> None:
        for key in self._offers(words[0]):
            self.world.cloud.set_price(key, float(words[1]))

    def _policy(self, words: list[str]) -> None:
        changes = _policy_fields(_options(words))
        self.world.policy = msgspec.structs.replace(self.world.policy, **changes)
        if self.world.autoscaler is not None:
            self.world.autoscaler.set_policy(self.world.policy)

    # work

    def _submit(self, words: list[str]) -> None:
        """`submit 10 x cpu=2 for 30 [known]`."""
        count, shape, rest = _counted(words)
        self.world.submit(
            shape, count, _duration(rest), known="known" in rest, kind="actor" if "actor" in rest else "task"
        )

    def _gang(self, words: list[str]) -> None:
        """`gang g1 4 x cpu=2 STRICT_SPREAD for 60`."""
        count, shape, rest = _counted(words[1:])
        strategy = next((Strategy(word) for word in rest if word in list(Strategy)), Strategy.PACK)
        self.world.submit_gang(words[0], [shape] * count, _duration(rest), strategy)

    def _remove(self, words: list[str]) -> None:
        self.world.head.remove_gang(words[0])

    def _finish(self, words: list[str]) -> None:
        for key in list(self.world.head.pending):
            self.world.head.finish(key)

    def _request(self, words: list[str]) -> None:
        """`request owner 3 x cpu=2 [ttl 60]`, `request owner none`."""
        if words[1] == "none":
            self.world.request(words[0], [])
            return
        count, shape, rest = _counted(words[1:])
        ttl_s = float(rest[rest.index("ttl") + 1]) if "ttl" in rest else None
        self.world.request(words[0], [shape] * count, ttl_s)

    # time and trouble

    async def _run(self, words: list[str]) -> list[str] | None:
        """`run 60`, `run until empty within 600`, `run until served within 300`, `run until joined within 90`."""
        if words[0] != "until":
            await self.world.run_for(float(words[0]))
            return None
        world, within_s = self.world, float(words[words.index("within") + 1])
        conditions: dict[str, Callable[[], bool]] = {
            "served": lambda: not world.waiting,
            "done": lambda: world.head.is_idle,
            "empty": lambda: not world.machines() and bool(world.ledger and not world.ledger.instances),
            "joined": lambda: bool(world.head.nodes),
        }
        began_s = world.clock.monotonic_s()
        try:
            await world.run_until(conditions[words[1]], within_s)
        except AssertionError:
            return [f"not {words[1]} within {within_s:g} s"]
        took_s = world.clock.monotonic_s() - began_s
        return [f"{words[1]} after about {round(took_s, -1):.0f} s"]

    async def _kill(self, words: list[str]) -> None:
        """`kill`, `kill 30`: how long it stays dead; `kill none`: for good."""
        await self.world.kill(None if words == ["none"] else float(words[0]) if words else 1.0)

    async def _lose(self, words: list[str]) -> None:
        """`lose ledger`: the file is deleted while the autoscaler is dead."""
        await self.world.kill(None)
        self.world.lose_ledger()
        self.world.start()

    def _head(self, words: list[str]) -> None:
        """`head restart 5`; `head down 1500`, during which machines without contact end themselves."""
        (self.world.head_down if words[0] == "down" else self.world.head.restart)(float(words[1]))

    def _late(self, words: list[str]) -> None:
        """`late 1`: the chance that an agent grants a lease of its own just before a drain reaches it."""
        self.world.head.late_grants = float(words[0])

    def _cut(self, words: list[str]) -> None:
        """`cut #1 for 60`, `cut all for 60`."""
        names = sorted(self.world.head.nodes) if words[0] == "all" else [self._instance(words[0])]
        for name in names:
            self.world.cut(name, float(words[2]))

    def _interrupt(self, words: list[str]) -> None:
        self.world.cloud.interrupt(self._machine(words[0]), float(words[2]) if len(words) > 2 else 120.0)

    def _halt(self, words: list[str]) -> None:
        self.world.cloud.halt(self._machine(words[0]))

    def _vanish(self, words: list[str]) -> None:
        self.world.cloud.vanish(self._machine(words[0]))

    # looking

    def _show(self, words: list[str]) -> list[str]:
        """`show machines | kept | debris | spend | waiting | unmet | report | wrong`."""
        world = self.world
        match words[0]:
            case "machines":
                there = sorted(world.machines(), key=lambda one: one.name)
                return [f"#{_serial(one.instance_id)} {one.offer.machine_type} {one.phase}" for one in there] or [
                    "none"
                ]
            case "spend":
                spent = (world.ledger.spent_micro() if world.ledger else 0) / MICRO
                return [f"${spent:.3f} spent, ${world.cloud.bill_usd(world.uid):.3f} billed"]
            case "waiting":
                return [f"{world.waiting} wait, {world.head.finished} finished"]
            case "unmet":
                unmet = world.autoscaler.plan.unmet if world.autoscaler else ()
                return [f"{_class(one.demand)} x {one.count}: {one.verdict}" for one in unmet] or ["none"]
            case "kept":
                kept = world.autoscaler.plan.kept if world.autoscaler else ()
                return [f"#{_serial(one.instance_id)} stays: {one.why}" for one in kept] or ["nothing idle stays"]
            case "debris":
                return sorted(world.cloud.debris) or ["none"]
            case "why":
                report = world.autoscaler.report() if world.autoscaler else None
                return [
                    f"waiting for {report.waiting_for}" if report and report.waiting_for else "nothing is waited for"
                ]
            case "launches":
                return [f"{world.cloud.launches} launch requests"]
            case "wrong":
                return invariants.while_stormy(world) or ["nothing"]
        raise ValueError(f"cannot show `{words[0]}`")

    def _unknown(self, words: list[str]) -> None:
        raise ValueError("no such command")

    def _instance(self, shown: str) -> str:
        serial = int(shown.removeprefix("#"))
        return next(one for one in self.world.head.nodes if _serial(one) == serial)

    def _machine(self, shown: str) -> str:
        serial = int(shown.removeprefix("#"))
        return next(one.name for one in self.world.machines() if _serial(one.instance_id) == serial)

    def _offers(self, shown: str) -> list[OfferKey]:
        """Return the offers that `s2`, `s2/z1` or `s2/z1/spot` names."""
        wanted = shown.split("/")
        found = [
            key
            for key in self.world.cloud.offers
            if all(part in (key.machine_type, key.zone, key.market) for part in wanted)
        ]
        if not found:
            raise ValueError(f"no offer `{shown}`")
        return found


def story(events: list[Event]) -> Iterator[str]:
    """Yield the events as lines for people; what happened to several instances within 10 s is one line.

    Times are told to 10 s: a story is about what follows from what, not about fractions.
    """
    lines: dict[tuple[float, str], list[int]] = {}
    for event in events:
        told = _told(event)
        if told is None:
            continue
        serials, text = told
        at_s = (event.at_s - _WALL_START_S) // _COARSE_S * _COARSE_S
        lines.setdefault((at_s, text), []).extend(serials)
    for (at_s, text), serials in lines.items():
        yield f"{at_s:5.0f} s  " + (f"{_shown(serials)} {text}" if serials else text)


def _told(event: Event) -> tuple[list[int], str] | None:
    fields = event.fields
    match event.kind:
        case Kind.INSTANCE_WANTED:
            key = offer_key(fields["offer"])
            price = "$?" if fields["price"] is None else f"${fields['price'] / MICRO:.4g}/h"
            market = "" if key.market == ON_DEMAND else f" {key.market}"
            return [_serial(fields["instance"])], f"wanted: {key.machine_type}{market} in {key.zone}, {price}"
        case Kind.INSTANCE_STATE if fields["after"] != "requested":
            return (
                [_serial(fields["instance"])],
                f"{fields['before']} -> {fields['after']} ({fields['cause']})",
            )
        case Kind.LAUNCH_ANSWERED if fields["outcome"] != "accepted" or fields["error"]:
            serials = [_serial(one) for one in fields["instances"]]
            return serials, f"launch {fields['outcome']}: {fields['code']}"
        case Kind.LAUNCH_CALLED if fields["again"]:
            return [_serial(one) for one in fields["instances"]], "launch called again"
        case Kind.DEMAND_UNMET:
            return [], f"unmet: {_class(fields['demand'])}: {fields['verdict']}"
        case Kind.BUDGET_REACHED:
            return [], f"the budget is reached: {fields['why']}"
        case Kind.NOTICE:
            return [_serial(fields["instance"])], f"notice: {fields['what']} in {fields['deadline_s']:.0f} s"
        case Kind.INSTANCE_ADOPTED:
            return [_serial(fields["instance"])], "adopted"
        case Kind.BREAKER_OPENED:
            return [], f"breaker of {fields['node_type']} opened: {fields['cause']}"
        case Kind.FLAP_FROZEN:
            return [], f"idle drain of {fields['node_type']} is frozen"
        case Kind.BREAKER_CLOSED:
            return [], f"breaker of {fields['node_type']} closed"
        case Kind.PRICE_CHANGED:
            return [], f"price of {fields['offer']} is ${fields['after'] / MICRO:.4g}/h"
        case Kind.CLUSTER_ENDING | Kind.ALARM:
            return [], f"{event.kind.value.replace('_', ' ')}: {fields.get('what', '')} {fields['why']}".replace(
                ":  ", ": "
            )
        case Kind.HEAD_STARTED:
            return [], "the head is back and settles"
        case Kind.PROCESS_DIED:
            return [], "the autoscaler dies"
    return None


def _world(options: dict[str, str]) -> World:
    types = options.pop("types", "s2,s4,s16,g8").split(",")
    markets = tuple(options.pop("markets", ON_DEMAND).split(","))
    most = int(options.pop("type_max", "50"))
    least = int(options.pop("min", "0"))
    quota = options.pop("quota_cpu", "")
    fields = _policy_fields(options)
    policy = builders.policy(
        node_types=tuple(
            NodeType(
                name=name,
                provider="sim",
                max_workers=most,
                min_workers=least if name == types[0] else 0,
                markets=markets,
            )
            for name in types
        ),
        thinking=Thinking(effort_fixed=0),
        **fields,
    )
    quotas = (SimQuota(name="cpus", limit=int(quota), weights={"s2": 2, "s4": 4, "s16": 16, "g8": 8}),) if quota else ()
    boot_s = float(options.pop("boot", "30"))
    return World(
        int(options.pop("seed", "1")),
        policy=policy,
        quotas=quotas,
        boot_s=(boot_s, boot_s),
    )


def _policy_fields(options: dict[str, str]) -> dict[str, Any]:
    """Take the options that are the policy's out of `options`."""
    names = {
        "max": ("max_workers", int),
        "idle": ("idle_timeout_s", float),
        "flap": ("flap_s", float),
        "hold": ("gang_hold_s", float),
        "cluster_idle": ("cluster_idle_s", float),
        "lifetime": ("lifetime_s", float),
        "width": ("width", str),
        "gc_age": ("gc_age_s", float),
    }
    fields: dict[str, Any] = {}
    for name, (field, convert) in names.items():
        if name in options:
            fields[field] = convert(options.pop(name))
    if "usd_per_hour" in options or "usd_total" in options:
        hour, total = options.pop("usd_per_hour", ""), options.pop("usd_total", "")
        fields["budget"] = Budget(
            usd_per_hour_max=float(hour) if hour else None, usd_total_max=float(total) if total else None
        )
    return fields


def _options(words: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words)


def _counted(words: list[str]) -> tuple[int, dict[str, float], list[str]]:
    """Take `10 x cpu=2 gpu=1` from the front; return count, shape and the rest."""
    if len(words) < 3 or words[1] != "x":
        raise ValueError("expected `COUNT x NAME=AMOUNT ...`")
    shape: dict[str, float] = {}
    place = 2
    while place < len(words) and "=" in words[place]:
        name, _, amount = words[place].partition("=")
        shape[name] = float(amount)
        place += 1
    return int(words[0]), shape, words[place:]


def _duration(words: list[str]) -> float | None:
    if "for" not in words:
        return 30.0
    shown = words[words.index("for") + 1]
    return None if shown == "ever" else float(shown)


def _serial(instance_id: str) -> int:
    return int(instance_id.rpartition("-")[2])


def _class(key: str) -> str:
    """Return a class key for people: `CPU=20000/30.0/task` is `cpu=2`."""
    if "=" not in key:
        return key
    parts = [part.split("=") for part in key.split("/")[0].split(",")]
    return ",".join(f"{name.lower()}={int(amount) / 10_000:g}" for name, amount in parts)


def _shown(serials: list[int]) -> str:
    """Return `#1 #2 #3 #7` as `#1-3,7`."""
    runs: list[list[int]] = []
    for serial in sorted(set(serials)):
        if runs and serial == runs[-1][-1] + 1:
            runs[-1].append(serial)
        else:
            runs.append([serial])
    return "#" + ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


_COARSE_S = 10.0
_WALL_START_S = 1_767_225_600.0


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--accept", is_flag=True, help="Rewrite the files with what really happens.")
def main(files: tuple[Path, ...], accept: bool) -> None:
    """Check scenario FILES. Exits with 1 if one tells another story than the code."""
    failed = 0
    for file in files:
        expected = file.read_text()
        real = played(expected)
        if real == expected:
            continue
        if accept:
            file.write_text(real)
            click.echo(f"rewrote {file}")
        else:
            failed += 1
            click.echo(f"{file}: another story; `--accept` rewrites it", err=True)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
