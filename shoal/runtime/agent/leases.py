"""Who gets the next worker: grants, fair shares between clients, taking leases back, and what fits only elsewhere.

One turn (`schedule`) grants as much as fits, the client with the fewest leases first. What is left is either asked for
at the head, which knows the other nodes, or waits; a waiting client makes others with more leases give one back.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable
from typing import Any

from shoal.foundation.clock import Clock
from shoal.placement import selectors
from shoal.runtime.agent.clients import ClassRow, Client
from shoal.runtime.agent.pool import Pool, Worker
from shoal.runtime.agent.stock import Grip, Stock
from shoal.wire import tasks as wire

LEASE_MIN_S = 0.02
"""How long a lease lasts at least before others may have it: handing over costs about 1 ms."""
PLACE_PAUSE_S = (0.02, 1.0)
"""How long to wait before asking the head again for room that was not there; doubles between these."""
NEAR_S = 0.05
"""How long work is left to the node that holds its arguments before it may run anywhere."""
ZERO_COST_LEASES = 16
"""How many leases a class that costs nothing may hold beside its blocked ones."""
RECLAIM_AGAIN_S = 0.05
"""How long a lease that was asked for back may take before another one is asked for, too: its task may be long."""
ENDED_MAX = 10_000
"""How many leases whose worker died are remembered for owners that ask again."""
REMOTE_NEED_S = 2.0
"""How long another node's owner waits for what the head placed here before it asks again: as long, it counts on it."""


class Lease:
    """A worker granted to a client for a class."""

    __slots__ = ("client", "end_why", "granted_at", "grip", "is_wanted", "number", "reclaimed_at", "row", "worker")

    def __init__(self, number: int, row: ClassRow, grip: Grip, granted_at: float) -> None:
        self.number, self.row, self.client, self.grip, self.granted_at = number, row, row.client, grip, granted_at
        self.worker: Worker | None = None
        self.reclaimed_at: float | None = None
        """When its owner was asked to give it back."""
        self.is_wanted = False
        """Whether its owner was asked not to keep it once it is idle."""
        self.end_why = ""
        """Why its worker is to be killed as soon as it has started."""


