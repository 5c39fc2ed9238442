"""How long until waiting work becomes a launch call, and a launch call becomes a running task; `up` and `down` too.

A real cluster of the local provider, from the command line. One trial: every worker is gone; the driver notes the time
and calls `.remote()` on a task that the head's node cannot hold; the autoscaler's own event log has the time of the
provider's `launch` call (one wall clock, one machine). With `--nodes N`, N simulated nodes that are full report to the
head every second meanwhile.

    python benchmarks/demand_to_launch.py [--trials 200] [--nodes 0] [--out FILE]
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
from pathlib import Path
from typing import Any

import yaml

RESULTS = Path(__file__).parent / "results" / "demand_to_launch.json"
NAME = "latency"
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
        "worker": {"resources": {"CPU": 2, "object_store_memory": "64 MiB"}, "max_workers": 8, "price_usd_per_h": 0.1},
    },
}


def main() -> None:
    """Run the trials and keep the result."""
    arguments = _arguments()
    place = Path(tempfile.mkdtemp(prefix="sl"))
    os.environ |= {"SHOAL_RUNTIME_DIR": str(place), "SHOAL_STATE_DIR": str(place / "state"), "SHOAL_ADDRESS": NAME}
    path = place / "cluster.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    try:
        result = _measured(path, arguments.trials, arguments.nodes)
    finally:
        _shoal("down", NAME, "-y")
        shutil.rmtree(place, ignore_errors=True)
    print(json.dumps(result, indent=2))
    if arguments.out:
        kept = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
        kept[f"{arguments.nodes} simulated nodes"] = result
        arguments.out.parent.mkdir(exist_ok=True)
        arguments.out.write_text(json.dumps(kept, indent=2) + "\n")


def _measured(path: Path, trials: int, nodes: int) -> dict[str, Any]:
    """Return every figure of one run."""
    load = os.getloadavg()
    began_s = time.monotonic()
    _shoal("up", str(path), "-y")
    up_s = time.monotonic() - began_s
    first = subprocess.run([sys.executable, "-c", _FIRST], capture_output=True, text=True, check=True)
    first_result_s = time.monotonic() - began_s
    simulated = _simulate(nodes)
    try:
        to_launch, to_running = _trials(trials)
    finally:
        if simulated is not None:
            simulated.terminate()
            simulated.join()
    began_s = time.monotonic()
    _shoal("down", NAME, "-y")
    return {
        "trials": trials,
        "demand_to_launch_ms": _spread([1000 * one for one in to_launch]),
        "demand_to_running_s": _spread(to_running),
        "up_s": round(up_s, 3),
        "up_to_first_result_s": round(first_result_s, 3),
        "first_result": first.stdout.strip(),
        "down_s": round(time.monotonic() - began_s, 3),
        "load_average_before": load,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
    }


_FIRST = """
import shoal
shoal.init()
print(shoal.get(shoal.remote(lambda: 6 * 7).remote()))
"""


def _trials(count: int) -> tuple[list[float], list[float]]:
    """Return, per trial, seconds from `.remote()` to the launch call, and to the task's first instruction."""
    import shoal

    shoal.init()

    @shoal.remote(num_cpus=2, max_retries=0)
    def began() -> float:
        return time.time()

    events = Path(os.environ["SHOAL_STATE_DIR"]) / "shoal" / NAME / "events.jsonl"
    to_launch, to_running = [], []
    try:
        for trial in range(count):
            _wait_until_alone(shoal)
            asked_s = time.time()
            ref = began.remote()
            ran_s = shoal.get(ref, timeout=60)
            called_s = _first_launch(events, asked_s)
            to_launch.append(called_s - asked_s)
            to_running.append(ran_s - asked_s)
            if sys.stderr.isatty():
                print(f"\r{trial + 1}/{count}", end="", file=sys.stderr, flush=True)
    finally:
        shoal.shutdown()
    return to_launch, to_running


def _wait_until_alone(shoal: Any) -> None:
    """Wait until the only real node is the head's, and the autoscaler has forgotten the last worker."""
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        if not any(node["Alive"] and node["Labels"].get("ray.io/node-group") == "worker" for node in shoal.nodes()):
            time.sleep(0.3)  # past the release, so that trials do not undo each other's drains
            return
        time.sleep(0.02)
    raise SystemExit("the last worker did not go")


def _first_launch(events: Path, after_s: float) -> float:
    for line in events.read_text().splitlines():
        if '"launch_called"' in line:
            event = json.loads(line)
            if event["at_s"] >= after_s:
                return float(event["at_s"])
    raise SystemExit("the autoscaler recorded no launch")


def _simulate(count: int) -> multiprocessing.Process | None:
    """Start a process that plays `count` full nodes, and return it once all have joined."""
    if not count:
        return None
    process = multiprocessing.get_context("spawn").Process(target=_play, args=(count,), daemon=True)
    process.start()
    time.sleep(2 + count / 200)
    return process


def _play(count: int) -> None:
    """Be `count` agents whose nodes are full: join, and report every second with changing figures."""
    from shoal.transport import address, discovery
    from shoal.transport.connection import dial
    from shoal.wire import messages as told

    async def one(number: int, frames: Any, credential: Any) -> None:
        connection = await dial(frames, None, credential)
        node_id = f"{number:028x}"
        total = {"CPU": 40_000, "memory": 2**36}
        connection.send(
            told.Join(node_id, f"sim-{number}", "simulated", "", "", total, {}, [], 1, False, "sim", os.getpid())
        )
        sequence = 0
        await asyncio.sleep(number % 100 / 100)
        while not connection.is_closed:
            sequence += 1
            busy = [told.BusyFor("lease", 4)]
            connection.send(
                told.Report(
                    sequence, sequence == 1, {"CPU": 0, "memory": sequence % 97}, None, sequence, None, busy, [], []
                )
            )
            await asyncio.sleep(1.0)

    async def everyone() -> None:
        cluster = discovery.find(NAME)
        assert cluster is not None
        credential = discovery.best_credential(Path(cluster.directory))
        frames = address.parse(cluster.frames)
        await asyncio.gather(*(one(number, frames, credential) for number in range(count)))

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(everyone())


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
    parser.add_argument("--out", type=Path, nargs="?", const=RESULTS, default=None)
    return parser.parse_args()


if __name__ == "__main__":
    main()
