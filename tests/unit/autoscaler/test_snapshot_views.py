"""The views of a snapshot follow from it alone: from its copy's own instances, not from those of the original."""

from __future__ import annotations

import msgspec
from planner_builders import NOW_S, instance, node, snapshot

from shoal.model.instance import State
from shoal.model.offer import SPOT


def test_each_view_shows_what_it_says() -> None:
    head = msgspec.structs.replace(node(9), instance_id="", is_head=True, idle_s=5.0)
    busy, idle = msgspec.structs.replace(node(1), idle_s=None), msgspec.structs.replace(node(2), idle_s=7.0)
    lost = msgspec.structs.replace(node(3), is_missing=True, idle_s=7.0)
    leaving = msgspec.structs.replace(node(4), idle_s=7.0, is_cordoned=True)
    rows = (
        instance(1),
        instance(2),
        instance(3, offer=msgspec.structs.replace(instance(3).offer, market=SPOT)),
        instance(4, state=State.DRAINING),
        instance(5, state=State.BOOTING),
    )
    what = snapshot(nodes=(head, busy, idle, lost, leaving), instances=rows)

    assert list(what.nodes) == [one.instance_id for one in (busy, idle, lost, leaving)]
    assert what.moving == rows[3:]
    assert what.ready_counts == {("small", rows[0].offer.market): 2, ("small", SPOT): 1}
    assert what.idle == ((rows[1], idle), (rows[2], lost))
    assert what.troubled == (lost,)


def test_a_changed_copy_looks_again() -> None:
    what = snapshot(nodes=(node(1),), instances=(instance(1),))
    assert what.nodes and not what.moving and what.ready_counts.total() == len(what.idle) == 1

    other = msgspec.structs.replace(what, instances=(instance(1, state=State.DRAINING),))
    assert other.moving and not other.idle and not other.ready_counts
    same = msgspec.structs.replace(what, now_s=NOW_S)
    assert same == what and msgspec.json.encode(same) == msgspec.json.encode(what), "no view is part of the value"
