"""The head process: journal, core, frames for agents, gRPC for everyone else."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import shoal
from shoal.assembly.specs import HeadSpec, read
from shoal.foundation.clock import SystemClock
from shoal.foundation.eventlog import FileLog
from shoal.transport import address, discovery


async def run_head(path: Path) -> None:
    """Run the head until it is told to end."""
    from shoal.runtime.head.core.events import HeadSettings
    from shoal.runtime.head.journal import SqliteJournal
    from shoal.runtime.head.server import HeadServer

    spec = read(path, HeadSpec)
    clock = SystemClock()
    head = HeadServer(
        clock,
        discovery.load_credential(Path(spec.secret_file)),
        spec.tls.serving() if spec.tls else None,
        SqliteJournal(Path(spec.journal)),
        FileLog(Path(spec.events), clock),
        HeadSettings(
            cluster_uid=spec.uid,
            cluster_name=spec.cluster_name,
            epoch=spec.epoch,
            node_dead_s=spec.node_dead_s,
            fence_s=spec.fence_s,
            request_ttl_s=spec.request_ttl_s,
            version=shoal.__version__,
        ),
    )
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await head.start([address.parse(text) for text in spec.frames], address.parse(spec.grpc))
    try:
        waits = [asyncio.create_task(one.wait()) for one in (ended, head.is_down)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
    finally:
        await head.stop()
