"""How fast objects go into shared memory, come out in another process, and cross to another node; beside Ray's store.

    python benchmarks/object_store.py [--rounds 3] [--no-ray] [--out benchmarks/results/object_store.json]

Rows, all on random bytes (zero pages would flatter us):

  put_warm      one array of 800 MiB again and again, the first four puts left out; GB/s. Ray and ours take turns put by
                put in one process, because the machine's memory is shared with whoever else runs on it
  put_cold      the first 1 GiB after init, as 8 arrays of 128 MiB, begun within 1 s of it; GB/s
  put_200k      arrays of 200 KB, put and dropped; per second
  get_1gb       an array of 1 GB in another process: from the answer of the agent to the usable array; us
  transfer      one object of 512 MiB between two node stores on loopback: plain and over TLS; GB/s

Ours runs as in real life: the agent's store is a process of its own, asked through a pipe. Ray and ours alternate, each
in fresh processes, so that neither finds the other's warm pages; the load average is kept beside every round.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MIB = 2**20
ROOT = Path(__file__).resolve().parent.parent
STORE_BYTES = 4 * 2**30
SETTLE_S = 4.0


def random_array(size: int) -> Any:
    import numpy as np

    block = np.frombuffer(os.urandom(16 * MIB), dtype=np.uint8)
    return np.tile(block, -(-size // len(block)))[:size].copy()


# ------------------------------------------------------------------------------------------------------------- our side


def agent(pipe: Connection) -> None:
    """A node's store behind a pipe."""
    import secrets

    from shoal.foundation.clock import SystemClock
    from shoal.runtime.store.node import NodeStore
    from shoal.runtime.store.places import NodeDirectory, shared_memory_root
    from shoal.runtime.store.spill import DiskThread

    place = NodeDirectory(shared_memory_root(), secrets.token_hex(16), secrets.token_hex(14))
    woken = multiprocessing.Pipe(duplex=False)
    disk = DiskThread(lambda: woken[1].send_bytes(b"."))
    store = NodeStore(place.path, STORE_BYTES, SystemClock(), disk=disk)
    store.warm()
    pipe.send(str(place.path))

    def spares(size: int) -> list[Any]:
        found = [store.lease_now(b"w", size) for _ in range(15 if size <= MIB else 0)]
        return [one for one in found if one is not None]

    try:
        while True:
            for ready in multiprocessing.connection.wait([pipe, woken[0]]):
                if ready is woken[0]:
                    woken[0].recv_bytes()
                    disk.poll()
                    continue
                what, *rest = pipe.recv()
                if what == "lease":
                    # Small segments are given a few at a time: the writer keeps a stock of them.
                    store.lease(b"w", rest[0], lambda one, size=rest[0]: pipe.send([one, *spares(size)]))
                elif what == "seal":
                    store.seal(b"w", *rest)
                elif what == "pin":
                    store.pin(b"r", rest[0], pipe.send)
                elif what == "unpin":
                    store.unpin(b"r", rest[0])
                elif what == "free":
                    store.free(rest[0])
                else:
                    return
    except EOFError:
        return
    finally:
        disk.close()
        place.remove()


class Driver:
    """A process that puts and gets, with its agent."""

    def __init__(self) -> None:
        from shoal.runtime.store import Reader, Writer

        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.agent = context.Process(target=agent, args=(theirs,))
        self.agent.start()
        theirs.close()
        self.directory = Path(self.pipe.recv())
        self.writer = Writer(self.directory, self._lease)
        self.reader = Reader(self.directory)
        self.count = 0

    def _lease(self, size: int) -> Any:
        self.pipe.send(("lease", size))
        one, *spares = self.pipe.recv()
        for spare in spares:
            self.writer.offer(spare)
        return one

    def put(self, value: Any) -> bytes:
        from shoal.runtime.store import dump

        sealed = self.writer.put(dump(value))
        self.count += 1
        object_id = self.count.to_bytes(24, "big")
        self.pipe.send(("seal", object_id, sealed.segment_id, sealed.size))
        return object_id

    def free(self, *object_ids: bytes) -> None:
        self.pipe.send(("free", object_ids))

    def close(self) -> None:
        self.pipe.send(("end",))
        self.agent.join()


