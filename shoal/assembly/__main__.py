"""`python -m shoal.assembly ROLE SPEC`: one process of a cluster, run by its guard until it is told to end."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from shoal.foundation.errors import UserError
from shoal.guard.lock import keep_inherited_lock
from shoal.guard.processes import die_with_parent

ROLES = ("head", "agent", "autoscaler")


def main() -> int:
    """Run one role; return the exit code."""
    if len(sys.argv) != 3 or sys.argv[1] not in ROLES:
        print(f"usage: python -m shoal.assembly {'|'.join(ROLES)} SPEC", file=sys.stderr)  # noqa: T201
        return 2
    parent = os.environ.pop("SHOAL_PARENT", "")
    die_with_parent(int(parent) if parent.isdecimal() else None)
    keep_inherited_lock()
    try:
        _run(_role(sys.argv[1], Path(sys.argv[2])))
    except UserError as error:
        print(f"{error}\n{error.hint}".rstrip(), file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


def _role(role: str, spec: Path) -> Coroutine[Any, Any, None]:
    match role:
        case "head":
            from shoal.assembly.head import run_head

            return run_head(spec)
        case "agent":
            from shoal.assembly.node import run_node

            return run_node(spec)
        case _:
            from shoal.assembly.autoscaler import run_autoscaler

            return run_autoscaler(spec)


def _run(main_task: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop, with what start-up made left out of garbage collection."""
    import uvloop

    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main_task)


if __name__ == "__main__":
    raise SystemExit(main())
