"""When a child is started again, and when a machine ends itself."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.guard.machine import Child, MachineSpec
from shoal.guard.rules import Contact, Ending, ending, restart_in_s

CHILD = Child(name="agent", argv=["x"], restarts_max=3)
SPEC = MachineSpec(
    name="m",
    uid="00",
    instance_id="i",
    role="worker",
    children=[],
    secret_file="",
    log_dir="",
    lease_s=600,
    lease_busy_s=3600,
    reject_s=1800,
    boot_deadline_s=300,
)


def contact(**changes: object) -> Contact:
    return msgspec.structs.replace(Contact(started_s=0, answered_s=0, has_joined=True), **changes)


class TestRestart:
    def test_quick_deaths_wait_ever_longer(self) -> None:
        child = msgspec.structs.replace(CHILD, restarts_max=None)

        assert [restart_in_s(child, range(n), 0.1) for n in (1, 2, 3, 9)] == [0.1, 0.2, 0.4, 10.0]

    def test_after_a_long_life_it_starts_at_once(self) -> None:
        assert restart_in_s(CHILD, [5.0], 100.0) == 0

    def test_the_fourth_death_in_the_window_is_the_last(self) -> None:
        assert restart_in_s(CHILD, [1, 2, 3], 0.1) is not None
        assert restart_in_s(CHILD, [1, 2, 3, 4], 100.0) is None


class TestLease:
    @pytest.mark.parametrize(
        ("now_s", "is_busy", "why"),
        [
            (600, False, Ending.NOT_YET),
            (601, False, Ending.LEASE),
            (601, True, Ending.NOT_YET),
            (3601, True, Ending.LEASE_BUSY),
        ],
    )
    def test_an_idle_machine_ends_sooner_than_a_working_one(self, now_s: float, is_busy: bool, why: Ending) -> None:
        assert ending(SPEC, contact(), now_s, is_busy=is_busy) is why

    def test_jitter_only_prolongs(self) -> None:
        spec = msgspec.structs.replace(SPEC, jitter_s=50)

        assert ending(spec, contact(), 649, is_busy=False) is Ending.NOT_YET
        assert ending(spec, contact(), 651, is_busy=False) is Ending.LEASE

    def test_a_rejected_machine_waits_on_its_own_clock(self) -> None:
        rejected = contact(rejected_s=5000)

        assert ending(SPEC, rejected, 6000, is_busy=False) is Ending.NOT_YET
        assert ending(SPEC, rejected, 6801, is_busy=True) is Ending.REJECTED

    def test_one_that_never_joined_ends_at_its_boot_deadline(self) -> None:
        late = contact(has_joined=False, answered_s=299)

        assert ending(SPEC, late, 300, is_busy=False) is Ending.NOT_YET
        assert ending(SPEC, late, 301, is_busy=False) is Ending.BOOT

    @given(st.floats(0, 1e9), st.booleans())
    def test_the_head_machine_has_no_lease(self, now_s: float, is_busy: bool) -> None:
        spec = msgspec.structs.replace(SPEC, role="head")

        assert ending(spec, contact(has_joined=False), now_s, is_busy=is_busy) is Ending.NOT_YET

    @given(st.floats(0, 1e6), st.floats(0, 1e6), st.booleans())
    def test_contact_always_prolongs(self, earlier_s: float, later_s: float, is_busy: bool) -> None:
        """If it ends now, it would also have ended with an older answer."""
        older, newer = sorted((earlier_s, later_s))
        if ending(SPEC, contact(answered_s=newer), 1e6, is_busy=is_busy):
            assert ending(SPEC, contact(answered_s=older), 1e6, is_busy=is_busy)
