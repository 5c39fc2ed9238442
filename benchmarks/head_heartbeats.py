"""One head, a thousand nodes that report every second with changing resources: what does it cost, is a death found?

The head runs in a process of its own, as `shoal start --head` runs it, with its journal on disk and one follower on the
control API (the autoscaler's stream). This process plays the agents: real connections, hello and frames. Printed: the
head's CPU in cores, delays from a report to the follower, how long after the last report a silent node was declared
dead, how long a thousand agents take to re-join a restarted head, and rates of groups and actors.

    python benchmarks/head_heartbeats.py [--nodes 1000] [--seconds 15] [--out FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import uvloop

from shoal.foundation.backoff import backoff_s
from shoal.foundation.clock import SystemClock
from shoal.foundation.errors import ShoalError
from shoal.foundation.eventlog import FileLog
from shoal.model.demand import Bundle, Strategy
from shoal.runtime.head.core.events import HeadSettings
from shoal.runtime.head.journal import SqliteJournal
from shoal.runtime.head.server import HeadServer
from shoal.transport.address import Address, parse
from shoal.transport.connection import Connection, dial
from shoal.transport.control import GrpcHead
from shoal.wire import messages as told
from shoal.wire.hello import Credential, Role

UID = "ab" * 16
SECRET = b"benchmark".ljust(32, b".")
CPU = 10_000
NODE_DEAD_S = 5.0
PROBE = (1).to_bytes(14, "big").hex()
"""The node whose reports are followed to the autoscaler."""
RESULTS = Path(__file__).parent / "results" / "head_heartbeats.json"


async def run_head(directory: Path, frames: str, control: str, node_dead_s: float) -> None:
    """The head's process: say where it listens, serve until it is ended."""
    clock = SystemClock()
    journal = SqliteJournal(directory / "head.db")
    settings = HeadSettings(cluster_uid=UID, node_dead_s=node_dead_s, fence_s=node_dead_s / 2)
    log = FileLog(directory / "events.jsonl", clock)
    head = HeadServer(clock, Credential(UID, SECRET), None, journal, log, settings)
    [address] = await head.start(parse(frames), parse(control))
    print(json.dumps([str(address), str(head.control_address)]), flush=True)
    await head.is_down.wait()
    await head.stop()


