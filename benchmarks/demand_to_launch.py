"""How long until waiting work becomes a launch call, and a launch call becomes a running task; `up` and `down` too.

A real cluster of the local provider, from the command line. One trial: the driver notes the time and calls `.remote()`
on a task that only a new machine can hold; the autoscaler's own event log has the time of the provider's `launch` call
(one wall clock, one machine). There are several worker types, each with a resource of its own; trials take them in
turn, so that a trial need not wait for the last one's machine to go. With `--nodes N`, N simulated nodes that are full
report to the head every second meanwhile.

With `--ray`, the same trials run on Ray instead, with its own fake multi-node provider loaded as `type: external` so
that it can note when it is called, and Ray's defaults but for a short idle time (see demand_to_launch_ray.py).

    python benchmarks/demand_to_launch.py [--trials 200] [--nodes 0] [--ray] [--out [FILE]]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

RESULTS = Path(__file__).parent / "results" / "demand_to_launch.json"
NAME = "latency"
KINDS = 8
WAIT_LIMIT_S = 90.0
SIMULATED = "sim-"
CONFIG = {
    "cluster_name": NAME,
    "provider": {"type": "local", "oversubscribe": 64},
    "max_workers": 4000,
    "idle_timeout_s": "0.2s",
    "min_up": "0s",
    "policy": {"flap": "0s"},
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 1, "object_store_memory": "64 MiB"}, "price_usd_per_h": 0.01},
        **{
            f"worker{kind}": {
                "resources": {"CPU": 1, f"kind{kind}": 1, "object_store_memory": "64 MiB"},
                "max_workers": 1,
                "price_usd_per_h": 0.1,
            }
            for kind in range(KINDS)
        },
    },
}
FIRST = """
import {engine} as engine
engine.init()
print(engine.get(engine.remote(lambda: 6 * 7).remote()))
"""


def main() -> None:
    """Run the trials and keep the result."""
    arguments = _arguments()
    if arguments.ray:
        import demand_to_launch_ray

        result = demand_to_launch_ray.measured(arguments.trials)
        name = "Ray"
    else:
        result = _measured(arguments.trials, arguments.nodes)
        name = f"{arguments.nodes} simulated nodes"
    print(json.dumps(result, indent=2))
    if arguments.out:
        kept = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
        kept[name] = result
        arguments.out.parent.mkdir(exist_ok=True)
        arguments.out.write_text(json.dumps(kept, indent=2) + "\n")


def account(trials: list[tuple[float, float]], **more: Any) -> dict[str, Any]:
    """Return what is kept of one run; `trials` are (seconds to the launch call, seconds to running)."""
    return {
        "trials": len(trials),
        "demand_to_launch_ms": _spread([1000 * one for one, _ in trials]),
        "demand_to_running_s": _spread([one for _, one in trials]),
        **more,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
    }


def _measured(trials: int, nodes: int) -> dict[str, Any]:
    """Return every figure of one run on Shoal."""
    place = Path(tempfile.mkdtemp(prefix="sl"))
    os.environ |= {"SHOAL_RUNTIME_DIR": str(place), "SHOAL_STATE_DIR": str(place / "state"), "SHOAL_ADDRESS": NAME}
    path = place / "cluster.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    load = os.getloadavg()
    try:
        began_s = time.monotonic()
        _shoal("up", str(path), "-y")
        up_s = time.monotonic() - began_s
        first = subprocess.run(
            [sys.executable, "-c", FIRST.format(engine="shoal")], capture_output=True, text=True, check=True
        )
        assert first.stdout.strip() == "42"
        first_result_s = time.monotonic() - began_s
        with _simulated(nodes):
            found = _trials(trials)
        began_s = time.monotonic()
        _shoal("down", NAME, "-y")
        down_s = time.monotonic() - began_s
    finally:
        _shoal("down", NAME, "-y")
        shutil.rmtree(place, ignore_errors=True)
    return account(
        found,
        up_s=round(up_s, 3),
        up_to_first_result_s=round(first_result_s, 3),
        down_s=round(down_s, 3),
        load_average_before=load,
    )


class EventLog:
    """The autoscaler's event log, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0
        self.launched_s: dict[str, float] = {}
        """When the launch of each instance was called first."""
        self.ended: set[str] = set()
        """Instances whose machine was given back."""
        self.kinds: dict[str, str] = {}
        """Newest instance of each node type."""

    def read(self) -> None:
        """Take in what was written since the last time."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self._take(json.loads(line))

    def _take(self, event: dict[str, Any]) -> None:
        fields = event["fields"]
        match event["kind"]:
            case "instance_wanted":
                self.kinds[fields["node_type"]] = fields["instance"]
            case "launch_called":
                for instance in fields["instances"]:
                    self.launched_s.setdefault(instance, event["at_s"])
            case "instance_state" if fields["after"] == "gone":
                self.ended.add(fields["instance"])

    def is_free(self, node_type: str) -> bool:
        """Say whether no machine of that type is left."""
        self.read()
        return node_type not in self.kinds or self.kinds[node_type] in self.ended


def _trials(count: int) -> list[tuple[float, float]]:
    """Return, per trial, seconds from `.remote()` to the launch call, and to the task's first instruction."""
    import shoal

    shoal.init()

    @shoal.remote(num_cpus=0, max_retries=0)
    def began() -> float:
        return time.time()

    log = EventLog(Path(os.environ["SHOAL_STATE_DIR"]) / "shoal" / NAME / "events.jsonl")
    found = []
    try:
        for trial in range(count):
            node_type, task = f"worker{trial % KINDS}", began.options(resources={f"kind{trial % KINDS}": 1})
            _wait(lambda kind=node_type: log.is_free(kind), f"the last {node_type} to go")
            time.sleep(0.1)  # past the end of what was just released
            asked_s = time.time()
            ran_s = shoal.get(task.remote(), timeout=WAIT_LIMIT_S)
            log.read()
            found.append((log.launched_s[log.kinds[node_type]] - asked_s, ran_s - asked_s))
            assert found[-1][0] > 0, found[-1]
            if sys.stderr.isatty():
                print(f"\r{trial + 1}/{count}", end="", file=sys.stderr, flush=True)
    finally:
        shoal.shutdown()
    return found