def shoal_puts() -> dict[str, float]:
    parts = [random_array(128 * MIB)] * 8
    begun = time.perf_counter()
    driver = Driver()
    after_init = time.perf_counter()
    held = [driver.put(part) for part in parts]
    cold = time.perf_counter() - after_init
    driver.free(*held)
    small = random_array(200_000)
    for _ in range(300):
        driver.free(driver.put(small))
    start = time.perf_counter()
    for _ in range(3000):
        driver.free(driver.put(small))
    small_rate = 3000 / (time.perf_counter() - start)
    driver.close()
    return {
        "init_s": after_init - begun,
        "put_cold": 1.073741824 / cold,
        "put_200k": small_rate,
    }


def shoal_get() -> dict[str, float]:
    driver = Driver()
    array = random_array(10**9)
    object_id = driver.put(array)
    driver.pipe.send(("pin", object_id))
    located = driver.pipe.recv()
    result = subprocess.run(
        [sys.executable, __file__, "--child", "reader", str(driver.directory), json.dumps(list(_plain(located)))],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    driver.close()
    found = json.loads(result.stdout)
    assert found["checksum"] == int(array[::4096].sum(dtype="uint64")), "another array came out"
    return {"get_1gb_first": found["first_us"], "get_1gb": found["us"]}


def reader(directory: str, located: str) -> dict[str, Any]:
    """The other process: the first get, and the median of later ones."""
    import numpy as np

    from shoal.runtime.store import Located, Reader

    there = Reader(Path(directory))
    where = Located(*json.loads(located))
    np.zeros(1)
    took = []
    for _ in range(21):
        start = time.perf_counter()
        array = there.load(b"o" * 24, where)
        took.append((time.perf_counter() - start) * 1e6)
        checksum = int(array[::4096].sum(dtype="uint64"))
        del array
        there.drain()
    return {"first_us": took[0], "us": statistics.median(took[1:]), "checksum": checksum}


def shoal_transfer() -> dict[str, float]:
    return {"transfer_plain": _transfer(False), "transfer_tls": _transfer(True)}


def _transfer(is_tls: bool) -> float:
    with tempfile.TemporaryDirectory() as scratch:
        _certificate(Path(scratch))
        command = [sys.executable, __file__, "--child", "sender", scratch if is_tls else ""]
        sender = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'store'}"},
        )
        try:
            assert sender.stdout is not None
            address, size = json.loads(sender.stdout.readline())
            sys.path.insert(0, str(ROOT / "tests" / "store"))
            from store_rig import Node

            node = Node(2 * 2**30)
            try:
                took = []
                for _ in range(6):
                    start = time.perf_counter()
                    error = node.pull(b"\0" * 23 + b"\x01", [address], tls=_client(Path(scratch)) if is_tls else None)
                    took.append(time.perf_counter() - start)
                    assert error is None, error
                    node.store.free([b"\0" * 23 + b"\x01"])
            finally:
                node.close()
            return size / statistics.median(took[2:]) / 1e9
        finally:
            sender.communicate("end\n")


def sender(scratch: str) -> None:
    import ssl
    import threading

    from store_rig import Node

    node = Node(2 * 2**30)
    object_id = node.put(random_array(512 * MIB))
    context = None
    if scratch:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(Path(scratch) / "node.pem", Path(scratch) / "node.key")
    print(json.dumps([node.serve(context), node.store.size_of(object_id)]), flush=True)
    ended: list[str] = []
    threading.Thread(target=lambda: ended.append(sys.stdin.readline()), daemon=True).start()
    node.loop.until(lambda: ended, within_s=300)
    node.close()


