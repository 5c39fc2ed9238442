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
    """Run the workloads, wait for the nodes to leave, and return the account of it."""
    import shoal as cluster

    os.environ["SHOAL_ADDRESS"] = name
    cluster.init()
    try:
        places, nodes_most = monte_carlo(cluster)
        fits = sweep()
        gang(cluster)
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
    return {
        "tasks": BATCHES,
        "fits": fits,
        "joined": len(joined),
        "left": len(left),
        "used": len(used),
        "usd": report["usd_spent"],
    }


def monte_carlo(cluster: Any) -> tuple[set[str], int]:
    """Estimate pi in batches; return the nodes that did the work, and the most there were at once."""
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
    return places, nodes_most


def sweep() -> int:
    """Search hyper-parameters with scikit-learn, whose joblib runs on the cluster; return how many fits it made."""
    import joblib
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    from shoal.util.joblib import register_shoal

    grid = {"C": [0.1, 1.0, 10.0], "gamma": [1e-3, 1e-2]}
    step("hyper-parameter sweep: GridSearchCV of scikit-learn, through joblib, on the cluster")
    register_shoal()
    images, digits = load_digits(return_X_y=True)
    search = GridSearchCV(SVC(), grid, cv=3)
    with joblib.parallel_backend("shoal"):
        search.fit(images[:600], digits[:600])
    fits = 3 * len(search.cv_results_["params"])
    print(f"    {fits} fits; best {search.best_params_}, accuracy {search.best_score_:.3f}")
    return fits


def gang(cluster: Any) -> None:
    """Start a gang of two that must sit on two nodes, or not start at all."""
    from shoal.util.placement_group import placement_group, remove_placement_group
    from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    step("a gang: two actors that start together, on two nodes, or not at all")

    @cluster.remote(num_cpus=1)
    class Member:
        def place(self) -> str:
            return cluster.get_runtime_context().get_node_id()

    group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    cluster.get(group.ready(), timeout=60)
    members = [
        Member.options(
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number)
        ).remote()
        for number in range(2)
    ]
    places = cluster.get([member.place.remote() for member in members], timeout=60)
    print(f"    both are there, on {len(set(places))} nodes")
    remove_placement_group(group)


def alive(cluster: Any) -> int:
    """Return how many nodes the head counts as alive."""
    return sum(node["Alive"] for node in cluster.nodes())


def told(account: dict[str, Any], took_s: float, left: list[str]) -> list[str]:
    """Return the lines of the account."""
    lines = []
    if account:
        lines += [
            f"{account['tasks']} tasks, {account['fits']} fits and a gang ran",
            f"{account['joined']} nodes joined, {account['left']} left again, {account['used']} of them did work",
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
