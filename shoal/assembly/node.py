"""The agent process of one node, with the marks that its guard looks at: `joined`, and `busy` while work runs here."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.assembly.specs import JOINED, NodeSpec, read
from shoal.foundation import ids
from shoal.foundation.amounts import UNIT
from shoal.foundation.clock import SystemClock
from shoal.transport import discovery

if TYPE_CHECKING:
    from shoal.runtime.agent.main import Agent
    from shoal.runtime.agent.zygotes import Zygote

MARK_EVERY_S = 0.5


async def run_node(path: Path) -> None:
    """Run one node's agent until it ends. Every start is a new node id: agent death is node death."""
    from shoal.runtime.agent.zygotes import start_zygote

    spec = read(path, NodeSpec)
    session = Path(spec.directory)
    session.mkdir(mode=0o700, parents=True, exist_ok=True)
    # It makes its imports while we make ours.
    zygote = start_zygote()
    try:
        agent = _agent(spec, session, zygote)
    except BaseException:
        zygote.end()
        raise
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.end, f"signal {signal.Signals(number).name}")
    marks = _Marks(agent, session)
    try:
        await agent.start()
        marker = asyncio.create_task(marks.keep())
        await agent.ended.wait()
        marker.cancel()
    finally:
        marks.remove()
        await agent.stop(agent.end_why or "the agent was stopped")


def _agent(spec: NodeSpec, session: Path, zygote: Zygote) -> Agent:
    from shoal.runtime.agent.main import Agent
    from shoal.runtime.agent.settings import AgentSettings

    return Agent(
        SystemClock(),
        AgentSettings(
            node_id=ids.fresh(ids.NODE_ID_BYTES).hex(),
            head=spec.head_address,
            credential=discovery.load_credential(Path(spec.secret_file)),
            session=session,
            resources=spec.resources,
            cluster_uid=spec.uid,
            instance_id=spec.instance_id,
            node_type=spec.node_type,
            token=spec.token,
            join_secret=spec.join_secret,
            labels=spec.labels,
            listen=tuple(spec.listen),
            store_bytes=spec.object_store_bytes or spec.resources.get("object_store_memory", 0) // UNIT,
            log_dir=Path(spec.log_dir),
            other_logs={name: Path(path) for name, path in spec.other_logs.items()},
            epoch=spec.epoch,
            is_head=spec.is_head,
            fence_s=spec.fence_s,
            job_dead_s=spec.job_dead_s,
            tls=spec.tls,
            ssl_context=spec.tls.dialling() if spec.tls else None,
            server_ssl_context=spec.tls.serving() if spec.tls else None,
            zygote=zygote,
        ),
    )


class _Marks:
    """Two files that say of the agent what its guard must know, without asking it."""

    def __init__(self, agent: Agent, session: Path) -> None:
        self._agent = agent
        self._joined, self._busy = session / JOINED, session / "busy"
        self.remove()
        on_joined = agent.on_joined

        def joined(message: object) -> None:
            on_joined(message)  # type: ignore[arg-type]
            pid = os.getpid()
            discovery.write_private(self._joined, f"{pid} {discovery.process_started(pid)}".encode())

        agent.on_joined = joined  # type: ignore[method-assign]

    async def keep(self) -> None:
        """Keep `busy` true, a little late in both directions."""
        while True:
            if self._agent.busy():
                self._busy.touch(mode=0o600)
            else:
                self._busy.unlink(missing_ok=True)
            await asyncio.sleep(MARK_EVERY_S)

    def remove(self) -> None:
        """Take both away."""
        self._joined.unlink(missing_ok=True)
        self._busy.unlink(missing_ok=True)
