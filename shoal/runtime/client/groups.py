"""Placement groups, as the process that made them or was handed one sees them: the handle, and news of its state.

A group is made without waiting for the head: its creator is told of every change (`Tell`), so `wait` and `ready` cost
no further request, and a thousand groups are made in one burst. Requests of one process to the head keep their order.
"""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from shoal.foundation.amounts import Amounts, amounts, quantities
from shoal.foundation.ids import IdText
from shoal.model.demand import Bundle, Strategy
from shoal.runtime.client import codec
from shoal.runtime.client.api import session
from shoal.runtime.client.refs import ObjectRef, settle
from shoal.runtime.client.session import Session
from shoal.wire import tasks as wire
from shoal.wire.asks import What
from shoal.wire.messages import GroupSpec


class PlacementGroup:
    """Bundles of resources that are reserved together. Pass it to tasks and actors; it pickles."""

    def __init__(self, group_id: str, bundles: Sequence[Amounts] | None = None) -> None:
        self.id = IdText(group_id)
        self._bundles = None if bundles is None else list(bundles)

    @staticmethod
    def empty() -> PlacementGroup:
        """Return the handle that stands for no group."""
        return PlacementGroup("", [])

    @property
    def is_empty(self) -> bool:
        """Whether it stands for no group."""
        return self.id.is_nil()

    @property
    def bundle_amounts(self) -> list[Amounts]:
        """What each bundle holds, in exact amounts."""
        if self._bundles is None:
            row = groups_of(session()).row(self.id)
            self._bundles = [amounts(one) for one in row["bundles"]]
        return self._bundles

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """What each bundle holds, in natural units."""
        return [quantities(one) for one in self.bundle_amounts]

    @property
    def bundle_count(self) -> int:
        """How many bundles there are."""
        return len(self.bundle_amounts)

    def ready(self) -> ObjectRef[PlacementGroup]:
        """Return a ref that is ready once all bundles are reserved; its value is this group.

        If the group is removed before, reading the ref raises `TaskPlacementGroupRemoved`.
        """
        return groups_of(session()).ready(self)

    def wait(self, timeout_seconds: float | None = 30) -> bool:
        """Wait until all bundles are reserved; False if they are not in time, or never will be."""
        return groups_of(session()).wait(self.id, timeout_seconds)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"PlacementGroup({self.id})"

    def __reduce__(self) -> tuple[Any, ...]:
        return PlacementGroup, (str(self.id), self._bundles)


