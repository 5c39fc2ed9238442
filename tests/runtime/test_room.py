"""Leases that nobody uses do not stand in the way of the same driver's actors and placement groups."""

from __future__ import annotations

import time

import pytest

import shoal
from shoal.runtime.client.api import session
from shoal.util import placement_group, remove_placement_group

pytestmark = pytest.mark.usefixtures("cluster")


@shoal.remote
def nap(delay_s: float) -> float:
    time.sleep(delay_s)
    return delay_s


@shoal.remote
class Plain:
    def call(self) -> bool:
        return True


def test_unused_leases_make_room_for_actors_and_groups_at_once() -> None:
    leases = session().owner.leases
    shoal.get([nap.remote(0.1) for _ in range(4)])
    actor = Plain.remote()
    assert len(leases) <= 3
    assert shoal.get(actor.call.remote())

    shoal.get([nap.remote(0.1) for _ in range(4)])
    group = placement_group([{"CPU": 2}, {"CPU": 1}])
    assert len(leases) <= 1
    assert group.wait(10)
    remove_placement_group(group)
