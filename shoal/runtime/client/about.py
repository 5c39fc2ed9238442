"""What code may know about where it runs: Ray's runtime context."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.foundation.amounts import quantities
from shoal.runtime.client.context import current_task

if TYPE_CHECKING:
    from shoal.runtime.client.session import Session


class RuntimeContext:
    """Answers about this process, task or actor. Made anew by each `get_runtime_context()`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._task = current_task()

    @property
    def _actor(self) -> Any:
        return self._session.this_actor

    # ---------------------------------------------------------------------------------------------- ids

    def get_job_id(self) -> str:
        """Return the id of the driver's job."""
        return self._session.job

    def get_node_id(self) -> str:
        """Return the id of this node."""
        return str(self._session.core.info["node_id"])

    def get_worker_id(self) -> str:
        """Return the id of this process."""
        return self._session.core.process.hex()

    def get_task_id(self) -> str | None:
        """Return the id of the running task, None outside of one."""
        return None if self._task is None else (self._task.owner + self._task.n.to_bytes(6, "big")).hex()

    def get_task_name(self) -> str | None:
        """Return the name of the running task: as its options say, else its function's, or `Class.method`."""
        if self._task is None:
            return None
        name = self._task.name.rpartition("<locals>.")[2]
        instance = getattr(self._actor, "instance", None)
        return f"{type(instance).__name__}.{name}" if hasattr(instance, name) else name

    def get_task_function_name(self) -> str | None:
        """Return the name of the running task's function or method, as far as no other name was given."""
        return self.get_task_name()

    def get_actor_id(self) -> str | None:
        """Return the id of the actor that lives here, None outside of one."""
        return None if self._actor is None else self._actor.actor_id.hex()

    def get_actor_name(self) -> str | None:
        """Return the actor's name, empty if it has none, None outside of one."""
        return None if self._actor is None else self._actor.name

    def get_placement_group_id(self) -> str | None:
        """Return the id of the placement group in which this runs."""
        group = self._group
        return None if group is None else group.group_id

    @property
    def _group(self) -> Any:
        return self._session.own_group() if self._task is None else (self._task.group or self._session.own_group())

    # ---------------------------------------------------------------------------------------------- properties

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.get_job_id()

    @property
    def node_id(self) -> str:
        """This node's id."""
        return self.get_node_id()

    @property
    def task_id(self) -> str | None:
        """The running task's id."""
        return self.get_task_id()

    @property
    def actor_id(self) -> str | None:
        """The actor's id."""
        return self.get_actor_id()

    @property
    def namespace(self) -> str:
        """The driver's namespace."""
        return self._session.namespace

    @property
    def current_actor(self) -> Any:
        """A handle of the actor that runs this.

        Raises:
            RuntimeError: no actor runs this.
        """
        if self._actor is None:
            raise RuntimeError("current_actor: this is not running in an actor")
        return self._actor.own_handle()

    @property
    def current_placement_group_id(self) -> str | None:
        """The placement group's id."""
        return self.get_placement_group_id()

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether what this starts runs in the same group."""
        group = self._group
        return bool(group is not None and group.captures)

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether this actor was restarted."""
        return bool(self._actor is not None and self._actor.restarts > 0)

    @property
    def runtime_env(self) -> dict[str, Any]:
        """The environment of this process, as it was given."""
        return self._session.environment.shown()

    def get_runtime_env_string(self) -> str:
        """Return the environment as JSON."""
        import json

        return json.dumps(self.runtime_env)

    @property
    def gcs_address(self) -> str:
        """Where this node's agent listens."""
        return str(self._session.core.info.get("agent", [""])[0])

    # ---------------------------------------------------------------------------------------------- resources

    def get_assigned_resources(self) -> dict[str, float]:
        """Return what this worker holds, in natural units."""
        return quantities(self._session.held_amounts)

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """Return the accelerators of this worker by kind."""
        listed = os.environ.get("CUDA_VISIBLE_DEVICES", "") if self._session.core.is_worker else ""
        return {"GPU": [one for one in listed.split(",") if one]}

    def get_resource_ids(self) -> dict[str, list[str]]:
        """Return the accelerators of this worker by kind."""
        return self.get_accelerator_ids()

    def get_node_labels(self) -> dict[str, str]:
        """Return this node's labels."""
        return dict(self._session.core.info.get("labels", {}))

    def get_session_name(self) -> str:
        """Return the name of the node's session directory."""
        return Path(str(self._session.core.info.get("session", ""))).name

    def get_temp_dir(self) -> str:
        """Return the node's session directory."""
        return str(self._session.core.info.get("session", ""))

    def is_canceled(self) -> bool:
        """Say whether the running task was cancelled."""
        return bool(self._task is not None and self._session.is_cancelled(self._task))

    def get(self) -> dict[str, Any]:
        """Return the ids as a dict."""
        found = {"job_id": self.job_id, "node_id": self.node_id, "namespace": self.namespace}
        if self.task_id is not None:
            found["task_id"] = self.task_id
        if self.actor_id is not None:
            found["actor_id"] = self.actor_id
        return found
