"""The ledger: durable before visible, one holder, money by time, clocks that begin anew, disks that are full."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from shoal.autoscaler.act.ledger import CLOSED_KEPT_S, GRACE_S, Change, Ledger
from shoal.autoscaler.act.rows import Attempt, HealthRow, MachineRow, RecentRow
from shoal.foundation.errors import Held, JournalFull, UserError
from shoal.model.instance import State
from shoal.model.snapshot import Hold, UsableMemory
from shoal.testing.builders import instance, offer_key
from shoal.testing.memory_disk import MemoryDisk
from shoal.testing.sim_time import HandClock


class Died(BaseException):
    pass


def put(ledger: Ledger, *rows: object) -> None:
    with ledger.changing() as change:
        for row in rows:
            change.put(row)  # type: ignore[arg-type]


def test_rows_of_every_kind_survive_a_restart() -> None:
    disk, clock = MemoryDisk(), HandClock()
    attempt = Attempt(
        token="t",
        instance_ids=("i-a-1",),
        node_type="s2",
        offer=offer_key(),
        request=b"\x00\xff bytes",
        created_s=1000.0,
    )
    rows = [
        instance("i-a-1", State.BOOTING),
        attempt,
        MachineRow(name="m", instance_id="i-a-1", provider="sim"),
        HealthRow(scope="sim", failures=2, until_s=1100.0),
        Hold(gang="g", instance_id="i-a-1", until_s=1200.0),
        RecentRow(instance_id="i-a-1", node_type="s2", offer=offer_key(), launched_s=1000.0),
        UsableMemory("s2", "s2", {"CPU": 20_000}),
    ]
    put(Ledger(disk, clock, boot_id="b"), *rows)

    again = Ledger(disk, clock, boot_id="b")

    assert again.instances == {"i-a-1": rows[0]}
    assert again.attempts["t"].request == b"\x00\xff bytes"
    assert [again.machines["m"], again.health["sim"], again.holds["i-a-1"], again.recent["i-a-1"]] == rows[2:6]
    assert again.usable == {"s2|s2": rows[6]}


@pytest.mark.parametrize(("boundary", "is_kept"), [("commit.before", False), ("commit.after", True)])
def test_a_crash_keeps_what_was_committed_and_nothing_else(boundary: str, is_kept: bool) -> None:
    disk, clock = MemoryDisk(), HandClock()

    def crash(name: str) -> None:
        if name == boundary:
            raise Died

    with pytest.raises(Died):
        put(Ledger(disk, clock, crash=crash), instance("i-a-1"))

    assert ("i-a-1" in Ledger(disk, clock).instances) is is_kept


def test_memory_never_runs_ahead_of_the_disk() -> None:
    """A commit that fails leaves the rows as they were."""
    disk, clock = MemoryDisk(), HandClock()
    ledger = Ledger(disk, clock)
    put(ledger, instance("i-a-1"))
    pages = disk.execute("PRAGMA page_count").fetchone()[0]
    disk.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(JournalFull, match="nothing is bought or released"):
        put(ledger, *(instance(f"i-a-{number}", why="x" * 500) for number in range(2, 200)))

    assert list(ledger.instances) == ["i-a-1"]
    assert "full" in ledger.full
    disk.execute("PRAGMA max_page_count = 100000")
    put(ledger, instance("i-a-2"))
    assert ledger.full == ""


def test_the_heads_machine_is_paid_for_beside_the_instances_and_across_restarts() -> None:
    disk, clock = MemoryDisk(), HandClock()
    ledger = Ledger(disk, clock, boot_id="b")
    with ledger.changing() as change:
        change.note(head_micro=40_000)
    put(ledger, instance("i-a-1"))
    assert ledger.committed_micro == 140_000

    clock.pass_(3600)
    again = Ledger(disk, clock, boot_id="b")
    assert (again.committed_micro, again.spent_micro()) == (140_000, 140_000)

    with again.changing() as change:
        change.note(head_micro=10_000)
    clock.pass_(3600)
    assert (again.committed_micro, again.spent_micro()) == (110_000, 250_000)


def test_a_change_is_all_or_nothing_when_its_block_raises() -> None:
    ledger = Ledger(MemoryDisk(), HandClock())
    with pytest.raises(ValueError, match="oops"), ledger.changing() as change:
        change.put(instance("i-a-1"))
        raise ValueError("oops")
    assert not ledger.instances


def test_the_file_is_private_and_held_by_one(tmp_path: Path) -> None:
    path = tmp_path / "state" / "ledger.sqlite"
    ledger = Ledger.open(path, HandClock(), boot_id="b")
    put(ledger, instance("i-a-1"))

    with pytest.raises(Held, match="another autoscaler holds"):
        Ledger.open(path, HandClock(), boot_id="b")
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    mode = ledger._connection.execute("PRAGMA journal_mode").fetchone()[0]
    full = ledger._connection.execute("PRAGMA synchronous").fetchone()[0]
    assert (mode, full) == ("wal", 2)

    ledger.close()
    again = Ledger.open(path, HandClock(), boot_id="b")
    assert list(again.instances) == ["i-a-1"]
    again.close()


def test_a_file_that_is_no_ledger_is_a_user_error(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"this is not a database, not at all, but long enough to look at" * 50)
    with pytest.raises(UserError, match="expected a ledger") as caught:
        Ledger.open(path, HandClock(), boot_id="b")
    assert "tags" in caught.value.hint
    path.write_bytes(b"")
    Ledger.open(path, HandClock(), boot_id="b").close()  # the lock was given back


def test_spend_is_accrued_by_time_and_survives() -> None:
    disk, clock = MemoryDisk(), HandClock()
    ledger = Ledger(disk, clock, boot_id="b")
    put(ledger, instance("i-a-1", State.READY, price_micro=3_600_000))
    clock.pass_(100.0)
    assert ledger.spent_micro() == 100_000
    put(ledger, instance("i-a-2", State.REQUESTED, price_micro=3_600_000))
    clock.pass_(10.0)
    put(ledger, instance("i-a-1", State.GONE, price_micro=3_600_000))
    assert (ledger.spent_micro(), ledger.committed_micro) == (120_000, 3_600_000)

    clock.pass_(5.0)  # nobody runs, the machine does
    again = Ledger(disk, clock, boot_id="b")

    assert again.spent_micro() == 125_000


def test_spend_is_exact_over_many_small_steps() -> None:
    disk, clock = MemoryDisk(), HandClock(0.0)
    ledger = Ledger(disk, clock, boot_id="b")
    put(ledger, instance("i-a-1", State.READY, price_micro=100_003))
    for number in range(1, 1001):
        clock.pass_(0.0123)
        put(ledger, Hold(gang="g", instance_id="i-a-1", until_s=float(number)))
    assert ledger.spent_micro() == int(12_300 * 100_003 / 3_600_000)


def test_queued_and_gone_cost_nothing_and_the_rest_does() -> None:
    ledger = Ledger(MemoryDisk(), HandClock())
    put(ledger, *(instance(f"i-{state}", state, price_micro=1) for state in State))
    assert ledger.committed_micro == len(State) - 2
    assert ledger.is_price_complete()
    put(ledger, instance("i-new", State.BOOTING, price_micro=None))
    assert not ledger.is_price_complete()


def test_times_go_on_after_a_restart_on_the_same_boot() -> None:
    disk, clock = MemoryDisk(), HandClock(1000.0)
    put(Ledger(disk, clock, boot_id="b"), instance("i-a-1", since_s=990.0))
    clock.pass_(50.0)
    again = Ledger(disk, clock, boot_id="b")
    assert again.instances["i-a-1"].since_s == 990.0
    assert again.grace_until_s == 1050.0 + GRACE_S


def test_times_are_moved_after_another_boot() -> None:
    """What was 10 s old when the host went down for 100 s is 110 s old, though the monotonic clock began anew."""
    disk, clock = MemoryDisk(), HandClock(1000.0)
    row = instance("i-a-1", since_s=990.0, drain_deadline_s=1300.0, price_micro=3_600_000)
    put(Ledger(disk, clock, boot_id="b"), row)

    later = HandClock(5.0, clock.wall + 100.0)
    again = Ledger(disk, later, boot_id="another")

    moved = again.instances["i-a-1"]
    assert later.now_s - moved.since_s == pytest.approx(110.0)
    assert moved.drain_deadline_s is not None
    assert moved.drain_deadline_s - later.now_s == pytest.approx(200.0)
    assert again.spent_micro() == 100_000


def test_a_wall_clock_that_went_back_does_not_unspend() -> None:
    disk, clock = MemoryDisk(), HandClock(1000.0)
    put(Ledger(disk, clock, boot_id="b"), instance("i-a-1", price_micro=3_600_000))
    again = Ledger(disk, HandClock(5.0, clock.wall - 1e6), boot_id="another")
    assert again.spent_micro() == 0
    assert again.instances["i-a-1"].since_s == pytest.approx(5.0 - 1000.0)


def test_rows_are_pruned_a_day_after_they_closed() -> None:
    clock = HandClock()
    ledger = Ledger(MemoryDisk(), clock)
    attempt = Attempt(token="t", instance_ids=("i-a-1",), node_type="s2", offer=offer_key(), request=b"")
    put(
        ledger,
        instance("i-a-1", State.GONE, since_s=clock.now_s),
        instance("i-a-2", State.READY, since_s=clock.now_s),
        attempt,
        MachineRow(name="m", instance_id="i-a-1", provider="sim"),
        RecentRow(instance_id="i-a-1", node_type="s2", offer=offer_key(), launched_s=clock.now_s),
    )
    clock.pass_(CLOSED_KEPT_S - 10)
    ledger.prune()
    assert set(ledger.closed) == {"i-a-1"} and ledger.attempts and not ledger.recent
    clock.pass_(20)
    ledger.prune()
    assert not ledger.closed and not ledger.attempts and not ledger.machines
    assert set(ledger.instances) == {"i-a-2"}


def test_a_ledger_is_fresh_until_what_the_cloud_held_is_taken_over() -> None:
    disk, clock = MemoryDisk(), HandClock()
    first = Ledger(disk, clock)
    with first.changing() as change:
        change.note(session=3)
    assert Ledger(disk, clock).is_fresh
    with first.changing() as change:
        change.note(is_adopted=True)
    assert not Ledger(disk, clock).is_fresh


def test_an_empty_change_commits_nothing() -> None:
    ledger = Ledger(MemoryDisk(), HandClock())
    before = ledger.version
    with ledger.changing():
        pass
    assert ledger.version == before
    assert not Change()
