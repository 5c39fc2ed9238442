"""Placement groups on this node: prepare, commit, return; a prepared bundle that nobody commits is dropped.

The head numbers its attempts (`serial`). What it says may be lost with a connection and come again, so each step may
be repeated: a newer `Prepare` takes the place of what an older one reserved, and a `Commit` is confirmed only where
its attempt's bundles are still held. Else the head hears that they are not ready, and places them anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal.foundation.clock import Clock
from shoal.runtime.agent.actors import Actors
from shoal.runtime.agent.leases import Leases
from shoal.runtime.agent.stock import Stock
from shoal.wire import messages as told

PREPARED_LIMIT_S = 30.0


class Bundles:
    """Reservations of the head's two-phase commit."""

    def __init__(
        self,
        clock: Clock,
        stock: Stock,
        leases: Leases,
        actors: Actors,
        send: Callable[[Any], None],
        changed: Callable[[], None],
    ) -> None:
        self._clock, self._stock, self._leases, self._actors = clock, stock, leases, actors
        self._send, self._changed = send, changed
        self._prepared: dict[str, tuple[int, list[int], float]] = {}
        """Group id to (serial, bundle numbers, until); none of these is committed."""
        self._committed: dict[str, list[int]] = {}
        self._serials: dict[str, int] = {}
        """The newest attempt that was committed, by group."""

    def prepare(self, message: told.Prepare) -> None:
        """Reserve all of them or none, and say which."""
        group_id, serial = message.group_id, message.serial
        self._drop_prepared(group_id)
        committed = self._committed.get(group_id, ())
        numbers = [number for number in sorted(int(one) for one in message.bundles) if number not in committed]
        is_ready = self._leases.is_open and self._reserve(message, numbers)
        if is_ready:
            self._prepared[group_id] = (serial, numbers, self._clock.monotonic_s() + PREPARED_LIMIT_S)
        else:
            self._leases.schedule_soon()
        self._send(told.Prepared(group_id, serial, is_ready))
        self._changed()

    def commit(self, message: told.Commit) -> None:
        """The group is journaled: the bundles are its own."""
        group_id, serial = message.group_id, message.serial
        prepared = self._prepared.get(group_id)
        if prepared is not None and prepared[0] == serial:
            del self._prepared[group_id]
            known = self._committed.setdefault(group_id, [])
            known.extend(number for number in prepared[1] if number not in known)
            self._serials[group_id] = serial
            self._leases.idle_serial += 1
        if self._serials.get(group_id) != serial:
            self._send(told.Prepared(group_id, serial, False))  # they were dropped before it came
            return
        self._send(told.Committed(group_id, serial))
        self._changed()
        self._leases.schedule_soon()

    def give_back(self, message: told.ReturnBundles) -> None:
        """The group is gone: end what runs inside, then free its bundles."""
        group_id = message.group_id
        self._prepared.pop(group_id, None)
        self._committed.pop(group_id, None)
        self._serials.pop(group_id, None)
        self._actors.end_group(group_id, message.why)
        self._leases.end_group(group_id, message.why)
        for key in [key for key in self._stock.bundles if key[0] == group_id]:
            self._stock.drop_bundle(key)
        self._changed()
        self._leases.schedule_soon()

    def expire(self) -> None:
        """Drop what was prepared and never committed."""
        now = self._clock.monotonic_s()
        for group_id, (_, _, until) in tuple(self._prepared.items()):
            if now > until:
                self._drop_prepared(group_id)
                self._changed()

    def committed(self) -> dict[str, list[int]]:
        """Return the committed bundles, for a join."""
        return {group_id: list(numbers) for group_id, numbers in self._committed.items()}

    def _reserve(self, message: told.Prepare, numbers: list[int]) -> bool:
        for place, number in enumerate(numbers):
            if not self._stock.prepare((message.group_id, number), message.bundles[number]):
                for taken in numbers[:place]:
                    self._stock.drop_bundle((message.group_id, taken))
                return False
        return True

    def _drop_prepared(self, group_id: str) -> None:
        for number in self._prepared.pop(group_id, (0, (), 0.0))[1]:
            self._stock.drop_bundle((group_id, number))
