"""`shoal status`: nodes, usage, demand, money, and why nothing happens."""

from __future__ import annotations

import time
from typing import Any

import click

from shoal.cli.output import emit, format_option


@click.command()
@click.argument("cluster", required=False)
@format_option(more=["ray"])
@click.option("-v", "--verbose", is_flag=True, help="Also every instance and why each idle node stays.")
def status(cluster: str | None, form: str, verbose: bool) -> None:
    """Show what CLUSTER (a YAML file or a name; default: the only live one) has, does, needs and costs.

    Exits with 0, or 1 if there is no such live cluster.
    """
    from shoal.cli.live import status_of
    from shoal.cli.which import live, name_in

    found = status_of(live(name_in(cluster) if cluster else None))
    match form:
        case "table":
            click.echo(_shown(found, verbose=verbose))
        case "ray":
            from shoal.cli.ray_status import ray_text

            click.echo(ray_text(found))
        case _:
            emit(found, form)


def _shown(found: dict[str, Any], *, verbose: bool) -> str:
    """Return the status for people."""
    report = found.get("autoscaler") or {}
    lines = [f"cluster {found['cluster']}  up {_duration(found['up_s'])}  epoch {found['epoch']}"]
    lines += _autoscaler(found, report)
    lines += ["", "nodes"]
    for state in ("active", "idle", "draining", "missing"):
        for node in found["nodes"].get(state, []):
            lines.append(f"  {_node(node, state)}")
    joined = {node["instance_id"] for of_state in found["nodes"].values() for node in of_state}
    # The report may be a moment older than the head's word: what has joined is not on its way any more.
    lines += [
        f"  {_instance(one)}"
        for one in report.get("instances", [])
        if one["state"] in _ON_ITS_WAY and one["instance_id"] not in joined
    ]
    lines += ["", "usage"]
    lines += [f"  {_used(name, *amounts)}" for name, amounts in sorted(found["usage"].items())] or ["  nothing"]
    lines += ["", "demand"]
    lines += _demand(found, report) or ["  none"]
    lines += ["", _money(report)]
    if failures := report.get("failures"):
        lines += ["", "recent failures"]
        lines += [f"  {_failure(one)}" for one in failures[-5:]]
    lines += [f"alarm: {alarm}" for alarm in report.get("alarms", [])]
    lines += [f"left over: {name}" for name in report.get("leftovers", [])]
    if verbose:
        lines += ["", "instances"]
        lines += [f"  {_instance(one)}" for one in report.get("instances", [])] or ["  none"]
        lines += ["", "why idle nodes stay"]
        lines += [f"  {one['instance_id']}  {one['why']}" for one in report.get("kept", [])] or ["  none does"]
    return "\n".join(lines)


_ON_ITS_WAY = ("queued", "requested", "booting", "releasing", "lost", "stray")


def _autoscaler(found: dict[str, Any], report: dict[str, Any]) -> list[str]:
    if not report:
        return ["no autoscaler has reported (nothing is bought or released)"]
    lines = [f"autoscaler ran {_duration(found['autoscaler_ran_ago_s'] or 0)} ago, {report['rounds']} rounds"]
    if report.get("waiting_for"):
        lines.append(f"it waits for: {report['waiting_for']}")
    if found.get("is_settling"):
        lines.append("the head is settling after a restart: nothing is drained meanwhile")
    if found.get("is_read_only"):
        lines.append("the head's disk is full: read-only, running work goes on")
    return lines


def _node(node: dict[str, Any], state: str) -> str:
    what = "head" if node["is_head"] else node["instance_id"]
    size = _sizes(node["total"])
    if state == "idle":
        say = f"idle for {_duration(node['idle_s'] or 0)}"
    elif state == "active":
        say = "active: " + (", ".join(_busy(one) for one in node["busy"]) or "just now")
    else:
        say = state + (f" ({node['drain_answer']})" if node.get("drain_answer") else "")
    notice = f", notice: {node['notice']}" if node.get("notice") else ""
    return f"{what:<18} {node['node_type']:<12} {size:<24} {say}{notice}"


def _busy(one: list[Any]) -> str:
    what, count, detail = one
    return f"{count} {what}{'s' * (count != 1)}" + (f" ({detail})" if detail else "")


def _instance(one: dict[str, Any]) -> str:
    step = f", {one['step']}" if one.get("step") else ""
    price = one["price_usd_per_h"]
    cost = "$?" if price is None else f"${price:.4g}/h"
    error = f"  {one['error']}" if one.get("error") else ""
    name = f"{one['instance_id']:<18} {one['node_type']:<12}"
    return f"{name} {one['state']} for {_duration(one['since_s'])}{step}  {cost}{error}"


def _demand(found: dict[str, Any], report: dict[str, Any]) -> list[str]:
    lines = []
    told = set()
    for one in found.get("demand", []):
        told.add(one["key"])
        why = f"  {one['verdict']}: {one['why']}" if one["verdict"] else ""
        lines.append(f"  {_wanted(one)}, for {_duration(one['waiting_s'])}{why}")
    for one in report.get("unmet", []):
        if one["demand"] not in told:
            lines.append(f"  {one['count']} x {one['kind']} {one['demand']}  {one['verdict']}: {one['why']}")
    for one in found.get("standing", []):
        whose = f" of `{one['owner']}`" if one["owner"] else ""
        wanted = ", ".join(f"{bundle['count']} x {_sizes(bundle['amounts'])}" for bundle in one["bundles"])
        lines.append(f"  standing request{whose}: {wanted}, for {_duration(one['ttl_s'])} more")
    return lines


def _wanted(one: dict[str, Any]) -> str:
    if one["kind"] == "gang":
        sizes = ", ".join(_sizes(bundle) for bundle in one["bundles"])
        name = one.get("name") or one["key"][:12]
        return f"gang {name} ({one['strategy']}): {sizes}"
    return f"{one['count']} x {_sizes(one['amounts'])} ({one['kind']})"


def _money(report: dict[str, Any]) -> str:
    if not report:
        return "cost      unknown: no autoscaler"
    more = "" if report["is_price_complete"] else " and $? for offers without a known price"
    return f"cost      ${report['usd_per_hour']:.4f}/h now, ${report['usd_spent']:.4f} so far{more}"


def _failure(one: dict[str, Any]) -> str:
    again = f", again in {_duration(one['retry_in_s'])}" if one.get("retry_in_s") is not None else ""
    when = time.strftime("%H:%M:%S", time.localtime(one["at_s"]))
    return f"{when}  {one['what']}: {one['code']} {one['error']}{again}"


def _used(name: str, used: float, total: float) -> str:
    from shoal.foundation.amounts import bytes_shown

    if name.endswith("memory"):
        return f"{bytes_shown(used)} of {bytes_shown(total)} {name}"
    return f"{used:g} of {total:g} {name}"


def _sizes(total: dict[str, float]) -> str:
    from shoal.foundation.amounts import bytes_shown

    parts = []
    for name, quantity in sorted(total.items()):
        if name == "object_store_memory" or name.startswith("node:"):
            continue
        parts.append(bytes_shown(quantity) if name == "memory" else f"{quantity:g} {name}")
    return ", ".join(parts) or "nothing"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
