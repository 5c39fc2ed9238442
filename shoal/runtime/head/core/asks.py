"""Requests by name: what drivers and workers ask through their agents, and what the control API asks for others.

An agent's connection may use `shoal.wire.asks.What`; orders (cordon, drain, bar, session, down) come only from callers
in the head's own process, which have checked the caller's role. A handler returns the value, raises `Rejected`, or
returns `LATER` and answers by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from shoal.foundation.amounts import Amounts
from shoal.model.demand import ANYWHERE, Selector
from shoal.runtime.decide.state_columns import trouble_with
from shoal.runtime.head.core import listings
from shoal.runtime.head.core.events import LOCAL, Rejected, Shut
from shoal.runtime.head.core.jobs import job_row
from shoal.runtime.head.core.nodes import Member, join_secret
from shoal.runtime.head.core.queries import filters_of, limited
from shoal.runtime.head.core.rows import ActorRow
from shoal.runtime.head.core.standing import bundles_of
from shoal.runtime.head.core.view import NODE
from shoal.wire.asks import What
from shoal.wire.messages import Ask, End, GroupSpec, Reply

if TYPE_CHECKING:
    from shoal.runtime.head.core.core import HeadCore

LATER = object()
PLACE_MAX = 4096
"""Most leases that one `place` request is answered with."""
_DURABLE = frozenset(
    {
        What.CREATE_ACTOR,
        What.CREATE_GROUP,
        What.START_JOB,
        What.PUT_KEY,
        What.REQUEST_RESOURCES,
        "open_session",
        "cordon",
        "bar",
        "config_generation",
    }
)
"""Requests whose answer promises durability: refused while the journal's disk is full."""


class Caller(msgspec.Struct, frozen=True):
    """Who asks: the agent's node (None: the head's own process), the process behind it, where the reply goes."""

    connection: int
    rid: int
    process: bytes
    member: Member | None

    @property
    def node_id(self) -> str:
        return self.member.node_id if self.member is not None else ""


Handler = Callable[[Caller, dict[str, Any]], Any]


