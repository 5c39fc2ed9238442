"""A head in a process of its own, for tests that kill it: `python -m tests.head.head_process DIRECTORY SECRET`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from shoal.foundation.clock import SystemClock
from shoal.foundation.eventlog import MemoryLog
from shoal.runtime.head.core.events import HeadSettings
from shoal.runtime.head.journal import SqliteJournal
from shoal.runtime.head.server import HeadServer
from shoal.transport.address import unix
from shoal.wire.hello import Credential

UID = "ef" * 16


async def serve(directory: Path, secret: bytes) -> None:
    clock = SystemClock()
    settings = HeadSettings(cluster_uid=UID)
    journal = SqliteJournal(directory / "head.db")
    head = HeadServer(clock, Credential(UID, secret), None, journal, MemoryLog(clock), settings)
    await head.start(unix(directory / "head.sock"))
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), bytes.fromhex(sys.argv[2])))