class SimulatedNode:
    """One connection that reports once a second, each time something else."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.node_id = number.to_bytes(14, "big").hex()
        self.process = bytes.fromhex(self.node_id) + b"\0\0\0\1"
        self.connection: Connection | None = None
        self.joined = asyncio.Event()
        self.told: asyncio.Queue[Any] = asyncio.Queue()
        self.is_silent = False
        self.reports = 0
        self.chance = random.Random(number)

    async def stay(self, address: Address, credential: Credential) -> None:
        """Live there, and come back whenever the connection ends or a busy machine was too slow for the hello."""
        failures = 0
        while True:
            failures += 1
            with contextlib.suppress(OSError, ShoalError, TimeoutError):
                await self.live(address, credential)
            if self.joined.is_set():
                failures = 0
            await asyncio.sleep(backoff_s(failures + 1, first_s=0.05, most_s=2.0, chance=self.chance))

    async def live(self, address: Address, credential: Credential) -> None:
        connection = self.connection = await dial(
            address, None, credential, role=Role.NODE, type=told.TO_AGENT, limit_s=60
        )
        connection.send(
            told.Join(
                self.node_id,
                f"i-{self.number}",
                "sim",
                "",
                "",
                {"CPU": 64 * CPU},
                {},
                ["tcp:10.0.0.1:1"],
                1,
                False,
                "h",
                1,
            )
        )
        beat = asyncio.create_task(self._beat())
        try:
            while (messages := await connection.receive()) is not None:
                for message in messages:
                    if isinstance(message, told.Joined):
                        self.joined.set()
                    else:
                        self._obey(connection, message)
        finally:
            beat.cancel()
            connection.abort()

    def _obey(self, connection: Connection, message: Any) -> None:
        match message:
            case told.Prepare():
                connection.send(told.Prepared(message.group_id, message.serial, True))
            case told.Commit():
                connection.send(told.Committed(message.group_id, message.serial))
            case told.StartActor():
                connection.send(told.ActorStarted(message.actor_id, message.generation, self.process, ["a"], 1))
            case told.Tell():
                self.told.put_nowait(message)

    async def _beat(self) -> None:
        await self.joined.wait()
        await asyncio.sleep(self.number % 1000 / 1000)
        while True:
            if not self.is_silent:
                self.report()
            await asyncio.sleep(1.0)

    def report(self) -> None:
        assert self.connection is not None
        self.reports += 1
        owner, key = self.process, f"class {self.number % 20}"
        self.connection.send(
            told.Report(
                self.reports,
                free={"CPU": (self.reports * 7 + self.number) % 65 * CPU, "memory": self.reports * CPU},
                idle_serial=self.reports,
                busy=[told.BusyFor("lease", self.reports % 64 + 1)],
                backlog=[
                    told.Backlog(owner, key, "01000000", self.reports % 5, self.reports, {"CPU": 100 * CPU}),
                ],
                granted=[told.Grants(owner, key, self.reports)],
                stats={"cpu": 0.5},
            )
        )


class Measured:
    """The head's process and its figures."""

    def __init__(
        self,
        directory: Path,
        frames: str = "tcp:127.0.0.1:0",
        control: str = "tcp:127.0.0.1:0",
        node_dead_s: float = NODE_DEAD_S,
    ) -> None:
        command = [sys.executable, __file__, "--head", str(directory), frames, control, str(node_dead_s)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        frames_text, control_text = json.loads(self.process.stdout.readline())
        self.frames, self.control = parse(frames_text), parse(control_text)
        self._process = psutil.Process(self.process.pid)

    def cpu_s(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system

    def memory_mb(self) -> float:
        return self._process.memory_info().rss / 2**20

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


async def measure(nodes_count: int, seconds: float, directory: Path) -> dict[str, Any]:
    credential = Credential(UID, SECRET)
    head = Measured(directory)
    found: dict[str, Any] = Said({"nodes": nodes_count})
    nodes = [SimulatedNode(number) for number in range(1, nodes_count + 1)]
    tasks: list[asyncio.Task[None]] = []
    clock = SystemClock()
    try:
        found["join_all_s"] = await join_all(nodes, head, credential, tasks)
        client = GrpcHead(clock, head.control, credential)
        await client.open_session("benchmark")
        delays: list[float] = []
        sent: dict[str, float] = {}
        follower = asyncio.create_task(follow(client, delays, sent))
        await asyncio.sleep(2)

        began, cpu, reports = time.perf_counter(), head.cpu_s(), sum(node.reports for node in nodes)
        await asyncio.sleep(seconds)
        lasted = time.perf_counter() - began
        found["reports_per_s"] = round((sum(node.reports for node in nodes) - reports) / lasted)
        found["head_cores_with_follower"] = round((head.cpu_s() - cpu) / lasted, 3)

        probe = nodes[0]
        for _ in range(100):
            probe.report()
            sent[probe.node_id] = time.perf_counter()
            await asyncio.sleep(0.02)
        if follower.done():
            follower.result()
        found["report_to_follower_ms"] = percentiles(delays)

        follower.cancel()
        await asyncio.wait([follower])
        await client.close()
        await asyncio.sleep(0.5)
        began, cpu = time.perf_counter(), head.cpu_s()
        await asyncio.sleep(seconds)
        found["head_cores"] = round((head.cpu_s() - cpu) / (time.perf_counter() - began), 3)
        found["head_memory_mb"] = round(head.memory_mb())

        found["death_found_after_s"] = round(await one_dies(nodes), 2)
        found["node_dead_s"] = NODE_DEAD_S
        for node in nodes:
            node.is_silent = False
        found["groups_per_s"] = round(await groups(nodes[1]))
        found["actors_per_s"] = round(await actors(nodes[2]))
        found["kill_to_100_rejoined_s"] = await rejoin(nodes[3:103], nodes, tasks, head, directory)
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for one in HEADS:
            one.end()
    return found


class Said(dict[str, Any]):
    """A dict that shows each figure on stderr as it comes."""

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        print(f"{name}: {value}", file=sys.stderr, flush=True)


HEADS: list[Measured] = []


async def join_all(nodes: list[SimulatedNode], head: Measured, credential: Credential, tasks: list[Any]) -> float:
    HEADS.append(head)
    began = time.perf_counter()
    # Agents come in waves of at most as many hellos as a listener allows at once.
    for start in range(0, len(nodes), 50):
        wave = nodes[start : start + 50]
        tasks.extend(asyncio.create_task(node.stay(head.frames, credential)) for node in wave)
        await asyncio.gather(*(node.joined.wait() for node in wave))
    return round(time.perf_counter() - began, 2)


async def follow(client: GrpcHead, delays: list[float], sent: dict[str, float]) -> None:
    last = None
    async for work in client.watch():
        node = next(one for one in work.nodes if one.node_id == PROBE)
        if node.idle_serial != last:
            last = node.idle_serial
            if (at_s := sent.pop(node.node_id, None)) is not None:
                delays.append((time.perf_counter() - at_s) * 1e3)


async def one_dies(nodes: list[SimulatedNode]) -> float:
    """One node falls silent, its connection stays: how long after its last report do others hear of its death?"""
    silent, witness = nodes[-1], nodes[1]
    silent.report()
    silent.is_silent = True
    began = time.perf_counter()
    async with asyncio.timeout(NODE_DEAD_S * 3):
        while True:
            news = await witness.told.get()
            if isinstance(news, told.Tell) and news.what == "node-died" and news.value["node_id"] == silent.node_id:
                return time.perf_counter() - began


async def groups(node: SimulatedNode, count: int = 3000, at_once: int = 100) -> float:
    """Create and remove placement groups, `at_once` under way, this process playing the chosen agents too."""
    return await _pipeline(node, count, at_once, _group)


async def actors(node: SimulatedNode, count: int = 1500, at_once: int = 100) -> float:
    """Create actors until they are told as alive, then kill them."""
    return await _pipeline(node, count, at_once, _actor)


async def _pipeline(node: SimulatedNode, count: int, at_once: int, step: Any) -> float:
    assert node.connection is not None
    node.is_silent = True
    node.connection.send(told.Report(0, free={"CPU": 64 * CPU}, is_full=True))
    began = time.perf_counter()
    started = done = 0
    while started < min(at_once, count):
        step(node, started, None)
        started += 1
    while done < count:
        message = await node.told.get()
        if step(node, 0, message):
            done += 1
            if started < count:
                step(node, started, None)
                started += 1
    lasted = time.perf_counter() - began
    node.is_silent = False
    return count / lasted


def _group(node: SimulatedNode, number: int, message: Any) -> bool:
    send = node.connection.send  # type: ignore[union-attr]
    match message:
        case None:
            bundles = [Bundle(amounts={"CPU": 100})]
            spec = told.GroupSpec(f"{number:032x}", bundles, Strategy.PACK)
            send(told.Ask(number + 1, node.process, "create_group", {"spec": spec}))
        case told.Tell(what="group") if message.value["state"] == "CREATED":
            send(told.Ask(9_000_000, node.process, "remove_group", {"group_id": message.value["group_id"]}))
            return True
    return False


def _actor(node: SimulatedNode, number: int, message: Any) -> bool:
    send = node.connection.send  # type: ignore[union-attr]
    match message:
        case None:
            args = {"actor_id": number.to_bytes(16, "big"), "job": "", "class_name": "A", "amounts": {"CPU": 100}}
            send(told.Ask(number + 1, node.process, "create_actor", {**args, "spec": b"s" * 300}))
        case told.Tell(what="actor") if message.value["state"] == "ALIVE":
            send(told.Ask(9_000_000, node.process, "kill_actor", {"actor_id": message.value["actor_id"]}))
            return True
    return False


async def rejoin(
    staying: list[SimulatedNode], nodes: list[SimulatedNode], tasks: list[Any], head: Measured, directory: Path
) -> float:
    """Kill the head with only some nodes left, start it again on its journal: from the kill to the last `Joined`."""
    leaving = [task for node, task in zip(nodes, tasks, strict=True) if node not in staying]
    for task in leaving:
        task.cancel()
    await asyncio.wait(leaving)
    for node in staying:
        node.joined.clear()
    began = time.perf_counter()
    head.end()
    # With the default time: on a busy machine a thousand nodes may need more than the few seconds that we died by.
    HEADS[:] = [Measured(directory, str(head.frames), str(head.control), 40.0)]
    await asyncio.gather(*(node.joined.wait() for node in staying))
    return round(time.perf_counter() - began, 3)


def percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "p50": round(ordered[len(ordered) // 2], 2),
        "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 2),
        "count": len(ordered),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--head", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.head:
        uvloop.run(run_head(Path(options.head[0]), *options.head[1:3], float(options.head[3])))
        return
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as directory:
        found = uvloop.run(measure(options.nodes, options.seconds, Path(directory)))
    found |= {
        "load_before": round(load_before, 2),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    if found["head_cores_with_follower"] > 0.5:
        sys.exit("head_heartbeats: expected at most 0.5 cores")


if __name__ == "__main__":
    main()