class Groups:
    """What one session knows of placement groups."""

    def __init__(self, here: Session) -> None:
        # The session holds us through its news; the other way round must be weak, or neither would ever go.
        self._session = weakref.ref(here)
        self._rows: dict[str, dict[str, Any]] = {}
        self._waiting: dict[str, list[tuple[ObjectRef[Any], int, Any]]] = {}
        here.news.on("group", self._heard)
        here.news.on("watch-again", self._watch_again)

    def create(
        self, group_id: str, bundles: Sequence[Bundle], strategy: Strategy, *, name: str, is_detached: bool
    ) -> PlacementGroup:
        """Ask for a group. A named one waits for the head's word: the name may be taken.

        Raises:
            ValueError: another group has the name.
        """
        here = self._here()
        spec = GroupSpec(group_id, list(bundles), strategy, name, here.job, is_detached)
        self._rows[group_id] = {"group_id": group_id, "state": "PENDING"}
        with here.core.lock:
            for bundle in bundles:
                here.owner.make_room(bundle.amounts)
        try:
            if name:
                here.core.ask(What.CREATE_GROUP, {"spec": spec})
            else:
                here.core.request(wire.ASK, What.CREATE_GROUP, {"spec": spec}, self._refused(group_id))
        except BaseException:
            del self._rows[group_id]
            raise
        return PlacementGroup(group_id, [bundle.amounts for bundle in bundles])

    def remove(self, group_id: str) -> None:
        """Ask for a group's end."""
        self._here().core.request(wire.ASK, What.REMOVE_GROUP, {"group_id": str(group_id)}, lambda is_ok, value: None)

    def row(self, group_id: str) -> dict[str, Any]:
        """Return the head's row of a group, and follow it from now on.

        Raises:
            ValueError: there is no such group.
        """
        row: dict[str, Any] = self._here().core.ask(What.WATCH_GROUP, {"group_id": str(group_id)})
        with self._here().core.lock:
            self._heard(row)
        return row

    def ready(self, group: PlacementGroup) -> ObjectRef[Any]:
        """Return a ref that is ready when the group is."""
        here = self._here()
        ref = here.fresh_ref()
        format, data, _ = codec.written(group)
        self._follow(group.id)
        with here.core.lock:
            self._waiting.setdefault(group.id, []).append((ref, format, data))
            self._settle(group.id)
        return ref

    def wait(self, group_id: str, limit_s: float | None) -> bool:
        """Wait until the group is there."""
        here = self._here()
        self._follow(group_id)
        if self._state(group_id) not in _DECIDED:
            resume = here.values.before_block()
            try:
                here.core.wait(lambda: self._state(group_id) in _DECIDED, limit_s)
            finally:
                if resume is not None:
                    resume()
        return self._state(group_id) == "CREATED"

    def why_removed(self, group_id: str) -> str:
        """Return why a group is gone, empty if it is not; follows it from now on."""
        try:
            self._follow(group_id)
        except ValueError as error:
            return str(error)
        return "" if group_id in self._rows else "it was removed"

    def _follow(self, group_id: str) -> None:
        if group_id not in self._rows:
            self.row(group_id)

    def _refused(self, group_id: str) -> Callable[[bool, Any], None]:
        def answered(is_ok: bool, value: Any) -> None:
            if not is_ok:
                self._heard({"group_id": group_id, "state": "REMOVED", "why": str(value[1])})

        return answered

    def _heard(self, row: dict[str, Any]) -> None:
        """Take a row in; removed groups are forgotten. With the core's lock held."""
        group_id = row["group_id"]
        self._rows[group_id] = row
        self._settle(group_id)
        if row["state"] == "REMOVED":
            del self._rows[group_id]
            owner = self._here().owner
            for work in owner.by_key.values():
                if work.spec.get("group", ("",))[0] == group_id:
                    owner.end_class(work, f"group removed: {row.get('why') or 'removed'}")

    def _watch_again(self, _: Any) -> None:
        """The head has restarted and does not know who followed what. With the core's lock held."""
        for group_id in tuple(self._rows):
            self._here().core.request(wire.ASK, What.WATCH_GROUP, {"group_id": group_id}, self._seen(group_id))

    def _seen(self, group_id: str) -> Callable[[bool, Any], None]:
        refused = self._refused(group_id)
        return lambda is_ok, value: self._heard(value) if is_ok else refused(is_ok, value)

    def _state(self, group_id: str) -> str:
        row = self._rows.get(group_id)
        return "REMOVED" if row is None else str(row["state"])

    def _settle(self, group_id: str) -> None:
        row = self._rows.get(group_id) or {"state": "REMOVED"}
        if row["state"] not in _DECIDED:
            return
        for ref, format, data in self._waiting.pop(group_id, ()):
            if row["state"] == "CREATED":
                settle(ref, format, data)
            else:
                settle(ref, wire.ERROR, _removed(row.get("why", "")))

    def _here(self) -> Session:
        here = self._session()
        assert here is not None, "a session's groups outlived it"
        return here


def groups_of(here: Session) -> Groups:
    """Return the groups of a session."""
    found = _of_session.get(here)
    if found is None:
        found = _of_session[here] = Groups(here)
    return found


_of_session: weakref.WeakKeyDictionary[Session, Groups] = weakref.WeakKeyDictionary()
_DECIDED = ("CREATED", "REMOVED")


def _removed(why: str) -> bytes:
    from shoal.exceptions import TaskPlacementGroupRemoved

    return pickle.dumps(TaskPlacementGroupRemoved(f"The placement group has been removed: {why}" if why else ""))
