"""One process's use of a cluster: the core and the parts built on it, from `init` or the worker's start to the end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from shoal.runtime.client.actors import Actors
from shoal.runtime.client.context import Running, current_task
from shoal.runtime.client.core import Core
from shoal.runtime.client.environment import Environment, merged
from shoal.runtime.client.functions import Functions
from shoal.runtime.client.generators import Streams
from shoal.runtime.client.getwait import Values
from shoal.runtime.client.large import Stored
from shoal.runtime.client.news import News
from shoal.runtime.client.options import TaskOptions
from shoal.runtime.client.origins import Origins
from shoal.runtime.client.owed import Owed
from shoal.runtime.client.owner import Owner, Recipe, WorkClass
from shoal.runtime.client.refs import ObjectRef
from shoal.runtime.client.replays import Replays
from shoal.runtime.client.results import Results
from shoal.runtime.client.strategies import Place
from shoal.wire import tasks as wire

JOB_INFO = ("sys_path", "cwd", "environment", "namespace", "records_sites")
"""What work that we hand out must know of our job on nodes that do not."""


class Session:
    """Everything of one process. `job` and `namespace` are known once it belongs to a job."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.job = ""
        self.namespace = ""
        self.environment = Environment()
        self.job_info: dict[str, Any] = {}
        self.origins = Origins(core)
        self.owner = Owner(core)
        self.results = Results(core, self.owner)
        self.values = Values(core)
        self.values.settle_result = self.results
        self.stored = Stored(self)
        self.values.stored = self.results.stored = self.stored
        self.functions = Functions(self)
        self.replays = Replays(self)
        self.streams = Streams(self)
        self.actors = Actors(self)
        self.news = News(self)
        self.owed = Owed(self)
        self.owner.on_lost = self.owed.lost
        self.results.on_end = self.actors.calls.on_end = self.owed.ended
        self.is_closed = False
        self.this_actor: Any = None
        """The actor that lives in this process."""
        self.held_amounts: dict[str, int] = {}
        self.own_group: Callable[[], Any] = lambda: None
        self.is_cancelled: Callable[[Running], bool] = lambda running: running.is_cancelled
        self.log_to_driver = True
        self._later: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._later_thread: threading.Thread | None = None
        core.handlers[wire.ALIVE] = lambda link, m: self._on_alive(m[1])
        self.actors.start()
        self.owner.on_died.append(core.reliable.process_died)
        self.owner.on_died.append(self.values.owner_died)
        self.owner.on_died.append(self.actors.process_died)

    # ---------------------------------------------------------------------------------------------- the hot path

    def submit(self, recipe: Recipe | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a task of a call."""
        assert recipe is not None
        return self.functions.submit(recipe, args, kwargs)

    def put_large(self, dumped: Any, refs: list[ObjectRef[Any]]) -> ObjectRef[Any]:
        """Put a large pickled argument into the object store."""
        return self.stored.put(dumped, refs)

    def fresh_ref(self) -> ObjectRef[Any]:
        """Return a ref of ours that is not ready."""
        return ObjectRef(next(self.core.ids), self.core.process)

    # ---------------------------------------------------------------------------------------------- describing work

    def recipe_for(self, function: Any, given: dict[str, Any], is_generator: bool, name: str) -> Recipe:
        """Return the recipe of a function under its options."""
        return self.functions.recipe(function, given, is_generator, name)

    def class_spec(self, options: TaskOptions, name: str) -> dict[str, Any]:
        """Return what the agents must know of a class of work, as plain values."""
        place = self.place_of(options.place)
        environment = merged(self.environment, options.environment)
        spec: dict[str, Any] = {
            "amounts": options.amounts,
            "class_key": options.class_key
            + (place.group.group_id[:6] + str(place.group.bundle) if place.group else ""),
            "job": self.job,
            "name": name,
        }
        selector = place.selector
        if selector:
            spec["selector"] = [
                selector.hard,
                list(selector.fallback),
                list(selector.node_ids),
                selector.is_soft_node,
            ]
        if place.spread:
            spec["spread"] = True
        if place.group is not None:
            spec["group"] = [place.group.group_id, place.group.bundle, place.group.captures]
        if environment:
            spec["environment"] = environment.shown()
            spec["environment_key"] = environment.key
        if options.max_calls == 1:
            spec["is_single_use"] = True
        if options.max_calls:
            spec["max_calls"] = options.max_calls
        if options.max_retries == 0:
            spec["is_retriable"] = False
        if self.job_info:
            spec["job_info"] = self.job_info
        return spec

    def place_of(self, place: Place) -> Place:
        """Return a place with a capturing parent's group applied where nothing was said."""
        if place.inherits:
            running = current_task()
            if running is not None and running.group is not None and running.group.captures:
                return Place(selector=place.selector, group=running.group)
        return place

    def work_class(self, spec: dict[str, Any]) -> WorkClass:
        """Return the class of work with this spec."""
        return self.owner.work_class(spec)

    # ---------------------------------------------------------------------------------------------- the rest

    def later(self, call: Callable[[], None]) -> None:
        """Run `call` soon on a thread of its own, without our lock: for what may run user code."""
        if self._later_thread is None:
            self._later_thread = threading.Thread(target=self._run_later, name="shoal-later", daemon=True)
            self._later_thread.start()
        self._later.put(call)

    def _run_later(self) -> None:
        while (call := self._later.get()) is not None:
            try:
                call()
            except Exception:
                self.core._report_trouble()

    def _on_alive(self, process: bytes) -> None:
        self.owner.process_alive(process)
        self.core.reliable.process_alive(process)
        self.values.owner_alive(process)
        self.actors.process_alive(process)

    def close(self) -> None:
        """End our use of the cluster."""
        if self.is_closed:
            return
        self.is_closed = True
        self._later.put(None)
        self.stored.close()
        self.core.close()

    @property
    def running(self) -> Running | None:
        """What runs on this thread, None in a driver."""
        return current_task()