def _wait(condition: Any, what: str) -> None:
    end_s = time.monotonic() + WAIT_LIMIT_S
    while not condition():
        if time.monotonic() > end_s:
            raise SystemExit(f"waited {WAIT_LIMIT_S:g} s for {what}")
        time.sleep(0.02)


# ------------------------------------------------------------------------------------------------ simulated nodes


@contextlib.contextmanager
def _simulated(count: int) -> Iterator[None]:
    """Have a process play `count` full nodes; all have joined when the body begins."""
    if not count:
        yield
        return
    context = multiprocessing.get_context("spawn")
    joined = context.Event()
    process = context.Process(target=_play, args=(count, joined), daemon=True)
    process.start()
    try:
        if not joined.wait(WAIT_LIMIT_S + count / 10):
            raise SystemExit("the simulated nodes did not join")
        time.sleep(5.0)  # the autoscaler has seen them all
        yield
    finally:
        process.terminate()
        process.join()


def _play(count: int, joined: Any) -> None:
    """Be `count` agents whose nodes are full: join, and report every second with changing figures."""
    import uvloop

    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_play_all(count, joined))


async def _play_all(count: int, joined: Any) -> None:
    from shoal.transport import address, discovery

    cluster = discovery.find(NAME)
    assert cluster is not None
    credential = discovery.load_credential(Path(cluster.directory) / "node.secret")
    frames = address.parse(cluster.frames)
    tasks: list[asyncio.Task[None]] = []
    # In waves of at most as many hellos as a listener allows at once.
    for start in range(0, count, 50):
        wave = [asyncio.Event() for _ in range(start, min(start + 50, count))]
        tasks += [
            asyncio.create_task(_play_one(start + place, frames, credential, has_joined))
            for place, has_joined in enumerate(wave)
        ]
        await asyncio.gather(*(one.wait() for one in wave))
    joined.set()
    await asyncio.gather(*tasks)


async def _play_one(number: int, frames: Any, credential: Any, has_joined: asyncio.Event) -> None:
    from shoal.transport.connection import dial
    from shoal.wire import messages as told

    connection = await dial(frames, None, credential, type=told.TO_AGENT, limit_s=60)
    total = {"CPU": 40_000, "memory": 2**36}
    connection.send(
        told.Join(
            f"{number:028x}", f"{SIMULATED}{number}", "simulated", "", "", total, {}, [], 1, False, "sim", os.getpid()
        )
    )

    async def report() -> None:
        await has_joined.wait()
        await asyncio.sleep(number % 100 / 100)
        sequence = 0
        while True:
            sequence += 1
            free = {"CPU": 0, "memory": sequence % 97}
            busy = [told.BusyFor("lease", 4)]
            connection.send(told.Report(sequence, sequence == 1, free, None, sequence, None, busy, [], []))
            await asyncio.sleep(1.0)

    reporting = asyncio.create_task(report())
    try:
        while (messages := await connection.receive()) is not None:
            if any(isinstance(message, told.Joined) for message in messages):
                has_joined.set()
    finally:
        reporting.cancel()


# ------------------------------------------------------------------------------------------------------- figures


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered), 3),
        "p90": round(ordered[int(0.9 * (len(ordered) - 1))], 3),
        "p99": round(ordered[int(0.99 * (len(ordered) - 1))], 3),
        "most": round(ordered[-1], 3),
    }


def _shoal(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "shoal", *words], check=False, capture_output=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--nodes", type=int, default=0)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--out", type=Path, nargs="?", const=RESULTS, default=None)
    return parser.parse_args()


if __name__ == "__main__":
    main()
