"""What people ask of the head: rows of `list`, and the one dict behind `status`. Columns are Ray's, in lower case."""

from __future__ import annotations

from typing import Any

from shoal.foundation.amounts import UNIT, plus, quantities
from shoal.model.snapshot import Work
from shoal.runtime.decide.group_states import GroupState
from shoal.runtime.head.core.actors import Actors
from shoal.runtime.head.core.groups import Groups
from shoal.runtime.head.core.jobs import Jobs
from shoal.runtime.head.core.nodes import Member, Nodes
from shoal.runtime.head.core.rows import ActorRow, GroupRow, JobRow, NodeRow

FROM_AGENTS = frozenset({"tasks", "task-counts", "objects", "workers", "logs"})
"""Kinds whose rows only the agents have."""
FROM_HEAD = frozenset({"actors", "nodes", "jobs", "placement-groups", "cluster-events"})
KINDS = FROM_AGENTS | FROM_HEAD


def actor_rows(actors: Actors, *, detail: bool) -> list[dict[str, Any]]:
    """Return every actor known, oldest first."""
    return [_actor(actor.row, detail) for actor in actors.all.values()]


def node_rows(nodes: Nodes, *, detail: bool) -> list[dict[str, Any]]:
    """Return every node known, the living first."""
    living = [_node(member.row, member, detail) for member in nodes.alive.values()]
    return living + [_node(row, None, detail) for row in nodes.dead.values()]


def job_rows(jobs: Jobs, *, detail: bool) -> list[dict[str, Any]]:
    """Return every job known, oldest first."""
    return [_job(row, detail) for row in jobs.rows()]


def group_rows(groups: Groups, *, detail: bool) -> list[dict[str, Any]]:
    """Return every placement group known, removed ones last."""
    rows = [group.row for group in groups.all.values()] + list(groups.removed.values())
    return [_group(row, detail) for row in rows]


def api_nodes(nodes: Nodes) -> list[dict[str, Any]]:
    """Return the nodes as `shoal.nodes()` shows them; amounts in natural units."""
    found = []
    for row, member in [(one.row, one) for one in nodes.alive.values()] + [(row, None) for row in nodes.dead.values()]:
        found.append(
            {
                "node_id": row.node_id,
                "instance_id": row.instance_id,
                "node_type": row.node_type,
                "is_alive": member is not None,
                "is_head": row.is_head,
                "address": row.address,
                "hostname": row.hostname,
                "total": quantities(row.total),
                "free": quantities(member.free) if member is not None else {},
                "labels": nodes.labels_of(member) if member is not None else row.labels,
                "why": row.why,
            }
        )
    return found


def node_summary(nodes: Nodes, now_s: float) -> dict[str, Any]:
    """Return nodes by what they do, and the usage of all, for `status`."""
    groups: dict[str, list[dict[str, Any]]] = {"active": [], "idle": [], "draining": [], "missing": []}
    total: dict[str, int] = {}
    free: dict[str, int] = {}
    for member in nodes.alive.values():
        row = member.row
        one = {
            "node_id": row.node_id,
            "instance_id": row.instance_id,
            "node_type": row.node_type,
            "is_head": row.is_head,
            "address": row.address[0] if row.address else "",
            "hostname": row.hostname,
            "idle_s": None if member.idle_since_s is None else max(0.0, now_s - member.idle_since_s),
            "busy": [[busy.what, busy.count, busy.detail] for busy in member.busy],
            "total": quantities(row.total),
            "free": quantities(member.free),
            "is_stale": member.connection is None and not member.is_missing,
            "drain_order": member.drain_order,
            "drain_answer": member.drain_answer,
            "notice": member.notice,
        }
        if member.is_missing:
            groups["missing"].append(one)
        elif row.instance_id in nodes.cordoned:
            groups["draining"].append(one)
        elif member.idle_since_s is not None:
            groups["idle"].append(one)
        else:
            groups["active"].append(one)
        total = plus(total, row.total)
        free = plus(free, member.free)
    usage = {
        name: [round((amount - free.get(name, 0)) / UNIT, 4), amount / UNIT] for name, amount in sorted(total.items())
    }
    return {"nodes": groups, "usage": usage}


