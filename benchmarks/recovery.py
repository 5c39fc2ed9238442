"""A node with a thousand objects is killed: how long until its owner has every one of them again?

A cluster started by hand on this machine: a head, and a node of its own whose agent is killed (its guard starts another
agent, which is another node). A driver has a task make each object there, lets go of nothing, and reads all of them
after the kill; each is made again from its lineage, wherever there is room. Printed, for each round: how long they took
to make at first (what remaking costs without a fault), how long after the kill the driver had the first value and the
last, how long after it the head gave its verdict, and how long the same takes for the values of an untouched node.

How long 100 agents take to re-join a restarted head is in `head_heartbeats.py` (`kill_to_100_rejoined_s`).

    python benchmarks/recovery.py [--objects 1000] [--kib 128] [--rounds 5] [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results" / "recovery.json"
NAME = "recovery"
STORE = "1 GiB"


def main() -> None:
    """Run the rounds; keep the result of a full run."""
    options = _options()
    load_before = os.getloadavg()[0]
    rounds = [_round(options.objects, options.kib) for _ in range(options.rounds)]
    result = {
        "objects": options.objects,
        "kib_each": options.kib,
        "median": {name: statistics.median(one[name] for one in rounds) for name in rounds[0]},
        "rounds": rounds,
        "load_before": round(load_before, 2),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }
    print(json.dumps(result, indent=2))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=1000)
    parser.add_argument("--kib", type=int, default=128, help="size of each; above 100 they lie in the node's store")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of 100 objects, nothing kept")
    parser.add_argument("--out", type=Path, default=None, help=f"default: {RESULTS.name} for a full run")
    options = parser.parse_args()
    if options.quick:
        options.objects, options.rounds = min(options.objects, 100), 1
    elif options.out is None:
        options.out = RESULTS
    return options


def _round(objects: int, kib: int) -> dict[str, float]:
    """One cluster, one kill."""
    place = Path(tempfile.mkdtemp(prefix="sr"))
    environ = {**os.environ, "SHOAL_RUNTIME_DIR": str(place), "SHOAL_STATE_DIR": str(place / "state")}
    environ["SHOAL_ADDRESS"] = NAME
    try:
        _shoal(environ, "start", "--head", "--name", NAME, "--num-cpus", "2", "--object-store-memory", STORE)
        before = _agents(place)
        _shoal(environ, "start", "--num-cpus", "2", "--resources", '{"there": 2}', "--object-store-memory", STORE)
        (agent,) = _agents(place) - before
        driver = subprocess.Popen(
            [sys.executable, __file__, "--driver", str(objects), str(kib)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )
        with driver:
            assert driver.stdin is not None
            assert driver.stdout is not None
            assert driver.stdout.readline() == "ready\n"
            killed_at = time.monotonic()  # one clock for all processes of a machine
            os.kill(agent, signal.SIGKILL)
            driver.stdin.write("killed\n")
            driver.stdin.flush()
            told = json.loads(driver.stdout.readline())
        return {
            "make_all_s": round(told["make_all_s"], 3),
            "read_all_s": round(told["read_all_s"], 3),
            "kill_to_verdict_s": round(told["verdict_at"] - killed_at, 3),
            "kill_to_first_value_s": round(told["first_at"] - killed_at, 3),
            "kill_to_all_values_s": round(told["all_at"] - killed_at, 3),
        }
    finally:
        _shoal(environ, "stop", "--all")
        shutil.rmtree(place, ignore_errors=True)


def _shoal(environ: dict[str, str], *words: str) -> None:
    subprocess.run([sys.executable, "-m", "shoal", *words], check=True, env=environ, stdout=subprocess.DEVNULL)


def _agents(place: Path) -> set[int]:
    """Return the pids of this cluster's agents."""
    mine = {f"SHOAL_RUNTIME_DIR={place}".encode()}
    found = set()
    for process in psutil.process_iter():
        try:
            if "agent" in process.cmdline() and mine <= set(
                Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            ):
                found.add(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def drive(objects: int, kib: int) -> None:
    """The driver: make everything there, wait for the kill, read everything."""
    import threading

    import shoal
    from shoal.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    shoal.init()
    node_id = next(one["NodeID"] for one in shoal.nodes() if "there" in one["Resources"])

    @shoal.remote(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=True))
    def make(number: int) -> bytes:
        return number.to_bytes(8, "big") * (kib * 128)

    @shoal.remote
    def size(value: bytes) -> int:
        return len(value)

    def made(count: int) -> list[Any]:
        """Make them at the node that will be killed: what a busy node sent elsewhere is made once more."""
        refs: list[Any] = []
        while len(refs) < count:
            more = [make.remote(number) for number in range(len(refs), count)]
            shoal.wait(more, num_returns=len(more))
            refs += [ref for ref in more if ref._data[0][1] == node_id]
        return refs

    began = time.monotonic()
    refs = made(objects)
    make_all_s = time.monotonic() - began
    other = made(objects)
    began = time.monotonic()
    shoal.get(other)
    read_all_s = time.monotonic() - began
    verdict_at: list[float] = []

    def watch() -> None:
        while any(one["NodeID"] == node_id and one["Alive"] for one in shoal.nodes()):
            time.sleep(0.005)
        verdict_at.append(time.monotonic())

    print("ready", flush=True)
    sys.stdin.readline()
    watching = threading.Thread(target=watch)
    watching.start()
    first = shoal.get(refs[0])
    first_at = time.monotonic()
    values = [first, *shoal.get(refs[1:])]
    all_at = time.monotonic()
    assert all(len(value) == kib * 1024 for value in values)
    watching.join()
    told = {
        "make_all_s": make_all_s,
        "read_all_s": read_all_s,
        "verdict_at": verdict_at[0],
        "first_at": first_at,
        "all_at": all_at,
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--driver"]:
        drive(int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
