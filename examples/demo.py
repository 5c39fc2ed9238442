"""The main job, watched: a cluster starts, work asks for more than there is, nodes come, work, and go again.

`make demo` runs this on configs/local.yaml, where a "machine" is a group of processes on this computer. It ends with an
account of what ran, what it would have cost, and a check that nothing is left; it fails if any of that is not so.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).parent.parent / "configs" / "local.yaml"
BATCHES = 48
SAMPLES = 150_000
LEAVE_LIMIT_S = 90.0
MARK = f"demo-{os.getpid()}"


def main() -> int:
    """Run the demo; return the exit code."""
    began_s = time.monotonic()
    os.environ["SHOAL_DEMO"] = MARK  # every process of the cluster inherits it, so that leftovers can be found
    name = f"demo-{os.getpid()}"
    signal.signal(signal.SIGTERM, _interrupt)
    problems: list[str] = []
    account: dict[str, Any] = {}
    try:
        step("start a cluster from configs/local.yaml")
        shoal("up", str(CONFIG), "--yes", "--cluster-name", name)
        account = work(name, problems)
    except KeyboardInterrupt:
        problems.append("interrupted")
    except Exception as error:
        problems.append(f"{type(error).__name__}: {error}")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not stop the cleaning up
        step("take the cluster down")
        shoal("down", "--yes", "--cluster-name", name, check=False)
    left = leftovers(name)
    problems += [f"left behind: {one}" for one in left]
    step("what happened")
    for line in told(account, time.monotonic() - began_s, left):
        print(f"    {line}")
    for problem in problems:
        print(f"    FAILED: {problem}", file=sys.stderr)
    return 1 if problems else 0


def work(name: str, problems: list[str]) -> dict[str, Any]:
    """Run the workload, wait for the nodes to leave, and return the account of it."""
    import shoal as cluster

    os.environ["SHOAL_ADDRESS"] = name
    cluster.init()
    try:
        step(f"Monte Carlo: pi from {BATCHES} batches of {SAMPLES:,} darts; the head alone has one CPU")

        @cluster.remote
        def throw(seed: int) -> tuple[int, str]:
            chance = random.Random(seed)
            began_s = time.monotonic()
            inside = sum(chance.random() ** 2 + chance.random() ** 2 <= 1 for _ in range(SAMPLES))
            # As long as a real batch would take on a busy machine, so that waiting work is worth a node.
            time.sleep(max(0.0, 1.0 - (time.monotonic() - began_s)))
            return inside, cluster.get_runtime_context().get_node_id()

        waiting = [throw.remote(seed) for seed in range(BATCHES)]
        inside, places, nodes_most = 0, set(), 1
        while waiting:
            done, waiting = cluster.wait(waiting, num_returns=len(waiting), timeout=0.5)
            for hits, place in cluster.get(done):
                inside += hits
                places.add(place)
            nodes_most = max(nodes_most, alive(cluster))
            progress(BATCHES - len(waiting), BATCHES, f"{alive(cluster)} nodes")
        print(f"\n    pi is about {4 * inside / (BATCHES * SAMPLES):.4f}; batches ran on {len(places)} nodes")
        step("the work is done: idle nodes go by themselves")
        deadline_s = time.monotonic() + LEAVE_LIMIT_S
        while (here := alive(cluster)) > 1 and time.monotonic() < deadline_s:
            progress(nodes_most - here, nodes_most - 1, f"{here} nodes")
            time.sleep(0.2)
        print()
        joined = [node for node in cluster.nodes() if not node["IsHeadNode"]]
        left = [node for node in joined if not node["Alive"]]
    finally:
        cluster.shutdown()
    if len(left) < 2:
        problems.append(f"expected at least 2 nodes to join and leave by the head's record, got {len(left)}")
    used = {node["NodeID"] for node in joined} & places
    if len(used) < 2:
        problems.append(f"expected tasks to run on at least 2 added nodes, got {len(used)}")
    if len(left) < len(joined):
        problems.append(f"{len(joined) - len(left)} added nodes had not left after {LEAVE_LIMIT_S:.0f} s")
    status = json.loads(shoal("status", name, "--format", "json", quiet=True))
    report = status.get("autoscaler") or {}
    return {"tasks": BATCHES, "joined": len(joined), "left": len(left), "used": len(used), "usd": report["usd_spent"]}


def alive(cluster: Any) -> int:
    """Return how many nodes the head counts as alive."""
    return sum(node["Alive"] for node in cluster.nodes())


def told(account: dict[str, Any], took_s: float, left: list[str]) -> list[str]:
    """Return the lines of the account."""
    lines = []
    if account:
        lines += [
            f"{account['tasks']} tasks ran; {account['joined']} nodes joined, {account['left']} left again, "
            f"{account['used']} of them did work",
            f"it would have cost ${account['usd']:.4f} at the prices in configs/local.yaml",
        ]
    lines.append(f"it took {took_s:.1f} s from nothing to nothing")
    lines.append("nothing is left: no process, segment, socket, file or machine" if not left else "something is left")
    return lines


def leftovers(name: str) -> list[str]:
    """Return what of the cluster still exists: processes by their mark, files and segments by their names."""
    found = []
    mark = f"SHOAL_DEMO={MARK}".encode()
    deadline_s = time.monotonic() + 3.0
    while True:
        found = [f"process {pid}" for pid in processes(mark)]
        if not found or time.monotonic() > deadline_s:
            break
        time.sleep(0.05)
    listed = json.loads(shoal("clusters", "--format", "json", quiet=True))
    found += [f"cluster {one['name']}" for one in listed if one["name"] == name]
    above = os.environ.get("SHOAL_STATE_DIR") or os.environ.get("XDG_STATE_HOME")
    state = (Path(above) if above else Path.home() / ".local" / "state") / "shoal" / name
    found += [f"file {path}" for path in state.rglob("*")]
    if not found:
        shutil.rmtree(state, ignore_errors=True)
    return found


def processes(mark: bytes) -> list[int]:
    """Return the live processes, but for ourselves, whose environment has the mark."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            is_marked = mark in (entry / "environ").read_bytes().split(b"\0")
            if is_marked and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def shoal(*arguments: str, check: bool = True, quiet: bool = False) -> str:
    """Run the command line as a user would, and return what it printed."""
    ran = subprocess.run(
        [sys.executable, "-m", "shoal", *arguments],
        check=False,
        stdout=subprocess.PIPE,
        stderr=None if not quiet else subprocess.DEVNULL,
        text=True,
    )
    if not quiet:
        print("    " + ran.stdout.strip().replace("\n", "\n    "))
    if check and ran.returncode:
        raise SystemExit(f"`shoal {' '.join(arguments)}` ended with {ran.returncode}")
    return ran.stdout


def step(text: str) -> None:
    """Say what comes next."""
    print(f"\n--> {text}", flush=True)


def progress(done: int, of: int, text: str) -> None:
    """Draw a bar; one line that is overwritten on a terminal, nothing elsewhere but at the end."""
    filled = 30 * done // max(1, of)
    line = f"    [{'#' * filled}{'.' * (30 - filled)}] {done}/{of}  {text}"
    if sys.stdout.isatty():
        print(f"\r{line:<70}", end="", flush=True)
    elif done == of:
        print(line, flush=True)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
