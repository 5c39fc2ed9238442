"""Demand as the loop hears it: what waits, when it grew last, and what of it the newest plan has answered.

By this the loop tells news that need a plan at once from news that can wait: usage changes all the time, and what waits
and was answered waits for machines on their way, or for a reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from shoal.autoscaler.decide.commit import quiet_left_s
from shoal.model.policy import Thinking
from shoal.model.snapshot import Work


class Demand:
    """What is known of the demand in the head's newest word."""

    def __init__(self) -> None:
        self.waiting = 0
        """How many units wait in all."""
        self._grew_s: float | None = None
        """When it grew last, since it was planned for."""
        self._unmet_since_s: float | None = None
        self._answered = _Answered({}, frozenset(), frozenset())

    def hear(self, work: Work, now_s: float) -> bool:
        """Take in a word of the head; say whether anything waits that the newest plan has not answered."""
        waiting = _units(work)
        if waiting > self.waiting:
            self._grew_s = now_s
            if self._unmet_since_s is None:
                self._unmet_since_s = now_s
        elif waiting == 0:
            self._unmet_since_s = self._grew_s = None
        self.waiting = waiting
        return waiting > 0 and self._answered.is_outgrown_by(work)

    def quiet_s(self, thinking: Thinking, now_s: float) -> float:
        """Return when to act by the quiet rule."""
        if self._grew_s is None or self._unmet_since_s is None:
            return now_s
        return now_s + quiet_left_s(thinking, now_s - self._grew_s, now_s - self._unmet_since_s)

    def answer(self, work: Work) -> float | None:
        """Note that a plan is made for this word; return when demand grew last before it, None if it did not."""
        grew_s, self._grew_s, self._unmet_since_s = self._grew_s, None, None
        self._answered = _Answered.by(work)
        return grew_s


def _units(work: Work) -> int:
    """Return how many units wait in all, to see whether demand grows."""
    return (
        sum(one.waiting for one in work.classes)
        + sum(len(gang.bundles) for gang in work.gangs)
        + sum(len(one.bundles) for one in work.standing)
    )


class _Answered(NamedTuple):
    """The demand that a plan was made for: units by class, where they fit but wait, and gangs."""

    waiting: Mapping[str, int]
    unplaceable: frozenset[tuple[str, str]]
    gangs: frozenset[str]

    @classmethod
    def by(cls, work: Work) -> _Answered:
        return cls(
            {one.key: one.waiting for one in work.classes},
            frozenset((one.key, name) for one in work.classes for name in one.unplaceable_on),
            frozenset(gang.gang_id for gang in work.gangs),
        )

    def is_outgrown_by(self, work: Work) -> bool:
        """Say whether anything waits that did not wait then."""
        return any(
            one.waiting > self.waiting.get(one.key, 0)
            or any((one.key, name) not in self.unplaceable for name in one.unplaceable_on)
            for one in work.classes
        ) or any(gang.gang_id not in self.gangs for gang in work.gangs)
