"""The embedded cluster: head and agent in one process, for one driver; it ends with its driver and leaves nothing.

Started by `init()` with one JSON argument. The driver's death is seen in two ways, whatever kills it: the pipe that it
holds open is closed by the kernel, and its pidfd becomes readable (a forked child of the driver may hold the pipe).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import uvloop

import shoal
from shoal.foundation import ids
from shoal.foundation.clock import SystemClock
from shoal.foundation.eventlog import MemoryLog
from shoal.runtime.agent.detect import detected_resources, store_bytes_of
from shoal.runtime.agent.main import Agent
from shoal.runtime.agent.settings import AgentSettings
from shoal.runtime.agent.zygotes import Zygote
from shoal.runtime.head.core.events import HeadSettings
from shoal.runtime.head.journal import MemoryJournal
from shoal.runtime.head.server import HeadServer
from shoal.transport import discovery
from shoal.transport.address import unix
from shoal.wire.hello import Credential, Role, fresh_secret


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver asks for. Amounts in natural units; None: what this machine has."""

    life_fd: int
    answer_fd: int
    driver_pid: int
    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: float | None = None
    resources: dict[str, float] | None = None
    labels: dict[str, str] = {}
    object_store_memory: int | None = None


async def run_embedded(request: Request, zygote: Zygote | None = None) -> None:
    """Run the cluster until its driver is gone."""
    clock = SystemClock()
    uid = ids.cluster_uid()
    directory = discovery.cluster_dir(uid)
    secret = fresh_secret()
    credential = Credential(uid, secret, Role.ADMIN)
    name = f"embedded-{uid[:12]}"
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    _watch_driver(loop, request, ended)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    head = HeadServer(
        clock,
        credential,
        None,
        MemoryJournal(),
        MemoryLog(clock),
        HeadSettings(cluster_uid=uid, cluster_name=name, version=shoal.__version__, settle_s=0.0, place_round_s=0.002),
    )
    frames = unix(directory / "head.sock")
    agent: Agent | None = None
    try:
        discovery.save_secret(directory, Role.ADMIN, secret, uid)
        await head.start(frames)
        resources = detected_resources(
            num_cpus=request.num_cpus,
            num_gpus=request.num_gpus,
            memory=request.memory,
            custom=request.resources,
            store_bytes=request.object_store_memory,
        )
        node_id = ids.fresh(ids.NODE_ID_BYTES).hex()
        agent = Agent(
            clock,
            AgentSettings(
                node_id=node_id,
                instance_id=f"embedded-{uid[:6]}",
                node_type="embedded",
                head=str(frames),
                credential=credential,
                session=directory / "n",
                resources=resources,
                cluster_uid=uid,
                labels=request.labels,
                store_bytes=store_bytes_of(resources),
                is_head=True,
                zygote=zygote,
            ),
        )
        await agent.start()
        await agent.head.joined.wait()
        file = discovery.ClusterFile(
            name=name,
            uid=uid,
            pid=os.getpid(),
            started=discovery.process_started(os.getpid()),
            directory=str(directory),
            frames=str(frames),
            agent=f"unix:{directory / 'n' / 'agent.sock'}",
            kind="embedded",
            started_wall_s=clock.wall_s(),
            version=shoal.__version__,
        )
        discovery.write(file)
        _log_to(directory / "embedded.log")
        _answer(request.answer_fd, file)
        waits = [loop.create_task(ended.wait()), loop.create_task(agent.ended.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
    finally:
        if agent is not None:
            await agent.stop("the embedded cluster ends")
        await head.stop()
        discovery.remove(name, uid)
        shutil.rmtree(directory, ignore_errors=True)


def _watch_driver(loop: asyncio.AbstractEventLoop, request: Request, ended: asyncio.Event) -> None:
    """Set `ended` when the driver closes its end, or dies."""
    os.set_blocking(request.life_fd, False)
    os.set_inheritable(request.life_fd, False)
    os.set_inheritable(request.answer_fd, False)

    def closed() -> None:
        with contextlib.suppress(BlockingIOError):
            if os.read(request.life_fd, 1) == b"":
                loop.remove_reader(request.life_fd)
                ended.set()

    loop.add_reader(request.life_fd, closed)
    try:
        pidfd = os.pidfd_open(request.driver_pid)
    except (OSError, AttributeError):
        return

    def died() -> None:
        loop.remove_reader(pidfd)
        ended.set()

    loop.add_reader(pidfd, died)


def _log_to(path: Path) -> None:
    """From now on write what goes wrong to a file: the driver reads our standard error only until we are up."""
    where = os.environ.get("SHOAL_EMBEDDED_LOG") or str(path)
    log = os.open(where, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(log, 2)
    os.close(log)


def _answer(fd: int, file: discovery.ClusterFile) -> None:
    with os.fdopen(fd, "wb") as answers:
        answers.write(msgspec.json.encode(file) + b"\n")


def main(argv: list[str] | None = None, *, zygote: Zygote | None = None) -> None:
    """Run the embedded cluster that the argument describes, with a zygote that was started early if there is one."""
    arguments: list[str] = sys.argv[1:] if argv is None else argv
    request: Any = msgspec.json.decode(arguments[0], type=Request)
    uvloop.run(run_embedded(request, zygote))


if __name__ == "__main__":
    main()
