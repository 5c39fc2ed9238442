"""The local provider keeps the ten rules with real process groups, and survives what kills its callers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shoal.foundation.amounts import amounts
from shoal.foundation.clock import SystemClock
from shoal.foundation.errors import Outcome, UnknownOutcome
from shoal.guard import processes
from shoal.guard.lock import lock_holder
from shoal.model.launch import Answer, Launch, Phase
from shoal.model.policy import NodeType
from shoal.providers.local import translate
from shoal.providers.local.provider import LocalProvider, LocalSettings
from shoal.providers.protocol import Ticket
from shoal.testing.contract import UID, Bench, ProviderContract, is_there
from shoal.transport import discovery
from shoal.wire.hello import Role, fresh_secret

SMALL = NodeType(name="small", provider="local", resources=amounts({"CPU": 0.1}), max_workers=9)
OTHER = NodeType(name="other", provider="local", resources=amounts({"CPU": 0.2}), max_workers=9)
STAND_IN = (sys.executable, "-S", "-c", "import time; time.sleep(300)")


def provider_in(place: Path, *, cpus: float = 2.0, uid: str = UID) -> LocalProvider:
    """Return a provider whose machines run a process that does nothing, instead of an agent."""
    folder = place / uid[-4:]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = folder / "node.secret"
    if not secret.exists():
        discovery.save_secret(folder, Role.NODE, fresh_secret(), uid)
    return LocalProvider(
        SystemClock(),
        LocalSettings(
            uid=uid,
            directory=folder,
            secret_file=secret,
            log_dir=folder / "logs",
            sockets=folder,
            node_types=(SMALL, OTHER),
            oversubscribe=cpus / (os.cpu_count() or 1),
            agent_command=STAND_IN,
        ),
    )


def ticket(token: str, names: tuple[str, ...], kind: str = "small") -> Ticket:
    return Ticket(
        cluster_uid=UID,
        cluster_name="contract",
        epoch=1,
        token=token,
        instance_ids=names,
        node_type=kind,
        attempt=1,
        head_address="unix:/nowhere.sock",
        join_secret=f"secret of {token}",
    )


async def all_gone(provider: LocalProvider) -> None:
    """Release everything until nothing is listed."""
    async with asyncio.timeout(20):
        while (listing := await provider.machines()).machines or listing.debris:
            await provider.release([one.name for one in (*listing.machines, *listing.debris)])
            await asyncio.sleep(0.02)


class TestLocal(ProviderContract):
    @pytest.fixture(autouse=True)
    def _place(self, own_places: Path) -> None:
        self.place = own_places / "machines"

    @asynccontextmanager
    async def bench(self) -> AsyncIterator[Bench]:
        provider = provider_in(self.place)
        stranger = provider_in(self.place, uid="beef" * 8)

        def request(token: str, names: tuple[str, ...]) -> bytes:
            return provider.render(ticket(token, names), SMALL, translate.offer_key("small"))

        def limit(count: int) -> None:
            provider._settings = provider_in(self.place, cpus=0.1 * count)._settings

        def lose_answer() -> None:
            launch = provider.launch

            async def unheard(launches: Sequence[Launch]) -> Sequence[Answer]:
                provider.launch = launch  # type: ignore[method-assign]
                await launch(launches)
                lost = UnknownOutcome("the answer was lost")
                return [Answer(name=one.token, outcome=Outcome.UNKNOWN, error=lost) for one in launches]

            provider.launch = unheard  # type: ignore[method-assign]

        try:
            yield Bench(
                provider=provider,
                offer=translate.offer_key("small"),
                request=request,
                other_offer=translate.offer_key("other"),
                gone_within_s=10.0,
                limit=limit,
                lose_answer=lose_answer,
                stranger=stranger,
            )
        finally:
            await all_gone(provider)
            await all_gone(stranger)
            _remove(self.place)

    def test_r5_a_refusal_found_later_is_listed(self) -> None:
        """A process group is refused at once or not at all; a guard that dies is a halted machine, no late refusal."""

        async def check() -> None:
            async with self.bench() as bench:
                (answer,) = await bench.launched(bench.launch())
                assert answer.outcome is Outcome.ACCEPTED
                assert (await bench.provider.machines()).refusals == ()

        asyncio.run(check())


@asynccontextmanager
async def one_machine(place: Path) -> AsyncIterator[tuple[LocalProvider, Path]]:
    """Yield a provider with one running machine, and the machine's folder."""
    provider = provider_in(place)
    bench = Bench(
        provider=provider,
        offer=translate.offer_key("small"),
        request=lambda token, names: provider.render(ticket(token, names), SMALL, translate.offer_key("small")),
    )
    (answer,) = await provider.launch([bench.launch()])
    assert answer.outcome is Outcome.ACCEPTED, answer.error
    folder = provider._machines / answer.machines[0].name
    async with asyncio.timeout(10):
        while lock_holder(folder) is None:
            await asyncio.sleep(0.01)
    try:
        yield provider, folder
    finally:
        await all_gone(provider)
        _remove(place)


