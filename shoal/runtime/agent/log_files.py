"""The log files of a node: its workers', and those of the machine's own processes that it was told of. Read only.

A file is found by its name among those listed, so nobody reads outside of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

READ_BYTES = 64 * 1024
READ_BYTES_MAX = 16 * 2**20


class LogFiles:
    """`directory` holds what workers write; `others` are names and files, or directories whose files count."""

    def __init__(self, node_id: str, directory: Path, others: Mapping[str, Path]) -> None:
        self._node_id, self._directory, self._others = node_id, directory, dict(others)

    def answer(self, args: dict[str, Any]) -> dict[str, Any]:
        """Return the list of files, or with a `name` bytes of that one: `offset` (else `tail_bytes`), `bytes_max`.

        Raises:
            ValueError: there is no file of that name here.
            OSError: it cannot be read.
        """
        name = args.get("name")
        if not name:
            files = sorted(dict(self._files()).items())
            rows = [{"name": one, "node_id": self._node_id, "size": _size(path)} for one, path in files]
            return {"rows": rows, "total": len(rows)}
        path = dict(self._files()).get(str(name))
        if path is None:
            raise ValueError(f"No such file among the log files of node {self._node_id[:12]}: `{str(name)[:200]}`")
        with path.open("rb") as file:
            size = file.seek(0, 2)
            start = int(args.get("offset", max(0, size - int(args.get("tail_bytes", READ_BYTES)))))
            if start > size:  # it was turned over since
                start = 0
            file.seek(start)
            data = file.read(min(READ_BYTES_MAX, int(args.get("bytes_max", 1 << 20))))
        return {"data": data, "offset": start + len(data), "size": size}

    def _files(self) -> Iterator[tuple[str, Path]]:
        """Yield names and paths; of two files with one name the later holds."""
        for name, place in self._others.items():
            if place.is_dir():
                yield from ((path.name, path) for path in place.iterdir() if path.is_file())
            else:
                older = place.with_name(place.name + ".1")
                yield from ((one, path) for one, path in ((name, place), (name + ".1", older)) if path.is_file())
        if self._directory.is_dir():
            yield from ((path.name, path) for path in self._directory.iterdir() if path.is_file())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
