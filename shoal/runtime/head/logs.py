"""Finding and reading log files that agents hold: by worker, actor, task, job, process number or name.

Workers write `worker-<last 8 digits of the process id>-<pid>.out` and `.err` in their node's log directory. Nothing is
kept here: every call lists the files of the nodes in question and reads from them, at most `READ_BYTES_MAX` at a time.
"""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from shoal.foundation.errors import UserError

if TYPE_CHECKING:
    from shoal.runtime.head.server import HeadServer

FOLLOW_S = 0.5
ALL = -1
READ_BYTES_MAX = 1 << 20
FILES_MAX = 1000
LINE_BYTES_GUESS = 512
"""How many bytes from the end are read for each line that is asked for; more if these hold fewer lines."""
TAIL_BYTES_MAX = 8 * READ_BYTES_MAX
"""How far from the end lines are sought."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which files, and how much of them. Empty fields do not narrow the choice; `tail` in lines, -1: all, -2: none.

    `node_id` may be the beginning of one.
    """

    node_id: str = ""
    file: str = ""
    actor_id: str = ""
    task_id: str = ""
    worker_id: str = ""
    job: str = ""
    pid: int = 0
    is_error_stream: bool = False
    tail: int = 100
    follow: bool = False
    timeout_s: float = 0.0


class Part(NamedTuple):
    """Some bytes of one file, or a warning."""

    node_id: str
    file: str
    data: bytes
    warning: str = ""


class _Choice(NamedTuple):
    """Files on some nodes (None: all) whose names match any pattern."""

    node_ids: list[str] | None
    patterns: list[str]


async def read(head: HeadServer, wanted: Wanted) -> AsyncIterator[Part]:
    """Yield what the chosen files hold, then what is added if `follow`.

    Raises:
        UserError: nothing of that name or id is known.
    """
    choice = await _chosen(head, wanted)
    offsets: dict[tuple[str, str], int] = {}
    is_first = True
    while True:
        files, warnings = await _files(head, choice, wanted)
        if is_first:
            for warning in warnings:
                yield Part("", "", b"", warning)
        for node_id, file in files[:FILES_MAX]:
            is_new = (node_id, file) not in offsets
            args: dict[str, Any] = {"name": file, "bytes_max": READ_BYTES_MAX}
            if not is_new:
                args["offset"] = offsets[node_id, file]
            elif wanted.tail == ALL or not is_first:
                args["offset"] = 0
            else:
                args["offset"] = await _start_of_tail(head, node_id, file, wanted)
            while (answer := await _query(head, args, node_id, wanted)) is not None:
                data = bytes(answer.get("data") or b"")
                offset = offsets[node_id, file] = int(answer.get("offset") or 0)
                if data or (is_first and is_new and not args["offset"]):  # an empty file is there all the same
                    yield Part(node_id, file, data)
                if offset >= int(answer.get("size") or 0) or not answer.get("data"):
                    break
                args = {"name": file, "bytes_max": READ_BYTES_MAX, "offset": offset}
        if not wanted.follow:
            return
        is_first = False
        await asyncio.sleep(FOLLOW_S)


async def _start_of_tail(head: HeadServer, node_id: str, file: str, wanted: Wanted) -> int:
    """Return the offset of the last `tail` lines of a file; 0 if it has no more, or is gone."""
    count = max(0, wanted.tail)
    reach = max(1, count * LINE_BYTES_GUESS)
    while (answer := await _query(head, {"name": file, "tail_bytes": min(reach, TAIL_BYTES_MAX),
                                         "bytes_max": TAIL_BYTES_MAX}, node_id, wanted)) is not None:  # fmt: skip
        data, end = bytes(answer.get("data") or b""), int(answer.get("offset") or 0)
        begin = end - len(data)
        found = _last_lines(data, count)
        if begin == 0 or len(data.splitlines()) > count or reach >= TAIL_BYTES_MAX:
            return end - len(found)
        reach *= 8
    return 0


