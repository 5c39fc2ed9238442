"""Placement groups on this node: prepare, commit, return; a prepared bundle that nobody commits is dropped."""

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
        """Group id to (serial, bundle numbers, until)."""
        self._committed: dict[str, list[int]] = {}

    def prepare(self, message: told.Prepare) -> None:
        """Reserve all of them or none, and say which."""
        numbers = sorted(int(number) for number in message.bundles)
        taken: list[int] = []
        is_ready = self._leases.is_open
        if is_ready:
            for number in numbers:
                key = (message.group_id, number)
                is_new = key not in self._stock.bundles
                if not self._stock.prepare(key, message.bundles[number]):
                    is_ready = False
                    break
                if is_new:
                    taken.append(number)
        if not is_ready:
            for number in taken:
                self._stock.drop_bundle((message.group_id, number))
            self._leases.schedule_soon()
        else:
            until = self._clock.monotonic_s() + PREPARED_LIMIT_S
            self._prepared[message.group_id] = (message.serial, numbers, until)
        self._send(told.Prepared(message.group_id, message.serial, is_ready))
        self._changed()

    def commit(self, message: told.Commit) -> None:
        """The group is journaled: the bundles are its own."""
        prepared = self._prepared.pop(message.group_id, None)
        if prepared is not None:
            known = self._committed.setdefault(message.group_id, [])
            known.extend(number for number in prepared[1] if number not in known)
            self._leases.idle_serial += 1
        self._send(told.Committed(message.group_id, message.serial))
        self._changed()
        self._leases.schedule_soon()

    def give_back(self, message: told.ReturnBundles) -> None:
        """The group is gone: end what runs inside, then free its bundles."""
        group_id = message.group_id
        self._prepared.pop(group_id, None)
        self._committed.pop(group_id, None)
        self._actors.end_group(group_id, message.why)
        self._leases.end_group(group_id, message.why)
        for key in [key for key in self._stock.bundles if key[0] == group_id]:
            self._stock.drop_bundle(key)
        self._changed()
        self._leases.schedule_soon()

    def expire(self) -> None:
        """Drop what was prepared and never committed."""
        now = self._clock.monotonic_s()
        for group_id, (_, numbers, until) in tuple(self._prepared.items()):
            if now > until:
                del self._prepared[group_id]
                for number in numbers:
                    self._stock.drop_bundle((group_id, number))
                self._changed()

    def committed(self) -> dict[str, list[int]]:
        """Return the committed bundles, for a join."""
        return {group_id: list(numbers) for group_id, numbers in self._committed.items()}
