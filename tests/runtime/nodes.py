"""Clusters of several real nodes on this machine, for tests: each node is a process of its own, so it can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SETTINGS = {"node_dead_s": 3.0, "fence_s": 2.0, "heartbeat_s": 0.3, "place_round_s": 0.005}


class Node:
    """One process: a node, or the head with or without a node."""

    def __init__(self, place: Path, name: str, request: dict[str, Any]) -> None:
        self.name, self.place = name, place
        self.log = place / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.runtime.nodes",
                    json.dumps({**request, "name": name, "place": str(place)}),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said, f"node {name} did not start: {self.log.read_text()}"
        self.told: dict[str, Any] = json.loads(said)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(15)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(5)
        if self.process.stdout is not None:
            self.process.stdout.close()


class Nodes:
    """A head and its nodes; drivers of this process connect with `connect`."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.uid = os.urandom(16).hex()
        self.secret = os.urandom(32).hex()
        self.nodes: dict[str, Node] = {}

    def start(self, name: str, *, is_head: bool = False, has_node: bool = True, **resources: float) -> Node:
        request = {"uid": self.uid, "secret": self.secret, "is_head": is_head, "resources": resources}
        request["has_node"] = has_node
        request["head"] = f"unix:{self.place / 'head.sock'}"
        node = self.nodes[name] = Node(self.place, name, request)
        return node

    def connect(self, name: str = "head", namespace: str = "tests", **info: Any) -> Any:
        from shoal.runtime.client import api, driver
        from shoal.wire.hello import Credential, Role

        credential = Credential(self.uid, bytes.fromhex(self.secret), Role.ADMIN).lowered(Role.DRIVER)
        session = self.nodes[name].told["session"]
        found = driver.connect(
            f"unix:{session}/agent.sock", Path(session), credential, driver.driver_info(namespace, None)
        )
        api.adopt(found)
        return found

    def secret_line(self) -> str:
        """Return what a driver elsewhere is given as SHOAL_SECRET."""
        return f"{self.uid} admin {self.secret}"

    def end(self) -> None:
        for name, node in self.nodes.items():
            if name != "head":
                node.end()
        if "head" in self.nodes:
            self.nodes["head"].end()
        for word in self.place.glob("word-*"):
            word.unlink()


@contextlib.contextmanager
def cluster_of(place: Path, **sizes: dict[str, float]) -> Iterator[Nodes]:
    """Run a cluster: `head={"CPU": 1}, a={"CPU": 2}, ...`, and this process as a driver at its head."""
    from shoal.runtime.client import api

    nodes = Nodes(place)
    try:
        nodes.start("head", is_head=True, **sizes.pop("head", {}))
        for name, resources in sizes.items():
            nodes.start(name, **resources)
        nodes.connect()
        yield nodes
    finally:
        api.shutdown()
        nodes.end()


async def run(request: dict[str, Any]) -> None:
    from shoal.foundation import ids
    from shoal.foundation.amounts import amounts
    from shoal.foundation.clock import SystemClock
    from shoal.foundation.eventlog import MemoryLog
    from shoal.runtime.agent.main import Agent
    from shoal.runtime.agent.settings import AgentSettings
    from shoal.runtime.head.core.events import HeadSettings
    from shoal.runtime.head.journal import SqliteJournal
    from shoal.runtime.head.server import HeadServer
    from shoal.transport.address import parse
    from shoal.wire.hello import Credential, Role

    clock = SystemClock()
    place = Path(request["place"])
    credential = Credential(request["uid"], bytes.fromhex(request["secret"]), Role.ADMIN)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    head = None
    if request["is_head"]:
        journal = SqliteJournal(place / "journal.db")
        head = HeadServer(
            clock, credential, None, journal, MemoryLog(clock), HeadSettings(cluster_uid=request["uid"], **SETTINGS)
        )
        await head.start(parse(request["head"]))
    if not request["has_node"]:
        print(json.dumps({}), flush=True)
        await ended.wait()
        if head is not None:
            await head.stop()
        return
    session = place / request["name"]
    store_bytes = int(request["resources"].pop("store", 64 * 2**20))
    memory_threshold = request["resources"].pop("memory_threshold", 0.95)
    shm = os.environ.get("SHOAL_SHM_DIR")
    agent = Agent(
        clock,
        AgentSettings(
            node_id=ids.fresh(ids.NODE_ID_BYTES).hex(),
            head=request["head"],
            credential=credential,
            session=session,
            resources=amounts(request["resources"]),
            cluster_uid=request["uid"],
            instance_id=request["name"],
            node_type=request["name"],
            labels={"name": request["name"]},
            listen=("tcp:127.0.0.1:0",),
            store_bytes=store_bytes,
            store_root=Path(shm) if shm else None,
            is_head=request["is_head"],
            fence_s=SETTINGS["fence_s"],
            warm_workers=1,
            job_dead_s=request.get("job_dead_s", 30.0),
            memory_threshold=memory_threshold,
        ),
    )
    try:
        _note_words(agent, place / f"word-{request['name']}")
        await agent.start()
        await agent.head.joined.wait()
        loop.add_signal_handler(signal.SIGUSR1, lambda: _drain(agent, place))
        told = {"node_id": agent.node_id, "session": str(session), "pid": os.getpid()}
        told["tcp"] = next(text for text in agent.join_message().address if text.startswith("tcp:"))
        print(json.dumps(told), flush=True)
        waits = [loop.create_task(ended.wait()), loop.create_task(agent.ended.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
    finally:
        await agent.stop()
        if head is not None:
            await head.stop()
            for path in place.glob("journal.db*"):
                path.unlink(missing_ok=True)


def _note_words(agent: Any, path: Path) -> None:
    """Keep the tasks that the agent last told the head of, in case it is killed: [name, state] each."""
    import msgspec

    from shoal.wire import messages as told

    send = agent.head.send

    def note(message: Any) -> None:
        send(message)
        if isinstance(message, told.LeftBehind):
            rows = msgspec.msgpack.decode(message.rows)["tasks"]
            text = json.dumps([[row["name"], row["state"]] for row in rows])
            # Who reads it may kill this process at once: the message has left by then.
            asyncio.get_running_loop().call_later(0.3, path.write_text, text)

    agent.head.send = note


def _drain(agent: Any, place: Path) -> None:
    """Do what the agent does on the head's order, and note when it says that it is empty."""
    from shoal.wire import messages as told

    send = agent.head.send

    def note(message: Any) -> None:
        if isinstance(message, told.DrainAnswer) and message.answer == "emptied":
            (place / "drained").touch()
        else:
            send(message)

    agent.head.send = note
    agent.drain.begin(told.Drain("test", None, 60.0))


if __name__ == "__main__":
    import uvloop

    uvloop.run(run(json.loads(sys.argv[1])))