async def test_a_machine_survives_its_provider_and_is_found_by_the_next(own_places: Path) -> None:
    async with one_machine(own_places / "m") as (_, folder):
        again = provider_in(own_places / "m")
        (machine,) = (await again.machines()).machines

        assert machine.name == folder.name
        assert machine.phase is Phase.RUNNING


async def test_a_killed_guard_is_a_halted_machine_and_its_session_goes_with_the_release(own_places: Path) -> None:
    async with one_machine(own_places / "m") as (provider, folder):
        holder = lock_holder(folder)
        assert holder is not None
        async with asyncio.timeout(10):
            while len(processes.session_members(holder[0])) < 2:
                await asyncio.sleep(0.01)
        os.kill(holder[0], signal.SIGKILL)
        async with asyncio.timeout(10):
            while is_there((await provider.machines()).machines[0]) and lock_holder(folder):
                await asyncio.sleep(0.01)
        assert processes.session_members(holder[0]), "the orphan should still be there: that is the point"

        await all_gone(provider)

        assert processes.session_members(holder[0]) == []


async def test_a_second_guard_of_one_machine_gives_way(own_places: Path) -> None:
    async with one_machine(own_places / "m") as (_, folder):
        second = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "shoal.guard", str(folder), stderr=asyncio.subprocess.PIPE
        )
        _, said = await asyncio.wait_for(second.communicate(), 10)

        assert second.returncode == 3
        assert said.decode().strip().endswith("another guard runs this machine")


async def test_a_launch_interrupted_before_its_guard_is_completed_by_the_replay(own_places: Path) -> None:
    provider = provider_in(own_places / "m")
    bench = Bench(
        provider=provider,
        offer=translate.offer_key("small"),
        request=lambda token, names: provider.render(ticket(token, names), SMALL, translate.offer_key("small")),
    )
    launch = bench.launch()
    spawn, provider._spawn = provider._spawn, lambda folder: None  # type: ignore[method-assign]
    await provider.launch([launch])
    provider._spawn = spawn  # type: ignore[method-assign]
    (listed,) = (await provider.machines()).machines
    assert listed.phase is Phase.PENDING

    (answer,) = await provider.launch([launch])

    assert answer.outcome is Outcome.ACCEPTED
    async with asyncio.timeout(10):
        while lock_holder(provider._machines / listed.name) is None:
            await asyncio.sleep(0.01)
    await all_gone(provider)
    _remove(own_places / "m")


def _remove(place: Path) -> None:
    """Take away the logs and secrets that stay after machines; anything else is a leak and stays for the check."""
    for path in sorted(place.rglob("*"), reverse=True):
        if path.suffix in (".log", ".jsonl", ".secret"):
            path.unlink()