async def _chosen(head: HeadServer, wanted: Wanted) -> _Choice:
    nodes = await _nodes(head, wanted.node_id) if wanted.node_id else None
    suffix = "err" if wanted.is_error_stream else "out"
    if wanted.actor_id:
        rows = (await head.ask("state", {"kind": "actors", "filters": [["actor_id", "=", wanted.actor_id]]}))["rows"]
        if not rows or not rows[0]["pid"]:
            raise UserError(f"no process of an actor `{wanted.actor_id}` is known")
        return _Choice([rows[0]["node_id"]], [f"worker-*-{rows[0]['pid']}.{suffix}*"])
    if wanted.task_id:
        found = await _rows(head, "tasks", "task_id", wanted.task_id, wanted)
        pids = [row for row in found if row.get("worker_pid")]
        if not pids:
            raise UserError(f"no process of a task `{wanted.task_id}` is known")
        last = pids[-1]
        return _Choice([str(last["node_id"])], [f"worker-*-{last['worker_pid']}.{suffix}*"])
    if wanted.worker_id:
        return _Choice([wanted.worker_id[:28]], [f"worker-{wanted.worker_id[-8:]}-*.{suffix}*"])
    if wanted.job:
        found = await _rows(head, "workers", "job_id", wanted.job, wanted)
        return _Choice(nodes, [f"worker-*-{row['pid']}.{suffix}*" for row in found if row.get("pid")])
    if wanted.pid:
        return _Choice(nodes, [f"worker-*-{wanted.pid}.{suffix}*"])
    return _Choice(nodes, [wanted.file or "*"])


async def _nodes(head: HeadServer, prefix: str) -> list[str]:
    """Return the ids of the nodes that begin with `prefix`.

    Raises:
        UserError: none does.
    """
    rows = (await head.ask("state", {"kind": "nodes", "limit": 10_000}))["rows"]
    found = [str(row["node_id"]) for row in rows if str(row["node_id"]).startswith(prefix.lower())]
    if not found:
        raise UserError(f"no node `{prefix}`")
    return found


async def _files(head: HeadServer, choice: _Choice, wanted: Wanted) -> tuple[list[tuple[str, str]], list[str]]:
    args = {"what": "logs", "args": {"limit": 10_000, **_timeout(wanted)}, "node_ids": choice.node_ids}
    found = await head.ask("query", args)
    files = [
        (str(row.get("node_id", "")), str(row["file"]))
        for row in found["rows"]
        if "file" in row and any(fnmatch.fnmatchcase(str(row["file"]), pattern) for pattern in choice.patterns)
    ]
    return sorted(files), found["warnings"]


async def _query(head: HeadServer, args: dict[str, Any], node_id: str, wanted: Wanted) -> dict[str, Any] | None:
    """Read from one file; None if it is gone or its node does not answer."""
    asked = {"what": "logs", "args": {**args, **_timeout(wanted)}, "node_ids": [node_id]}
    rows = (await head.ask("query", asked))["rows"]
    return rows[0] if rows else None


async def _rows(head: HeadServer, kind: str, key: str, value: str, wanted: Wanted) -> list[dict[str, Any]]:
    args = {"kind": kind, "filters": [[key, "=", value]], "limit": 10_000, **_timeout(wanted)}
    found: list[dict[str, Any]] = (await head.ask("state", args))["rows"]
    return found


def _timeout(wanted: Wanted) -> dict[str, float]:
    return {"timeout_s": wanted.timeout_s} if wanted.timeout_s else {}


def _last_lines(data: bytes, count: int) -> bytes:
    """Return the last `count` lines.

    >>> _last_lines(b"a\\nb\\nc\\n", 2)
    b'b\\nc\\n'
    """
    lines = data.splitlines(keepends=True)
    return b"".join(lines[-count:]) if count > 0 else b""
