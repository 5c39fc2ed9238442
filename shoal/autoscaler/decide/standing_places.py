"""Standing requests (the total size of the cluster) and `min_workers`: what shall be there, work or none."""

from __future__ import annotations

from shoal.autoscaler.decide.buying import Market, Want, first_basket
from shoal.autoscaler.decide.draft import Draft, Lack, ShapeKey
from shoal.autoscaler.decide.stands import PLAIN, Rank, Stand
from shoal.foundation.amounts import shape_key, shown
from shoal.model.demand import Bundle
from shoal.placement import selectors
from shoal.placement.fits import Spot, how_many, take


def settle_standing(draft: Draft) -> None:
    """See to it that the total size holds the standing bundles: of each shape, the most that any owner asks."""
    most: dict[ShapeKey, tuple[int, Bundle, str, str]] = {}
    for request in sorted(draft.snapshot.work.standing, key=lambda one: one.owner):
        if request.ttl_s is not None and request.ttl_s <= 0:
            continue
        counts: dict[ShapeKey, int] = {}
        for bundle in request.bundles:
            key = (shape_key(bundle.amounts), repr(bundle.selector))
            counts[key] = counts.get(key, 0) + 1
            if counts[key] > most.get(key, (0,))[0]:
                most[key] = (counts[key], bundle, request.owner, request.job)
    if not most:
        return
    # What must stay anyway comes first, so that an idle node is pinned only if it is really needed.
    order = sorted(draft.stands, key=_stays_longest)
    totals = [(stand, Spot(spot_id=stand.spot.spot_id, free=stand.total, labels=stand.spot.labels)) for stand in order]
    wants: list[Want] = []
    owners: list[tuple[str, str]] = []
    order_of = sorted(most, key=lambda key: _bundle_hardness(most[key][1]))
    for key in order_of:
        # As with classes: what a machine on its way was bought for stays on it.
        for stand, spot in totals:
            planned = stand.instance.planned.get(_promise(key), 0) if stand.instance else 0
            if planned and stand.rank in (Rank.COMING, Rank.QUEUED):
                left, bundle, owner, job = most[key]
                count = how_many(bundle.amounts, spot.free, min(planned, left))
                take(spot, bundle.amounts, count)
                if count:
                    draft.need(stand, _needed_by(owner))
                most[key] = (left - count, bundle, owner, job)
    for key in order_of:
        left, bundle, owner, job = most[key]
        if not left:
            continue
        for stand, spot in totals:
            if bundle.selector and not selectors.admits(bundle.selector, spot.spot_id, spot.labels):
                continue
            count = how_many(bundle.amounts, spot.free, left)
            if count:
                take(spot, bundle.amounts, count)
                draft.need(stand, _needed_by(owner))
                left -= count
                if not left:
                    break
        if left:
            wants.append(Want(key=_promise(key), amounts=bundle.amounts, selector=bundle.selector, count=left))
            owners.append((owner, job))
    if not wants:
        return
    basket = first_basket(Market(wants, draft.wares), [want.count for want in wants], draft.room)
    draft.room = basket.room
    for item in basket.items:
        for _ in range(item.copies):
            stand = draft.add(item.ware, "")
            draft.need(stand, _needed_by(owners[item.content[0][0]][0]))
            stand.promised = {wants[number].key: count for number, count in item.content}
    for want, (owner, job), left in zip(wants, owners, basket.left, strict=True):
        if left:
            draft.lacks.append(
                Lack(
                    demand=owner,
                    kind="standing",
                    amounts=want.amounts,
                    count=left,
                    selector=want.selector,
                    jobs=(job,) if job else (),
                    why=f"requested in total: {left} more x ({shown(want.amounts)})",
                )
            )


def settle_minimums(draft: Draft) -> None:
    for kind in draft.policy.node_types:
        if kind.min_workers <= 0:
            continue
        own = [
            stand for stand in draft.stands if stand.node_type == kind.name and not (stand.node and stand.node.is_head)
        ]
        have = [stand for stand in own if stand.rank in (Rank.READY_BUSY, Rank.READY_IDLE, Rank.COMING, Rank.BOUGHT)]
        have += [stand for stand in own if stand.rank in (Rank.UNDRAIN, Rank.QUEUED) and stand.used]
        for stand in own:
            if len(have) < kind.min_workers and stand.rank in (Rank.UNDRAIN, Rank.QUEUED) and not stand.used:
                draft.need(stand, f"min_workers of `{kind.name}` is {kind.min_workers}")
                have.append(stand)
        lack = kind.min_workers - len(have)
        for ware in draft.wares:
            if lack <= 0:
                break
            if ware.node_type.name != kind.name:
                continue
            count, _, _ = draft.room.holds(ware, lack)
            draft.room.take(ware, count)
            for _ in range(count):
                draft.need(draft.add(ware, ""), f"min_workers of `{kind.name}` is {kind.min_workers}")
            lack -= count
        if lack > 0:
            draft.lacks.append(
                Lack(
                    demand=kind.name,
                    kind="min_workers",
                    amounts=kind.resources,
                    count=lack,
                    why=f"min_workers of `{kind.name}` is {kind.min_workers}, {lack} are missing",
                )
            )


def _bundle_hardness(bundle: Bundle) -> tuple[object, ...]:
    """Order standing bundles for filling, like classes."""
    amounts = bundle.amounts
    special = sum(1 for name in amounts if name not in PLAIN)
    return (not bundle.selector, -special, -amounts.get("CPU", 0), -amounts.get("memory", 0), repr(bundle))


def _promise(key: ShapeKey) -> str:
    """Return the name under which a standing shape is remembered on the machines bought for it."""
    return "standing " + " ".join(f"{name}={amount}" for name, amount in key[0]) + f" {key[1]}"


def _stays_longest(stand: Stand) -> tuple[object, ...]:
    """Order stands so that those come first which stay in any case; among idle ones the cheapest."""
    price = stand.instance.price_micro if stand.instance else 0
    is_sure = stand.rank in (Rank.BOUGHT, Rank.READY_BUSY) or bool(stand.used)
    return (not is_sure, stand.rank, price or 0, stand.name)


def _needed_by(owner: str) -> str:
    return f"standing request of `{owner}`" if owner else "standing request"
