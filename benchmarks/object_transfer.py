"""Objects that cross from one node to another: real agents on loopback, plain and over TLS, and by a driver's link.

Two nodes of one cluster on this machine, each with its own store. A task on the second makes an object, the driver at
the first gets it: the agents move it over TCP into the first node's shared memory. Kept is the time from `get` to the
value, for each size as the median of some objects, after two that are not counted (they give both stores their memory).
`elsewhere` is a driver that has one connection only (docs/drivers-elsewhere.md): get and put pass through it. A get
from the second node crosses twice, to the driver's home node and on; `at home` is the second half alone.

    python benchmarks/object_transfer.py [--quick] [--repeats 7] [--out FILE]

A full run writes benchmarks/results/object_transfer.json. Aimed at: over 1 GB/s plain at 256 MiB.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HOST = "127.0.0.2"  # loopback, but not what counts as "this machine only": the nodes listen as between hosts
MIB = 2**20
SIZES_MIB = (16, 64, 256)
GOAL_GB_PER_S = 1.0
RESULTS = Path(__file__).parent / "results" / "object_transfer.json"
SHOAL = [sys.executable, "-m", "shoal"]

DRIVER = """
import json, sys, time
import numpy as np
import shoal

address, sizes, repeats = sys.argv[1] or None, json.loads(sys.argv[2]), int(sys.argv[3])
shoal.init(address)

@shoal.remote(resources={"there": 1})
def make(size, seed):
    return np.resize(np.random.default_rng(seed).integers(0, 256, 1 << 20, np.uint8), size)

@shoal.remote(resources={"there": 1})
def sure(value):
    return len(value)

found = {}
for size in sizes:
    gets, puts, homes = [], [], []
    for number in range(repeats + 2):
        ref = make.remote(size, number)
        shoal.wait([ref], fetch_local=False)
        began = time.perf_counter()
        value = shoal.get(ref)
        gets.append(time.perf_counter() - began)
        assert len(value) == size
        if address:
            began = time.perf_counter()
            ref = shoal.put(value)
            puts.append(time.perf_counter() - began)
            assert shoal.get(sure.remote(ref)) == size
            del value
            began = time.perf_counter()
            value = shoal.get(ref)
            homes.append(time.perf_counter() - began)
            assert len(value) == size
        del ref, value
    found[size] = {"get": gets[2:], "put": puts[2:], "home": homes[2:]}