def demand_rows(work: Work, report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what waits, each with the verdict of the autoscaler's newest report, for `status`."""
    verdicts = {one.get("demand"): one for one in report.get("unmet") or ()}

    def judged(key: str, row: dict[str, Any]) -> dict[str, Any]:
        verdict = verdicts.get(key) or {}
        return {"key": key, **row, "verdict": verdict.get("verdict", ""), "why": verdict.get("why", "")}

    classes = [
        judged(
            one.key,
            {
                "kind": one.kind,
                "amounts": quantities(one.amounts),
                "count": one.waiting,
                "waiting_s": one.waiting_s,
                "jobs": list(one.jobs),
            },
        )
        for one in work.classes
    ]
    gangs = [
        judged(
            one.gang_id,
            {
                "kind": "gang",
                "name": one.name,
                "strategy": one.strategy.value,
                "bundles": [quantities(bundle.amounts) for bundle in one.bundles],
                "count": 1,
                "waiting_s": one.waiting_s,
                "jobs": [one.job],
            },
        )
        for one in work.gangs
    ]
    return classes + gangs


def _actor(row: ActorRow, detail: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "actor_id": row.actor_id.hex(),
        "class_name": row.class_name,
        "state": row.state.value,
        "job_id": row.job,
        "name": row.name,
        "node_id": row.node_id,
        "pid": row.pid,
        "ray_namespace": row.namespace,
    }
    if detail:
        found |= {
            "is_detached": row.is_detached,
            "required_resources": quantities(row.amounts),
            "held_resources": quantities(row.held),
            "num_restarts": row.restarts,
            "max_restarts": row.restarts_max,
            "placement_group_id": row.group_id,
            "death_cause": row.why,
            "runtime_env_info": row.options.get("environment") or {},
            "call_site": row.options.get("site", ""),
            "start_time_s": row.began_wall_s,
            "end_time_s": row.ended_wall_s,
        }
    return found


def _node(row: NodeRow, member: Member | None, detail: bool) -> dict[str, Any]:
    address = next((text for text in row.address if text.startswith("tcp:")), "127.0.0.1:0")
    state = "DEAD" if member is None else "ALIVE"
    message = row.why
    if member is not None and member.is_missing:
        message = "not back since the head restarted"
    elif member is not None and member.connection is None:
        message = "out of touch"
    found: dict[str, Any] = {
        "node_id": row.node_id,
        "node_ip": address.removeprefix("tcp:").rpartition(":")[0].strip("[]"),
        "is_head_node": row.is_head,
        "state": state,
        "state_message": message,
        "node_name": row.hostname,
        "resources_total": quantities(row.total),
        "labels": row.labels,
    }
    if detail:
        found |= {
            "instance_id": row.instance_id,
            "node_type": row.node_type,
            "resources_free": quantities(member.free) if member else {},
            "idle_serial": member.idle_serial if member else 0,
            "busy": [[busy.what, busy.count, busy.detail] for busy in member.busy] if member else [],
            "object_store_bytes": row.object_store_bytes,
            "object_store_used_bytes": member.store_used_bytes if member else 0,
            "stats": member.stats if member else {},
            "address": row.address,
            "start_time_s": row.joined_wall_s,
            "end_time_s": row.ended_wall_s,
        }
    return found


def _job(row: JobRow, detail: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "job_id": row.job,
        "submission_id": str(row.labels.get("submission_id", "")),
        "entrypoint": row.entrypoint,
        "type": "SUBMISSION" if row.labels.get("submission_id") else "DRIVER",
        "status": "RUNNING" if not row.is_ended else "SUCCEEDED",
        "message": row.why,
        "error_type": "",
        "driver_info": {"node_id": row.node_id, "pid": row.pid},
    }
    if detail:
        found |= {
            "namespace": row.namespace,
            "labels": row.labels,
            "start_time_s": row.began_wall_s,
            "end_time_s": row.ended_wall_s,
        }
    return found


def _group(row: GroupRow, detail: bool) -> dict[str, Any]:
    spec = row.spec
    found: dict[str, Any] = {
        "placement_group_id": spec.group_id,
        "name": spec.name,
        "creator_job_id": spec.job,
        "state": row.state.value,
    }
    if detail:
        found |= {
            "strategy": spec.strategy.value,
            "is_detached": spec.is_detached,
            "bundles": [
                {"bundle_index": number, "resources": quantities(bundle.amounts), "node_id": node}
                for number, (bundle, node) in enumerate(zip(spec.bundles, row.nodes, strict=True))
            ],
            "message": row.why if row.state is not GroupState.CREATED else "",
        }
    return found
