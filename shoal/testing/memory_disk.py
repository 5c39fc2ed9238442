"""A disk in memory, for ledgers of tests and of simulated clusters: it survives a crash of the loop."""

from __future__ import annotations

import sqlite3


class MemoryDisk(sqlite3.Connection):
    """A database in memory that closes with its last user, as a file would stay behind for nobody."""

    def __init__(self) -> None:
        super().__init__(":memory:", isolation_level=None, check_same_thread=False)

    def __del__(self) -> None:
        self.close()
