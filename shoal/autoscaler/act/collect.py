"""Garbage collection both ways: machines without a row, debris without an instance, and a lost ledger.

Cloud minus ledger. A machine that no row accounts for is released only if it is ours (the provider lists only our
uid), a worker, not of a newer epoch, older than `gc_age_s`, seen in two complete listings, and the head agreed to
bar it. It gets a row first (`stray`), so that it counts as spend and its release is retried like any other. If the
head says that it joined, it is adopted instead. Everything else is only reported.

A fresh ledger beside listed machines is a lost one: it is rebuilt from their tags before the first plan.

Ledger minus cloud is the fact `absent` (see `observe`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from shoal.autoscaler.act.carry_out import Hands
from shoal.autoscaler.act.contracts import Head
from shoal.autoscaler.act.ledger import Change, Ledger
from shoal.autoscaler.act.observe import Extra, Witnesses
from shoal.autoscaler.act.rows import MachineRow
from shoal.foundation.clock import Clock
from shoal.foundation.errors import JournalFull, StaleSession
from shoal.foundation.eventlog import EventLog, Kind
from shoal.model.instance import Instance, State
from shoal.model.launch import Machine, Phase
from shoal.model.offer import OfferKey

WORKER = "worker"
SIGHTINGS_LEAST = 2
SERIALS_PER_SESSION = 100_000
"""A rebuilt ledger starts its serials here times its session: ids and tokens of the lost one never come again."""


class Collector:
    """Finds what nobody accounts for and sends it to be released."""

    def __init__(
        self, clock: Clock, ledger: Ledger, head: Head, log: EventLog, *, witnesses: Witnesses, hands: Hands
    ) -> None:
        self._clock, self._ledger, self._head, self._log = clock, ledger, head, log
        self._witnesses, self._hands = witnesses, hands
        self._told: set[str] = set()
        self.leftovers: tuple[str, ...] = ()
        """What is listed, is not ours to release or not yet, and belongs to no instance."""

    def adopt_all(self, prices: Mapping[OfferKey, int | None]) -> int:
        """Rebuild a lost ledger from the tags of what is listed; return how many rows it got."""
        found = [one for one in self._extras() if self._is_ours(one.machine) and one.machine.instance_id]
        change = Change()
        for extra in found:
            self._adopt(change, extra, prices.get(extra.machine.offer))
        change.note(serial_next=max(self._ledger.meta.serial_next, self._serial_base()), is_adopted=True)
        self._ledger.commit(change)
        for extra in found:
            self._log.record(Kind.INSTANCE_ADOPTED, instance=extra.machine.instance_id, token=extra.machine.token)
        return len(found)

    async def collect(self, gc_age_s: float, prices: Mapping[OfferKey, int | None]) -> None:
        """Adopt what has joined, condemn what nobody accounts for, release debris."""
        reported: list[str] = []
        for extra in self._extras():
            try:
                if not await self._settle(extra, gc_age_s, prices):
                    reported.append(extra.machine.name)
            except (StaleSession, JournalFull):
                raise
            except (ConnectionError, TimeoutError, OSError) as error:
                self._hands.head_error = str(error) or type(error).__name__
                reported.append(extra.machine.name)
        reported.extend(self._release_debris(gc_age_s))
        self.leftovers = tuple(reported)

    async def _settle(self, extra: Extra, gc_age_s: float, prices: Mapping[OfferKey, int | None]) -> bool:
        """Adopt or condemn one machine; False: it is only reported for now."""
        machine = extra.machine
        if not self._is_ours(machine) or not machine.instance_id:
            self._tell(machine)
            return False
        if machine.phase in (Phase.HALTING, Phase.HALTED) and not machine.is_billed:
            return True
        known = self._ledger.instance(machine.instance_id)
        price = prices.get(machine.offer)
        if known is None and self._witnesses.in_contact(machine.instance_id):
            self._adopt_one(extra, price)
            return True
        if machine.age_s < gc_age_s or extra.sightings < SIGHTINGS_LEAST:
            self._tell(machine)
            return False
        if known is not None:
            # A second machine of an instance that has its own: no bar may hit the id, the name alone is released.
            if self._hands.may_release(machine.name):
                self._hands.release_names(extra.provider, [machine.name], "a second machine of one intent")
            return False
        if not await self._head.bar(machine.instance_id):
            self._adopt_one(extra, price)
            return True
        change = Change()
        self._adopt(change, extra, price, state=State.STRAY, why="no row of the ledger accounts for it")
        self._ledger.commit(change)
        self._log.record(Kind.STRAY_FOUND, name=machine.name, instance=machine.instance_id, token=machine.token)
        return True

    def _adopt_one(self, extra: Extra, price: int | None) -> None:
        change = Change()
        self._adopt(change, extra, price)
        self._ledger.commit(change)
        self._log.record(Kind.INSTANCE_ADOPTED, instance=extra.machine.instance_id, token=extra.machine.token)

    def _adopt(
        self, change: Change, extra: Extra, price: int | None, *, state: State = State.BOOTING, why: str = ""
    ) -> None:
        """Write a row for a listed machine. As `booting` its deadline starts now: it may well be joining."""
        machine, now_s = extra.machine, self._clock.monotonic_s()
        # From now on a row accounts for it; the listing that showed it is not asked again.
        self._witnesses.extras.pop(machine.name, None)
        change.put(
            Instance(
                instance_id=machine.instance_id,
                node_type=machine.node_type,
                offer=machine.offer,
                state=state,
                since_s=now_s,
                created_s=now_s - machine.age_s,
                token=machine.token,
                index=machine.index,
                attempt=machine.attempt,
                machine_id=machine.machine_id,
                price_micro=price,
                why=why or "adopted by its tags",
                epoch=machine.epoch,
            )
        )
        change.put(
            MachineRow(
                name=machine.name,
                instance_id=machine.instance_id,
                provider=extra.provider,
                machine_id=machine.machine_id,
                token=machine.token,
                seen_s=now_s,
            )
        )

    def _release_debris(self, gc_age_s: float) -> Iterator[str]:
        """Release debris whose instance is over; yield the names of what has to wait."""
        due: dict[str, list[str]] = {}
        for name, remainder in sorted(self._witnesses.remainders.items()):
            debris = remainder.debris
            row = self._ledger.instance(debris.instance_id) if debris.instance_id else None
            if row is not None and row.state not in (State.GONE, State.RELEASING):
                continue
            is_old = row is not None or debris.age_s >= gc_age_s
            if not is_old or remainder.sightings < SIGHTINGS_LEAST:
                yield name
                continue
            if name not in self._told:
                self._told.add(name)
                self._log.record(Kind.DEBRIS_FOUND, name=name, what=debris.kind, instance=debris.instance_id)
            if self._hands.may_release(name):
                due.setdefault(remainder.provider, []).append(name)
            yield name
        for provider, names in sorted(due.items()):
            self._hands.release_names(provider, names, "debris")

    def _extras(self) -> list[Extra]:
        return [one for _, one in sorted(self._witnesses.extras.items())]

    def _is_ours(self, machine: Machine) -> bool:
        return machine.role == WORKER and machine.epoch <= self._ledger.meta.epoch

    def _tell(self, machine: Machine) -> None:
        if machine.name not in self._told:
            self._told.add(machine.name)
            self._log.record(Kind.STRAY_FOUND, name=machine.name, instance=machine.instance_id, token=machine.token)

    def _serial_base(self) -> int:
        session = max(1, self._ledger.meta.session)
        epoch = max(1, self._ledger.meta.epoch)
        return ((epoch - 1) * 1000 + session - 1) * SERIALS_PER_SESSION + 1