def _certificate(directory: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        + ["-keyout", str(directory / "node.key"), "-out", str(directory / "node.pem"), "-days", "2"]
        + ["-subj", "/CN=node", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )


def _client(directory: Path) -> Any:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(directory / "node.pem")
    return context


def _plain(struct: Any) -> tuple[Any, ...]:
    return tuple(getattr(struct, name) for name in struct.__struct_fields__)


# ------------------------------------------------------------------------------------------------------------ Ray's
# side


def _ray_init(ray: Any) -> None:
    ray.init(
        num_cpus=2, object_store_memory=STORE_BYTES, include_dashboard=False, log_to_driver=False, logging_level=40
    )


def ray_puts() -> dict[str, float]:
    import ray

    parts = [random_array(128 * MIB)] * 8
    begun = time.perf_counter()
    _ray_init(ray)
    after_init = time.perf_counter()
    held = [ray.put(part) for part in parts]
    cold = time.perf_counter() - after_init
    del held
    small = random_array(200_000)
    for _ in range(300):
        ray.put(small)
    start = time.perf_counter()
    for _ in range(3000):
        ray.put(small)
    small_rate = 3000 / (time.perf_counter() - start)

    @ray.remote
    class Other:
        def times(self, refs: list[Any]) -> list[float]:
            import numpy as np

            np.zeros(1)
            took = []
            for _ in range(21):
                start = time.perf_counter()
                array = ray.get(refs[0])
                took.append((time.perf_counter() - start) * 1e6)
                del array
            return took

    ref = ray.put(random_array(10**9))
    times = ray.get(Other.remote().times.remote([ref]))
    ray.shutdown()
    return {
        "init_s": after_init - begun,
        "put_cold": 1.073741824 / cold,
        "put_200k": small_rate,
        "get_1gb_first": times[0],
        "get_1gb": statistics.median(times[1:]),
    }


def warm_puts(with_ray: str) -> dict[str, float]:
    """Puts of one large array, by turns; ours alone without Ray."""
    big = random_array(800 * MIB)
    driver = Driver()
    if with_ray:
        import ray

        _ray_init(ray)
    ours, theirs = [], []
    for _ in range(16):
        start = time.perf_counter()
        object_id = driver.put(big)
        ours.append(big.nbytes / (time.perf_counter() - start) / 1e9)
        driver.free(object_id)
        time.sleep(0.1)
        if with_ray:
            start = time.perf_counter()
            ref = ray.put(big)
            theirs.append(big.nbytes / (time.perf_counter() - start) / 1e9)
            del ref
            time.sleep(0.1)  # Ray frees in the background; without a pause its next put finds no warm memory
    driver.close()
    found = {"put_warm": statistics.median(ours[4:]), "put_warm_best": max(ours)}
    if with_ray:
        ray.shutdown()
        found |= {"ray_put_warm": statistics.median(theirs[4:]), "ray_put_warm_best": max(theirs)}
    return found


# --------------------------------------------------------------------------------------------------------------- rounds

CHILDREN: dict[str, Callable[..., Any]] = {
    "shoal_puts": shoal_puts,
    "shoal_get": shoal_get,
    "shoal_transfer": shoal_transfer,
    "ray_puts": ray_puts,
    "warm_puts": warm_puts,
    "reader": reader,
    "sender": sender,
}


def in_child(name: str, *arguments: str) -> dict[str, float]:
    time.sleep(SETTLE_S)
    load = os.getloadavg()[0]
    done = subprocess.run(
        [sys.executable, __file__, "--child", name, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
    )
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"  {name:15s} load {load:.1f}  " + "  ".join(f"{k} {v:.2f}" for k, v in result.items()), flush=True)
    return {**result, "load": load}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--no-ray", action="store_true")
    options.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "object_store.json")
    chosen = options.parse_args()
    rounds = []
    for number in range(chosen.rounds):
        print(f"round {number + 1}")
        one: dict[str, Any] = {}
        # Each goes first in turn: memory that the other has just freed is quicker than memory long unused.
        if not chosen.no_ray and number % 2:
            one["ray"] = in_child("ray_puts")
        one["shoal"] = {**in_child("shoal_puts"), **in_child("shoal_get"), **in_child("shoal_transfer")}
        if not chosen.no_ray and not number % 2:
            one["ray"] = in_child("ray_puts")
        warm = in_child("warm_puts", "" if chosen.no_ray else "with ray")
        one["shoal"] |= {row: value for row, value in warm.items() if row.startswith("put_")}
        if not chosen.no_ray:
            one["ray"] |= {row[4:]: value for row, value in warm.items() if row.startswith("ray_")}
        rounds.append(one)
    rows: dict[str, Any] = {}
    for row in sorted({row for one in rounds for row in one["shoal"]} - {"load"}):
        ours = [one["shoal"][row] for one in rounds]
        rows[row] = {"shoal": statistics.median(ours), "shoal_range": [min(ours), max(ours)]}
        theirs = [one["ray"][row] for one in rounds if row in one.get("ray", {})]
        if theirs:
            rows[row] |= {
                "ray": statistics.median(theirs),
                "ray_range": [min(theirs), max(theirs)],
                "ratio": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
            }
        print(f"{row:16s} " + "  ".join(f"{k} {v}" for k, v in _rounded(rows[row]).items()))
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()}
    chosen.out.write_text(json.dumps({"machine": machine, "rows": rows, "rounds": rounds}, indent=1) + "\n")


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: [round(one, 2) for one in value] if isinstance(value, list) else round(value, 2)
        for key, value in row.items()
    }


if __name__ == "__main__":
    if "--child" in sys.argv:
        at = sys.argv.index("--child")
        print(json.dumps(CHILDREN[sys.argv[at + 1]](*sys.argv[at + 2 :])))
    else:
        main()