print(json.dumps(found))
"""


class Cluster:
    """A head's node and one more, by the commands that a person would type."""

    def __init__(self, place: Path, *, is_tls: bool) -> None:
        self.environment = {
            **os.environ,
            "SHOAL_RUNTIME_DIR": str(place / "r"),
            "SHOAL_STATE_DIR": str(place / "s"),
        }
        for folder in ("r", "s"):
            (place / folder).mkdir(mode=0o700)
        self.tls: list[str] = []
        if is_tls:
            certify(place)
            self.tls = ["--tls-cert", f"{place}/node.pem", "--tls-key", f"{place}/node.key"]
            self.tls += ["--tls-ca", f"{place}/node.pem"]
            self.variables = {
                "SHOAL_TLS_CERT": f"{place}/node.pem",
                "SHOAL_TLS_KEY": f"{place}/node.key",
                "SHOAL_TLS_CA": f"{place}/node.pem",
            }
        else:
            self.variables = {}
        memory = ["--object-store-memory", "2 GiB", "--num-cpus", "1"]
        said = self.shoal("start", "--head", "--host", HOST, *memory, *self.tls)
        self.address = said.split("tcp:")[1].strip()
        self.shoal("start", *memory, "--resources", '{"there": 1}', *self.tls)

    def shoal(self, *words: str) -> str:
        done = subprocess.run([*SHOAL, *words], env=self.environment, check=True, capture_output=True, text=True)
        return done.stdout

    def driver(self, address: str, sizes: list[int], repeats: int, **more: str) -> dict[str, Any]:
        command = [sys.executable, "-c", DRIVER, address, json.dumps(sizes), str(repeats)]
        done = subprocess.run(command, env={**self.environment, **more}, check=True, stdout=subprocess.PIPE, text=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def elsewhere(self, place: Path, sizes: list[int], repeats: int) -> dict[str, Any]:
        """Run the driver as on a host that knows the address and the secret only."""
        (secret,) = Path(self.environment["SHOAL_RUNTIME_DIR"]).glob("*/*/driver.secret")
        apart = place / "apart"
        apart.mkdir(mode=0o700)
        own = {"SHOAL_RUNTIME_DIR": str(apart), "SHOAL_SECRET_FILE": str(secret), **self.variables}
        return self.driver(self.address, sizes, repeats, **own)


def certify(directory: Path) -> None:
    """Write a certificate that is its own authority, for both nodes (the second listens at 127.0.0.1)."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        + ["-keyout", str(directory / "node.key"), "-out", str(directory / "node.pem"), "-days", "2"]
        + ["-subj", "/CN=node", "-addext", f"subjectAltName=IP:{HOST},IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )


def rates(found: Mapping[str, Any], what: str) -> dict[str, dict[str, float]]:
    """Return GB/s (1e9 bytes) by size in MiB: median, slowest and fastest."""
    shown = {}
    for size, times in found.items():
        speeds = sorted(int(size) / 1e9 / seconds for seconds in times[what])
        if speeds:
            shown[f"{int(size) // MIB} MiB"] = {
                "median": round(statistics.median(speeds), 3),
                "least": round(speeds[0], 3),
                "most": round(speeds[-1], 3),
            }
    return shown


def measure(sizes: list[int], repeats: int) -> dict[str, Any]:
    """Return every row, in GB/s."""
    rows: dict[str, Any] = {}
    for name, is_tls in (("plain", False), ("tls", True)):
        with tempfile.TemporaryDirectory(prefix="st", dir=tempfile.gettempdir()) as scratch:
            place = Path(scratch)
            cluster = Cluster(place, is_tls=is_tls)
            try:
                rows[f"between nodes, {name}"] = rates(cluster.driver("", sizes, repeats), "get")
                far = cluster.elsewhere(place, sizes, repeats)
                rows[f"elsewhere, get, {name}"] = rates(far, "get")
                rows[f"elsewhere, get at home, {name}"] = rates(far, "home")
                rows[f"elsewhere, put, {name}"] = rates(far, "put")
            finally:
                cluster.shoal("stop", "--all")
        for row in list(rows)[-4:]:
            print(f"{row:<32}" + "".join(f"{size:>10} {one['median']:6.2f} GB/s" for size, one in rows[row].items()))
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    options.add_argument("--quick", action="store_true", help="one size, two objects, no result file")
    options.add_argument("--repeats", type=int, default=7, help="objects of each size")
    options.add_argument("--out", type=Path, default=RESULTS)
    chosen = options.parse_args()
    load = os.getloadavg()[0]
    sizes = [64 * MIB] if chosen.quick else [size * MIB for size in SIZES_MIB]
    rows = measure(sizes, 2 if chosen.quick else chosen.repeats)
    largest = rows["between nodes, plain"][f"{sizes[-1] // MIB} MiB"]["median"]
    verdict = "reached" if largest > GOAL_GB_PER_S else "missed"
    print(f"goal: over {GOAL_GB_PER_S:g} GB/s between two nodes, plain: {largest:.2f}, {verdict}")
    if not chosen.quick:
        machine = {"cores": os.cpu_count(), "python": platform.python_version(), "load_before": round(load, 2)}
        date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")
        result = {"unit": "GB/s", "goal": GOAL_GB_PER_S, "verdict": verdict, "rows": rows}
        chosen.out.write_text(json.dumps({**result, "machine": machine, "date": date}, indent=1) + "\n")
    sys.exit(0 if verdict == "reached" or chosen.quick else 1)


if __name__ == "__main__":
    main()