class Asks:
    """The table of requests."""

    def __init__(self, core: HeadCore) -> None:
        self._core = core
        self._out = core.out
        self._common: dict[str, Handler] = {
            What.CREATE_ACTOR: self._create_actor,
            What.WATCH_ACTOR: self._watch_actor,
            What.GET_ACTOR: self._named_actor,
            What.KILL_ACTOR: self._kill_actor,
            What.DROP_ACTOR: self._drop_actor,
            What.LIST_NAMED: self._list_named,
            What.CREATE_GROUP: self._create_group,
            What.WATCH_GROUP: self._watch_group,
            What.REMOVE_GROUP: self._remove_group,
            What.GET_GROUP: lambda _, args: core.groups.named(_text(args, "name")),
            What.LIST_GROUPS: self._list_groups,
            What.NODES: lambda *_: listings.api_nodes(core.nodes),
            What.REQUEST_RESOURCES: self._request_resources,
            What.PLACE: self._place,
            What.IS_ALIVE: self._is_alive,
            What.START_JOB: self._start_job,
            What.END_JOB: self._end_job,
            What.LAST_PRINTS: self._last_prints,
            What.PUT_KEY: self._put_key,
            What.GET_KEY: lambda _, args: core.keys.read(_text(args, "space"), _text(args, "key")),
            What.DELETE_KEY: lambda _, args: core.keys.delete(_text(args, "space"), _text(args, "key")),
            What.STATE: self._state,
            What.STATUS: lambda *_: core.status(),
        }
        self._orders: dict[str, Handler] = {
            "open_session": lambda _, args: core.orders.open_session(_text(args, "owner")),
            "check_session": self._check_session,
            "join_secret": self._join_secret,
            "cordon": self._cordon,
            "drain": self._drain,
            "undrain": self._undrain,
            "bar": self._bar,
            "forget": self._forget,
            "notice": self._notice,
            "publish": self._publish,
            "report": lambda *_: core.report,
            "config_generation": self._config_generation,
            "standing": lambda *_: core.requests.shown(),
            "query": self._query,
            "down": self._down,
        }

    def answer(self, ask: Ask, connection: int, member: Member | None) -> None:
        """Carry a request out and send its reply."""
        handler = self._common.get(ask.what)
        if handler is None and connection == LOCAL:
            handler = self._orders.get(ask.what)
        caller = Caller(connection, ask.rid, ask.process, member)
        try:
            if handler is None:
                raise Rejected("ValueError", f"the head knows no request `{ask.what}`")
            if self._core.is_read_only and ask.what in _DURABLE:
                raise Rejected("JournalFull", "the head's disk is full: it takes nothing new until there is room")
            value = handler(caller, ask.args)
        except Rejected as error:
            self._reply(caller, False, [error.name, str(error)])
            return
        except (KeyError, TypeError, ValueError, AttributeError, msgspec.ValidationError) as error:
            # A malformed request must not end the head; its sender learns what was wrong with it.
            self._reply(caller, False, ["ValueError", f"{ask.what}: {type(error).__name__}: {error}"])
            return
        if value is not LATER:
            self._reply(caller, True, value, is_durable=ask.what in _DURABLE)

    def _reply(self, caller: Caller, is_ok: bool, value: Any, *, is_durable: bool = False) -> None:
        self._out.send(caller.connection, Reply(caller.rid, caller.process, is_ok, value), is_durable=is_durable)

    # ------------------------------------------------------------------------------------------ actors

    def _create_actor(self, caller: Caller, args: dict[str, Any]) -> Any:
        row = ActorRow(
            actor_id=bytes(args["actor_id"]),
            job=str(args.get("job") or ""),
            class_name=str(args.get("class_name") or ""),
            name=str(args.get("name") or ""),
            namespace=str(args.get("namespace") or ""),
            is_detached=bool(args.get("is_detached")),
            restarts_max=int(args.get("max_restarts") or 0),
            amounts=_amounts(args.get("amounts")),
            held=_amounts(args.get("held")),
            selector=_selector(args.get("selector")),
            spread=bool(args.get("spread")),
            group_id=str(args.get("group_id") or ""),
            bundle=int(args.get("bundle", -1)),
            handle=bytes(args.get("handle") or b""),
            spec=bytes(args.get("spec") or b""),
            options=dict(args.get("options") or {}),
            creator=caller.process,
            creator_node=caller.node_id,
        )
        size, most = len(row.spec) + len(row.handle), self._out.settings.spec_bytes_max
        if size > most:
            raise Rejected(
                "ValueError", f"actor {row.class_name}: at most {most} bytes of arguments, got {size}; use put"
            )
        return self._core.actors.create(row, is_getting=bool(args.get("get_if_exists")))

    def _watch_actor(self, caller: Caller, args: dict[str, Any]) -> Any:
        return self._core.actors.watch(bytes(args["actor_id"]), caller.node_id, caller.process)

    def _named_actor(self, caller: Caller, args: dict[str, Any]) -> Any:
        return self._core.actors.named(str(args.get("namespace") or ""), _text(args, "name"))

    def _kill_actor(self, caller: Caller, args: dict[str, Any]) -> None:
        self._core.actors.kill(bytes(args["actor_id"]), no_restart=bool(args.get("no_restart", True)))

    def _drop_actor(self, caller: Caller, args: dict[str, Any]) -> None:
        self._core.actors.drop(bytes(args["actor_id"]))

    def _list_named(self, caller: Caller, args: dict[str, Any]) -> Any:
        wanted = None if args.get("all_namespaces") else str(args.get("namespace") or "")
        names = self._core.actors.names
        return sorted([name, space] for space, name in names if wanted is None or space == wanted)

    # ------------------------------------------------------------------------------------------ groups

    def _create_group(self, caller: Caller, args: dict[str, Any]) -> None:
        spec = args["spec"]
        if not isinstance(spec, GroupSpec):
            spec = msgspec.convert(spec, GroupSpec)
        owner = b""
        if caller.process and self._core.actors.owned_by(caller.process) is not None:
            owner = caller.process
        self._core.groups.create(spec, caller.node_id, caller.process, owner=owner)

    def _watch_group(self, caller: Caller, args: dict[str, Any]) -> Any:
        return self._core.groups.watch(_text(args, "group_id"), caller.node_id, caller.process)

    def _remove_group(self, caller: Caller, args: dict[str, Any]) -> None:
        group_id = _text(args, "group_id")
        if self._core.groups.remove(group_id):
            self._core.actors.group_removed(group_id)

    def _list_groups(self, caller: Caller, args: dict[str, Any]) -> Any:
        from shoal.runtime.head.core.groups import shown

        groups = self._core.groups
        rows = [group.row for group in groups.all.values()] + list(groups.removed.values())
        return [shown(row) for row in rows[: self._out.settings.rows_max]]

    # ----------------------------------------------------------------------------------------- cluster

    def _request_resources(self, caller: Caller, args: dict[str, Any]) -> None:
        bundles = bundles_of(args.get("bundles") or ())
        owner, job = str(args.get("owner") or ""), str(args.get("job") or "")
        self._core.requests.put(owner, job, bundles, args.get("ttl_s"))

    def _place(self, caller: Caller, args: dict[str, Any]) -> Any:
        amounts, selector = _amounts(args.get("amounts")), _selector(args.get("selector"))
        found = self._core.spots.pick_many(
            amounts,
            selector,
            min(int(args.get("count") or 1), PLACE_MAX),
            spread=bool(args.get("spread")),
            away_from=frozenset(args.get("away_from") or ()),
        )
        answer = []
        for node_id, count in found:
            self._core.rounds.reserve(node_id, amounts, count, caller.process, str(args.get("class_key") or ""))
            answer.append([node_id, self._core.nodes.alive[node_id].row.address, count])
        return answer

    def _is_alive(self, caller: Caller, args: dict[str, Any]) -> Any:
        return [self._core.nodes.is_process_alive(bytes(process)) for process in args.get("processes") or ()]

    # ------------------------------------------------------------------------------------ jobs and keys

    def _start_job(self, caller: Caller, args: dict[str, Any]) -> Any:
        row = job_row(args, caller.node_id)
        row.process = row.process or caller.process
        return {"job": self._core.jobs.start(row).job}

    def _end_job(self, caller: Caller, args: dict[str, Any]) -> None:
        self._core.end_job(_text(args, "job"), str(args.get("why") or "its driver ended it"))

    def _last_prints(self, caller: Caller, args: dict[str, Any]) -> Any:
        wanted = {"job": _text(args, "job"), "timeout_s": float(args["timeout_s"])}
        node_ids = [str(one) for one in args["node_ids"]]
        self._core.queries.ask("prints", wanted, lambda value: self._reply(caller, True, None), node_ids=node_ids)
        return LATER

    def _put_key(self, caller: Caller, args: dict[str, Any]) -> Any:
        return self._core.keys.put(
            _text(args, "space"),
            _text(args, "key"),
            bytes(args["value"]),
            is_overwriting=bool(args.get("is_overwriting", True)),
        )

    def _state(self, caller: Caller, args: dict[str, Any]) -> Any:
        core, kind = self._core, str(args.get("kind") or "")
        filters = filters_of(args)
        for column, _, _ in filters if kind in listings.KINDS else ():
            if why := trouble_with(kind, column):
                raise Rejected("ValueError", why)
        detail = bool(args.get("detail") or filters)  # any column may be filtered by, shown or not
        match kind:
            case "actors":
                rows = listings.actor_rows(core.actors, detail=detail)
            case "nodes":
                rows = listings.node_rows(core.nodes, detail=detail)
            case "jobs":
                rows = listings.job_rows(core.jobs, detail=detail)
            case "placement-groups":
                rows = listings.group_rows(core.groups, detail=detail)
            case "cluster-events":
                rows = core.events_seen()
            case _ if kind in listings.FROM_AGENTS:
                gone = core.remembered.rows(kind, but=core.nodes.alive.keys())
                for row in gone:
                    node = core.nodes.dead.get(row.get("node_id", ""))
                    if node is not None and row.get("end_time_s") is None:
                        row["end_time_s"] = node.ended_wall_s  # it ended what it ran
                core.queries.ask(kind, args, lambda value: self._reply(caller, True, value), known=gone)
                return LATER
            case _:
                known = ", ".join(sorted(listings.KINDS))
                raise Rejected("ValueError", f"state: expected one of {known}, got `{kind}`")
        return limited(rows, args, self._out.settings.rows_max)

    def _query(self, caller: Caller, args: dict[str, Any]) -> Any:
        """Ask agents anything that they know how to answer (logs, memory, profile): {what, args, node_ids}."""
        self._core.queries.ask(
            _text(args, "what"),
            dict(args.get("args") or {}),
            lambda value: self._reply(caller, True, value),
            node_ids=args.get("node_ids"),
        )
        return LATER

    # ------------------------------------------------------------------------------------------ orders

    def _check_session(self, caller: Caller, args: dict[str, Any]) -> None:
        self._core.orders.check_session(int(args["session"]))

    def _join_secret(self, caller: Caller, args: dict[str, Any]) -> str:
        self._session(args)
        meta = self._core.meta
        return join_secret(meta.join_keys[meta.epoch], _text(args, "token"))

    def _cordon(self, caller: Caller, args: dict[str, Any]) -> None:
        self._session(args)
        self._core.orders.cordon(_text(args, "instance_id"), _text(args, "order"), float(args["ttl_s"]))

    def _drain(self, caller: Caller, args: dict[str, Any]) -> None:
        self._session(args)
        self._core.orders.drain(
            _text(args, "instance_id"), _text(args, "order"), args.get("idle_serial"), args.get("deadline_s")
        )

    def _undrain(self, caller: Caller, args: dict[str, Any]) -> None:
        self._session(args)
        self._core.orders.undrain(_text(args, "instance_id"), str(args.get("order") or ""))

    def _bar(self, caller: Caller, args: dict[str, Any]) -> bool:
        self._session(args)
        return self._core.orders.bar(_text(args, "instance_id"))

    def _forget(self, caller: Caller, args: dict[str, Any]) -> None:
        self._session(args)
        self._core.forget(_text(args, "instance_id"))

    def _notice(self, caller: Caller, args: dict[str, Any]) -> None:
        self._core.notice(_text(args, "instance_id"), _text(args, "what"), args.get("deadline_s"))

    def _publish(self, caller: Caller, args: dict[str, Any]) -> None:
        self._session(args)
        self._core.take_report(dict(args["report"]))

    def _config_generation(self, caller: Caller, args: dict[str, Any]) -> dict[str, Any]:
        meta = self._core.meta
        if "hash" in args and args["hash"] != meta.config_hash:
            meta.config_hash = str(args["hash"])
            meta.config_generation += 1
            self._out.journal("meta", "meta", meta)
            self._out.record("config_changed", difference=str(args.get("difference") or ""))
        return {"generation": meta.config_generation, "hash": meta.config_hash}

    def _down(self, caller: Caller, args: dict[str, Any]) -> None:
        why = str(args.get("why") or "the cluster goes down")
        self._out.record("cluster_ending", why=why)
        for member in self._core.nodes.alive.values():
            self._out.send(member.connection, End(why))
        self._out.add(Shut(why))

    def _session(self, args: dict[str, Any]) -> None:
        self._core.orders.check_session(int(args.get("session") or 0))


def _text(args: dict[str, Any], name: str) -> str:
    value = args.get(name)
    if not isinstance(value, str) or not value:
        raise Rejected("ValueError", f"{name}: expected a text, got `{value!r}`")
    return value


def _amounts(value: Any) -> Amounts:
    if not value:
        return {}
    return {str(name): int(amount) for name, amount in value.items() if amount}


def _selector(value: Any) -> Selector:
    if not value:
        return ANYWHERE
    return value if isinstance(value, Selector) else msgspec.convert(value, Selector)


__all__ = ["LATER", "NODE", "Asks", "Caller"]
