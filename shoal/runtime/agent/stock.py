"""What this node has, what of it is taken, and which GPUs: the agent's books.

A `Grip` says what one lease or actor took and from where (the node itself or a bundle), so that giving it back cannot
go wrong. Blocked work gives its CPU back for a while and takes it again even if `free` goes negative.
"""

from __future__ import annotations

from collections.abc import Mapping

from shoal.foundation.amounts import UNIT, Amounts, minus, plus
from shoal.placement.fits import fits

BundleKey = tuple[str, int]
"""Group id and number of the bundle."""


class Grip:
    """What one holder took."""

    __slots__ = ("amounts", "bundle", "gpus", "is_blocked")

    def __init__(self, amounts: Amounts, bundle: BundleKey | None, gpus: dict[int, int]) -> None:
        self.amounts, self.bundle, self.gpus = amounts, bundle, gpus
        self.is_blocked = False
        """Its CPU is given back while it waits."""


class Stock:
    """The node's amounts, its GPUs one by one, and the bundles carved out of both."""

    def __init__(self, total: Amounts) -> None:
        self.total = dict(total)
        self.free = dict(total)
        self._gpus = dict.fromkeys(range(total.get("GPU", 0) // UNIT), UNIT)
        self.bundles: dict[BundleKey, Amounts] = {}
        """What each bundle was given."""
        self._bundle_free: dict[BundleKey, Amounts] = {}
        self._bundle_gpus: dict[BundleKey, dict[int, int]] = {}
        self.version = 0
        """Bumped by every change, so that a report knows whether to speak."""

    def take(self, amounts: Amounts, bundle: BundleKey | None = None) -> Grip | None:
        """Take `amounts` from the node, or from a bundle (number -1: any of its group); None if it does not fit."""
        if bundle is None:
            if not fits(amounts, self.free):
                return None
            gpus = _pick(self._gpus, amounts.get("GPU", 0))
            if gpus is None:
                return None
            self.free = minus(self.free, amounts)
            self.version += 1
            return Grip(amounts, None, gpus)
        group, number = bundle
        for key in [bundle] if number >= 0 else sorted(key for key in self.bundles if key[0] == group):
            free = self._bundle_free.get(key)
            if free is None or not fits(amounts, free):
                continue
            gpus = _pick(self._bundle_gpus[key], amounts.get("GPU", 0))
            if gpus is None:
                continue
            self._bundle_free[key] = minus(free, amounts)
            self.version += 1
            return Grip(amounts, key, gpus)
        return None

    def give_back(self, grip: Grip) -> None:
        """Return everything that a grip took."""
        amounts = grip.amounts
        if grip.is_blocked:
            amounts = {name: amount for name, amount in amounts.items() if name != "CPU"}
        self._add(grip.bundle, amounts)
        pool = self._gpus if grip.bundle is None else self._bundle_gpus.get(grip.bundle)
        if pool is not None:
            for gpu, amount in grip.gpus.items():
                pool[gpu] += amount
        grip.amounts, grip.gpus, grip.is_blocked = {}, {}, False

    def block(self, grip: Grip) -> None:
        """Give the CPU of waiting work back; memory and GPUs stay."""
        if not grip.is_blocked:
            grip.is_blocked = True
            self._add(grip.bundle, {"CPU": grip.amounts.get("CPU", 0)})

    def unblock(self, grip: Grip) -> None:
        """Take the CPU again, whether there is one or not."""
        if grip.is_blocked:
            grip.is_blocked = False
            self._add(grip.bundle, {"CPU": -grip.amounts.get("CPU", 0)})

    # ------------------------------------------------------------------------------------------------ bundles

    def prepare(self, key: BundleKey, amounts: Amounts) -> bool:
        """Carve a bundle out of what is free; False if it does not fit. True if it is there already."""
        if key in self.bundles:
            return True
        if not fits(amounts, self.free):
            return False
        gpus = _pick(self._gpus, amounts.get("GPU", 0))
        if gpus is None:
            return False
        self.free = minus(self.free, amounts)
        self.bundles[key], self._bundle_free[key], self._bundle_gpus[key] = amounts, dict(amounts), gpus
        self.version += 1
        return True

    def drop_bundle(self, key: BundleKey) -> None:
        """Return a bundle whose holders are gone."""
        amounts = self.bundles.pop(key, None)
        if amounts is None:
            return
        del self._bundle_free[key]
        for gpu, amount in self._bundle_gpus.pop(key).items():
            self._gpus[gpu] += amount
        self.free = plus(self.free, amounts)
        self.version += 1

    def lacking(self, amounts: Amounts, bundle: BundleKey | None) -> frozenset[str]:
        """Return of which resources less is free than `amounts`; none if even an empty node (or bundle) has less."""
        if not self.could_ever_fit(amounts, bundle):
            return frozenset()
        if bundle is None:
            places = [self.free]
        else:
            places = [
                free for key, free in self._bundle_free.items() if key[0] == bundle[0] and bundle[1] in (-1, key[1])
            ]
        found = frozenset(name for free in places for name, amount in amounts.items() if free.get(name, 0) < amount)
        return found or frozenset(amounts)  # there is enough of all, but of no one GPU

    def could_ever_fit(self, amounts: Amounts, bundle: BundleKey | None) -> bool:
        """Say whether an empty node (or bundle) would hold `amounts`."""
        if bundle is None:
            return fits(amounts, self.total)
        group, number = bundle
        return any(
            fits(amounts, held) for key, held in self.bundles.items() if key[0] == group and number in (-1, key[1])
        )

    def _add(self, bundle: BundleKey | None, amounts: Mapping[str, int]) -> None:
        self.version += 1
        if bundle is None:
            self.free = plus(self.free, amounts)
        elif bundle in self._bundle_free:
            self._bundle_free[bundle] = plus(self._bundle_free[bundle], amounts)


def _pick(gpus: dict[int, int], amount: int) -> dict[int, int] | None:
    """Take whole GPUs, or a part of one that is the fullest where it fits; None if there is none."""
    if amount <= 0:
        return {}
    if amount < UNIT:
        able = sorted((free, gpu) for gpu, free in gpus.items() if free >= amount)
        if not able:
            return None
        gpus[able[0][1]] -= amount
        return {able[0][1]: amount}
    whole = [gpu for gpu, free in sorted(gpus.items()) if free == UNIT][: amount // UNIT]
    if len(whole) < amount // UNIT:
        return None
    for gpu in whole:
        gpus[gpu] = 0
    return dict.fromkeys(whole, UNIT)
