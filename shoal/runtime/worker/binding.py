"""To whom the worker belongs: its job's paths, working directory and environment, its GPUs, its actor."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.runtime.client.environment import environment
from shoal.runtime.client.session import JOB_INFO
from shoal.runtime.client.strategies import GroupPlace

if TYPE_CHECKING:
    from shoal.runtime.worker.execute import Executor


class Binding:
    """What BIND and BUILD told."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._job: str | None = None
        self.amounts: dict[str, int] = {}
        self.held_cpu: bool | None = None
        self.group: GroupPlace | None = None

    @property
    def holds_cpu(self) -> bool:
        """Whether blocking gives a CPU back."""
        if self.held_cpu is not None:
            return self.held_cpu
        return bool(self.amounts.get("CPU"))

    def about(self) -> dict[str, Any]:
        """Return what the rows of what ran here have in common: amounts held, group, environment."""
        group, own = self.group, self._executor.session.environment
        return {
            "amounts": self.amounts,
            "group": group.group_id if group is not None else "",
            "environment": own.shown() if own else {},
        }

    def bind(self, info: dict[str, Any]) -> None:
        """Belong to a job; a second time only the amounts and GPUs may differ."""
        telling = self._executor.replies.telling
        group_id = info["group"][0] if info.get("group") else ""
        if telling.is_due and (info.get("amounts"), group_id) != (
            self.amounts,
            (self.group and self.group.group_id) or "",
        ):
            telling.tell_all()  # what ran held what is held no more
        self.amounts = self._executor.session.held_amounts = info.get("amounts", {})
        gpus = info.get("gpus") or []
        if gpus or "GPU" in self.amounts:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        group = info.get("group")
        self.group = GroupPlace(*group) if group else None
        session = self._executor.session
        if self._job == info["job"]:
            return
        self._job = session.job = info["job"]
        session.namespace = info.get("namespace", "")
        session.origins.records_sites = bool(info.get("records_sites"))
        own = info.get("environment") or {}
        session.environment = environment_or_none(own)
        session.job_info = {name: info.get(name) for name in JOB_INFO}
        paths = list(info.get("sys_path") or ())
        sys.path[:] = [*paths, *(path for path in sys.path if path not in paths)]  # in the driver's order
        for path in own.get("py_modules", ()):
            folder = str(Path(path).parent)  # the module's parent is what must be importable
            sys.path.insert(0, folder)
        cwd = own.get("working_dir") or info.get("cwd")
        if cwd:
            try:
                os.chdir(cwd)
            except OSError:
                pass  # another host: the folder is not there
        if own.get("working_dir"):
            sys.path.insert(0, own["working_dir"])
        set_variables(own.get("env_vars", {}))

    def build(self, message: list[Any]) -> Any:
        """Construct the actor that lives here from now on."""
        from shoal.runtime.worker.actor import build

        _, actor_id, generation, spec, options = message
        return build(self._executor, actor_id, generation, spec, options)


def set_variables(given: Mapping[str, str]) -> None:
    """Set environment variables; `${NAME}` in a value stands for what NAME is here, nothing if it is not set."""
    for name, value in given.items():
        os.environ[name] = _NAMED.sub(lambda found: os.environ.get(found[1], ""), value)


_NAMED = re.compile(r"\$\{(\w+)\}")


def environment_or_none(given: dict[str, Any]) -> Any:
    """Return a checked environment; folders that are not on this host do not matter here."""
    try:
        return environment(given)
    except (ValueError, TypeError):
        return environment({"env_vars": given.get("env_vars", {})})
