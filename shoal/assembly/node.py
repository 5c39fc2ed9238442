"""The agent process of one node."""

from __future__ import annotations

from pathlib import Path

from shoal.assembly.specs import NodeSpec, read
from shoal.foundation import ids
from shoal.transport import discovery


async def run_node(path: Path) -> None:
    """Run one node's agent until it ends. Every start is a new node id: agent death is node death."""
    from shoal.runtime.agent.main import AgentSettings, run_agent

    spec = read(path, NodeSpec)
    await run_agent(
        AgentSettings(
            node_id=ids.fresh(ids.NODE_ID_BYTES).hex(),
            instance_id=spec.instance_id,
            node_type=spec.node_type,
            token=spec.token,
            join_secret=spec.join_secret,
            resources=spec.resources,
            labels=spec.labels,
            head=spec.head_address,
            epoch=spec.epoch,
            credential=discovery.load_credential(Path(spec.secret_file)),
            directory=Path(spec.directory),
            log_dir=Path(spec.log_dir),
            listen=spec.listen,
            is_head=spec.is_head,
            store_bytes=spec.object_store_bytes,
        )
    )