class Leases:
    """The agent's leases. `bind` tells a worker whose it is; `place` asks the head for room elsewhere."""

    def __init__(
        self,
        clock: Clock,
        stock: Stock,
        pool: Pool,
        node_id: str,
        labels: dict[str, str],
        *,
        bind: Callable[[Worker, str, dict[str, Any], Grip, Any], None],
        place: Callable[[ClassRow, int], None],
        place_near: Callable[[ClassRow, int], bool] = lambda row, count: False,
        changed: Callable[[], None],
    ) -> None:
        self._clock, self._stock, self._pool = clock, stock, pool
        self._node_id, self._labels = node_id, labels
        self._bind, self._place, self._place_near, self._changed = bind, place, place_near, changed
        self.by_number: dict[int, Lease] = {}
        self._ended: dict[int, tuple[bytes, tuple[Any, ...]]] = {}
        """Leases whose worker died: their owner's process, and the verdict."""
        self._number = 0
        self._rows: list[ClassRow] = []
        self._turn = 0
        self._is_due = False
        self._timer: asyncio.TimerHandle | None = None
        self.is_open = True
        """False while the node is cordoned or drained: nothing new is granted."""
        self.idle_serial = 0
        self._loop = asyncio.get_running_loop()

    # ---------------------------------------------------------------------------------------------- from clients

    def need(
        self,
        client: Client,
        key: int,
        waiting: int,
        seen: int,
        duration_us: int,
        running: int = 0,
        seen_anywhere: int = 0,
    ) -> None:
        """Take a client's word on its backlog: what waits, what runs, which grants it absorbed (ours; everybody's)."""
        row = client.classes.get(key)
        if row is None:
            return
        if client.kind == "owner":
            row.waiting, row.expires_at = row.granted + waiting, self._clock.monotonic_s() + REMOTE_NEED_S
        else:
            row.waiting, row.seen = waiting, seen
            row.running, row.seen_anywhere = running, seen_anywhere
        row.duration_us = duration_us
        if waiting:
            if row.waiting_since is None:
                row.waiting_since = self._clock.monotonic_s()
                row.pause_s = 0.0
                row.allowed_here = 0  # what the head once said was about other work
                row.near_until = None
            if row not in self._rows:
                self._turn += 1
                row.turn = self._turn
                self._rows.append(row)
        else:
            row.waiting_since = None
        self._changed()
        self.schedule_soon()

    def give_back(self, number: int, *, is_reusable: bool) -> None:
        """Take a lease back."""
        lease = self.by_number.pop(number, None)
        if lease is None:
            return
        self._let_go(lease)
        worker = lease.worker
        if worker is not None and not worker.is_dead:
            worker.lease = None
            if worker.kill_why:
                self._pool.kill(worker, worker.kill_why)
            else:
                worker.is_reusable = worker.is_reusable and is_reusable and not lease.row.is_single_use
                self._pool.put_back(worker)
        self.schedule_soon()

    def block(self, grip: Grip | None) -> None:
        """Give the CPU of waiting work back."""
        if grip is not None:
            self._stock.block(grip)
            self._changed()
            self.schedule_soon()

    def unblock(self, grip: Grip | None) -> None:
        """The work goes on."""
        if grip is not None:
            self._stock.unblock(grip)
            self._changed()

    def forget(self, client: Client) -> None:
        """The client is dead: its leases end with their workers, its backlog goes."""
        for lease in [one for one in self.by_number.values() if one.client is client]:
            del self.by_number[lease.number]
            self._let_go(lease)
            if lease.worker is not None:
                # It may run a task of the dead owner: nobody will ever take the result.
                self._pool.kill(lease.worker, "the owner of its task died")
        self._rows = [row for row in self._rows if row.client is not client]
        self._changed()
        self.schedule_soon()

    def end_group(self, group_id: str, why: str) -> None:
        """A placement group is removed: what runs inside ends, what waits for it can never run."""
        for lease in tuple(self.by_number.values()):
            if lease.row.bundle is not None and lease.row.bundle[0] == group_id:
                lease.end_why = f"group removed: {why}"
                if lease.worker is not None:
                    self._pool.kill(lease.worker, lease.end_why)
        for row in self._rows:
            if row.bundle is not None and row.bundle[0] == group_id:
                row.client.tell(wire.UNPLACEABLE, row.key, f"group removed: {why}", True)

    def worker_died(self, worker: Worker, why: str, started: int) -> Client | None:
        """End the dead worker's lease and give its owner, which is returned, the verdict."""
        lease: Lease | None = worker.lease
        if lease is None or self.by_number.pop(lease.number, None) is None:
            return None
        self._let_go(lease)
        self.schedule_soon()
        verdict = (wire.DIED, worker.process, why, started)
        self._ended[lease.number] = lease.client.process, verdict
        while len(self._ended) > ENDED_MAX:
            del self._ended[next(iter(self._ended))]
        self._loop.call_soon(lease.client.tell, *verdict)  # never before LEASED, which takes a turn as well
        return lease.client

    def revoke(self, client: Client, number: int) -> None:
        """Kill the worker of a lease whose owner has lost its connection; the verdict follows, or is given again."""
        lease = self.by_number.get(number)
        if lease is not None and lease.client is client and lease.worker is not None:
            self._pool.kill(lease.worker, "")  # usually it is dead: its exit code says more than we know
        elif number in self._ended and self._ended[number][0] == client.process:
            # Its owner was still dialling when it heard, and gave work to a connection that had an end by then.
            client.tell(*self._ended[number][1])

    def _let_go(self, lease: Lease) -> None:
        self._stock.give_back(lease.grip)
        lease.row.held -= 1
        lease.client.held -= 1
        self._changed()

    # ---------------------------------------------------------------------------------------------- granting

    def schedule_soon(self) -> None:
        """Schedule at the end of this turn of the loop."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self.schedule)

    def schedule(self) -> None:
        """Grant what fits; then see what the rest can hope for."""
        self._is_due = False
        now = self._clock.monotonic_s()
        rows = []
        for row in self._rows:
            if row.expires_at is not None and now > row.expires_at:
                row.waiting, row.expires_at, row.waiting_since = row.granted, None, None
            if row.wanted:
                rows.append(row)
        self._rows = rows
        short: list[ClassRow] = []
        open_rows = [row for row in rows if self.is_open or row.bundle is not None]
        while open_rows:
            row = min(open_rows, key=lambda one: (one.client.held, one.held, one.turn))
            if self._suits(row, now) and self._grant(row, now):
                if not row.wanted:
                    open_rows.remove(row)
                    row.waiting_since = None
            else:
                open_rows.remove(row)
                short.append(row)
        if not self.is_open:
            short = rows
        for row in short:
            self._look_elsewhere(row, now)
        if short:
            if self.is_open:
                self._ask_for_idle(short)
            self._reclaim_for(short, now)
            self._later(now, short)

    def _suits(self, row: ClassRow, now: float) -> bool:
        """Say whether the work should run here: it belongs here, or the head has placed some of it here."""
        if row.bundle is not None or row.client.kind == "owner":
            return True
        if row.near:
            return row.near_until is not None and now >= row.near_until
        if row.spread:
            return row.allowed_here > 0
        if row.selector:
            rank = selectors.rank(row.selector, self._node_id, self._labels)
            if rank is None:
                return False
            return rank == 0 or row.allowed_here > 0
        return True

    def _grant(self, row: ClassRow, now: float) -> bool:
        if not row.amounts and row.held >= ZERO_COST_LEASES:
            blocked = sum(1 for one in self.by_number.values() if one.row is row and one.grip.is_blocked)
            if row.held - blocked >= ZERO_COST_LEASES:
                return False
        grip = self._stock.take(row.amounts, row.bundle)
        if grip is None:
            return False
        self._number += 1
        self.idle_serial += 1
        lease = Lease(self._number, row, grip, now)
        self.by_number[lease.number] = lease
        row.granted += 1
        row.held += 1
        row.allowed_here = max(0, row.allowed_here - 1)
        row.client.held += 1
        self._changed()
        self._pool.take(
            (row.job, row.environment_key),
            lambda worker: self._granted(lease, worker),
            is_fresh=row.is_single_use,
        )
        return True

    def _granted(self, lease: Lease, worker: Worker) -> None:
        if self.by_number.get(lease.number) is not lease:  # its client died while the worker started
            worker.job = lease.row.job
            self._pool.put_back(worker)
            return
        lease.worker, worker.lease, worker.grip = worker, lease, lease.grip
        row = lease.row
        self._bind(worker, row.job, row.environment, lease.grip, row.spec.get("group"))
        assert worker.client is not None
        addresses = worker.client.info.get("addresses", [])
        gpus = [str(gpu) for gpu in sorted(lease.grip.gpus)]
        lease.granted_at = self._clock.monotonic_s()
        # A turn later: what `bind` wrote leaves at the end of this one, so no task can be there before it.
        leased = (wire.LEASED, row.key, lease.number, worker.process, addresses, gpus)
        self._loop.call_soon(row.client.tell, *leased)
        if lease.reclaimed_at is not None:
            self.reclaim(lease)
        if lease.end_why:
            self._pool.kill(worker, lease.end_why)

    # ---------------------------------------------------------------------------------------------- no room

    def _look_elsewhere(self, row: ClassRow, now: float) -> None:
        """Ask the head where the rest may run; not too often."""
        if row.client.kind == "owner" or row.bundle is not None or row.is_placing or now < row.asked_at + row.pause_s:
            return
        count = min(row.wanted - row.awaited(now), 512)
        if row.duration_us >= 0:
            # More leases than 20 ms of work each would need is not worth the way to other nodes.
            count = min(count, max(1, -(-row.wanted * row.duration_us // 20_000)))
        if count <= 0:
            return
        if row.near and row.near_until is None:
            row.near_until = now + NEAR_S if self._place_near(row, count) else now
            if row.near_until == now:
                self.schedule_soon()
            return
        if row.near_until is not None and now < row.near_until:
            return
        row.is_placing, row.asked_at = True, now
        self._place(row, count)

    def placed(self, row: ClassRow, count: int, here: int) -> None:
        """The head has answered: so many leases, `here` of them on this node."""
        row.is_placing, row.allowed_here = False, here
        now = self._clock.monotonic_s()
        row.await_more(count - here, now, now + REMOTE_NEED_S)
        low, high = PLACE_PAUSE_S
        row.pause_s = low if count else min(high, max(low, row.pause_s * 2))
        self.schedule_soon()

    def _reclaim_for(self, short: list[ClassRow], now: float) -> None:
        """Ask for leases back from clients (or classes) that hold more than one that waits, of what it lacks."""
        leases = self.by_number.values()
        asked = [one for one in leases if one.reclaimed_at is not None]
        if not self.is_open or any(now - one.reclaimed_at < RECLAIM_AGAIN_S for one in asked):  # type: ignore[operator]
            return  # one at a time: it may be enough
        # What will be given back sooner or later is not held: nobody is asked for more than its share.
        coming: collections.Counter[Any] = collections.Counter()
        for one in asked:
            coming.update((one.client, one.row))
        for row in short:
            lacking = self._stock.lacking(row.amounts, row.bundle)
            best: Lease | None = None
            for lease in leases:
                grip = lease.grip
                if lease.row is row or lease.worker is None or grip.is_blocked or lease.reclaimed_at is not None:
                    continue
                if lacking.isdisjoint(grip.amounts) or not _shares_place(row, grip):
                    continue
                if lease.client is not row.client:
                    is_more = lease.client.held - coming[lease.client] > row.client.held
                else:
                    is_more = lease.row.held - coming[lease.row] > row.held
                if is_more and now - lease.granted_at >= LEASE_MIN_S and (best is None or _share(lease) > _share(best)):
                    best = lease
            if best is not None:
                self.reclaim(best)
                return

    def _ask_for_idle(self, short: list[ClassRow]) -> None:
        """Ask other clients not to keep what they do not use, whoever holds more. Each lease once: its owner knows."""
        clients = {row.client for row in short}
        only = clients.pop() if len(clients) == 1 else None
        unasked = [
            one
            for one in self.by_number.values()
            if one.client is not only and not (one.is_wanted or one.row.wanted or one.reclaimed_at is not None)
        ]
        for row in short if unasked else ():
            lacking = self._stock.lacking(row.amounts, row.bundle)
            for lease in unasked:
                if lease.is_wanted or lease.client is row.client or lease.worker is None:
                    continue
                if _shares_place(row, lease.grip) and not lacking.isdisjoint(lease.grip.amounts):
                    lease.is_wanted = True
                    self._loop.call_soon(lease.client.tell, wire.RECLAIM, lease.number, True)

    def reclaim(self, lease: Lease) -> None:
        """Ask the owner for a lease back, as soon as it has it."""
        lease.reclaimed_at = self._clock.monotonic_s()
        if lease.worker is not None:
            self._loop.call_soon(lease.client.tell, wire.RECLAIM, lease.number)  # after LEASED, see `_granted`

    def _later(self, now: float, short: list[ClassRow]) -> None:
        """Look again when something short may have changed by time alone."""
        if self._timer is not None:
            self._timer.cancel()
        waits = [LEASE_MIN_S] if len(self.by_number) else []
        waits += [
            max(0.005, row.near_until - now) for row in short if row.near_until is not None and row.near_until > now
        ]
        waits += [max(0.005, row.asked_at + row.pause_s - now) for row in short if row.client.kind != "owner"]
        if waits:
            pause_s = max(0.01, min(waits))
            self._timer = self._loop.call_later(pause_s, self.schedule_soon)

    # ---------------------------------------------------------------------------------------------- for reports

    def shown(self) -> dict[str, Any]:
        """Return leases and waiting classes as plain values, for people who look for what is stuck."""
        return {
            "is_open": self.is_open,
            "leases": [
                [
                    one.number,
                    one.row.class_key,
                    one.worker.pid if one.worker else -1,
                    one.reclaimed_at is not None,
                    one.grip.amounts,
                ]
                for one in self.by_number.values()
            ],
            "rows": [
                [row.class_key, row.waiting, row.seen, row.granted, row.held, row.is_placing, row.pause_s]
                for row in self._rows
            ],
        }

    def rows(self) -> list[ClassRow]:
        """Return every row that waits."""
        return self._rows


def _shares_place(row: ClassRow, grip: Grip) -> bool:
    """Say whether what the grip holds is of the node, or the bundle, from which the row would take."""
    if row.bundle is None or grip.bundle is None:
        return row.bundle is grip.bundle
    group, number = row.bundle
    return grip.bundle[0] == group and number in (-1, grip.bundle[1])


def _share(lease: Lease) -> tuple[int, int]:
    return lease.client.held, lease.row.held
