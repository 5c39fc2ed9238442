"""What else the runtime promises: starting, memory, deep queues, large values; and Dask's scheduler on the task rows.

    python benchmarks/runtime_extras.py [--only PART]... [--rounds 3] [--quick] [--no-peers] [--out FILE] [--check]

Every figure is taken in a process of its own, peers in turn with ours. A figure with a limit passes if its median over
the rounds keeps it; `vs Ray` figures if ours is at least Ray's best.

  first result        `import` to the value of the first task, s
  actors              100 actors, created and called once each, per second (Ray: 20)
  worker start        from the request to fork to the worker's first word to its agent, ms
  idle worker         proportional set size of a worker that has run one task, MB
  queued tasks        100,000 tasks behind a busy worker: cost of each beside that of 10,000, and bytes of each
  get of 1 GB         an array in another process, ms
  puts                random bytes: 1 GiB in 8 arrays right after init (cold), 800 MiB again and again (warm), GB/s
  dask                task rows on `distributed` (2 worker processes) and on Shoal, per second
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime_rows import MIB, expect, kilobyte, random_array
from runtime_vs_ray import machine

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "runtime_extras.json"
Figures = dict[str, float]


def engine_started(name: str, **options: Any) -> Any:
    """Return the engine's module, initialised with 2 CPUs at its defaults."""
    import importlib

    engine = importlib.import_module(name)
    if name == "ray":
        engine.init("local", num_cpus=2, include_dashboard=False, **options)
    else:
        engine.init("local", num_cpus=2, **options)
    return engine


# ------------------------------------------------------------------------------------------------ starting


def first_result(name: str) -> Figures:
    started = time.perf_counter()
    engine = engine_started(name)

    @engine.remote
    def double(x: int) -> int:
        return 2 * x

    expect(engine.get(double.remote(21)), 42)
    took_s = time.perf_counter() - started
    engine.shutdown()
    return {"first_result_s": took_s}


def actors(name: str, count: int) -> Figures:
    engine = engine_started(name)

    @engine.remote(num_cpus=0)
    class Number:
        def __init__(self, n: int) -> None:
            self.n = n

        def number(self) -> int:
            return self.n

    expect(engine.get(Number.remote(1).number.remote()), 1)
    started = time.perf_counter()
    made = [Number.remote(n) for n in range(count)]
    expect(engine.get([one.number.remote() for one in made]), list(range(count)))
    took_s = time.perf_counter() - started
    engine.shutdown()
    return {"actors_per_s": count / took_s}


def worker_start(count: int) -> Figures:
    """Be an agent for a zygote: ask for forks, answer the workers' hellos, take the time to their first message."""
    import socket

    from shoal.transport import blocking
    from shoal.wire.hello import Credential, Role

    took_ms = []
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as scratch:
        credential = Credential("ab" * 16, b"s" * 32, Role.NODE)
        secret = credential.lowered(Role.DRIVER).secret(Role.DRIVER)
        assert secret is not None
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{scratch}/agent.sock")
        listener.listen(8)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        zygote = subprocess.Popen(
            [sys.executable, "-c", "from shoal.runtime.worker.zygote import main; main()", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        json.loads(ours.recv(1 << 16))  # ready
        for number in range(1, count + 1):
            request = {
                "uid": "ab" * 16,
                "secret": secret.hex(),
                "agent": f"unix:{scratch}/agent.sock",
                "session": scratch,
                "log_dir": scratch,
                "log_bytes_max": 1 << 20,
                "log_files_max": 1,
                "serial": number,
                "process": number.to_bytes(18, "big").hex(),
            }
            started = time.perf_counter()
            ours.send(json.dumps(request).encode())
            peer, _ = blocking.answer(listener.accept()[0], None, credential)
            peer.settimeout(10)
            if not peer.recv(65536):
                raise AssertionError("the worker ended before its first word")
            took_ms.append((time.perf_counter() - started) * 1e3)
            json.loads(ours.recv(1 << 16))  # forked
            peer.close()  # the worker ends with its agent
            json.loads(ours.recv(1 << 16))  # ended
        ours.close()
        zygote.wait()
        listener.close()
    return {"worker_start_ms": statistics.median(took_ms), "worker_start_slowest_ms": max(took_ms)}


def idle_worker(name: str, count: int) -> Figures:
    engine = engine_started(name)

    @engine.remote(num_cpus=0)
    class Idle:
        def pid(self) -> int:
            return os.getpid()

    made = [Idle.remote() for _ in range(count)]
    pids = engine.get([one.pid.remote() for one in made])
    expect(len(set(pids)), count)
    time.sleep(1.0)  # what they do once after their start is done
    total_kb = 0
    for pid in pids:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total_kb += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    engine.shutdown()
    return {"idle_worker_mb": total_kb / 1000 / count}


# ------------------------------------------------------------------------------------------------ deep queues


def queued(count: int) -> Figures:
    """Queue `count` tasks behind two busy workers, then let them run."""
    engine = engine_started("shoal")
    with tempfile.TemporaryDirectory() as scratch:
        gate = Path(scratch) / "gate"

        @engine.remote
        def blocker(path: str) -> None:
            while not os.path.exists(path):
                time.sleep(0.01)

        @engine.remote
        def small(n: int) -> int:
            return n

        engine.get([small.remote(n) for n in range(2000)])
        blockers = [blocker.remote(str(gate)) for _ in range(2)]
        time.sleep(0.5)
        before_kb = _rss_kb()
        started = time.perf_counter()
        refs = [small.remote(n) for n in range(count)]
        submitted_s = time.perf_counter() - started
        grown_kb = _rss_kb() - before_kb
        gate.touch()
        engine.get(blockers)
        started = time.perf_counter()
        found = engine.get(refs)
        took_s = time.perf_counter() - started
        expect((len(found), found[0], found[-1]), (count, 0, count - 1))
    engine.shutdown()
    return {
        "submit_us": submitted_s / count * 1e6,
        "run_us": took_s / count * 1e6,
        "task_us": (submitted_s + took_s) / count * 1e6,
        "task_bytes": grown_kb * 1024 / count,
    }


def _rss_kb() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


# ------------------------------------------------------------------------------------------------ large values


def get_large(name: str, size: int) -> Figures:
    engine = engine_started(name)
    array = random_array(size)
    wanted = int(array[::4096].sum(dtype="uint64"))

    @engine.remote
    class Other:
        def ready(self) -> None:
            import numpy as np

            np.zeros(1)

        def times_ms(self, refs: list[Any]) -> tuple[list[float], int]:
            took = []
            for _ in range(11):
                started = time.perf_counter()
                array = engine.get(refs[0])
                took.append((time.perf_counter() - started) * 1e3)
                checksum = int(array[::4096].sum(dtype="uint64"))
                del array
                time.sleep(0.05)
            return took, checksum

    other = Other.remote()
    ref = engine.put(array)
    engine.get(other.ready.remote())
    time.sleep(0.5)  # the workers that replace those taken are started meanwhile
    took, checksum = engine.get(other.times_ms.remote([ref]))
    expect(checksum, wanted)
    engine.shutdown()
    return {"get_first_ms": took[0], "get_ms": statistics.median(took[1:])}


def puts(name: str, quick: int) -> Figures:
    parts = [random_array(128 * MIB // quick) for _ in range(2)] * 4
    big = random_array(800 * MIB // quick)
    begun = time.perf_counter()
    engine = engine_started(name)
    ready = time.perf_counter()
    held = [engine.put(part) for part in parts]
    cold_s = time.perf_counter() - ready
    expect(int(engine.get(held[7])[-1]), int(parts[7][-1]))
    del held
    time.sleep(0.5)
    took = []
    for _ in range(10):
        started = time.perf_counter()
        ref = engine.put(big)
        took.append(time.perf_counter() - started)
        del ref
        time.sleep(0.05)  # Ray frees in the background: without a pause its next put finds no warm memory
    engine.shutdown()
    return {
        "put_cold_gb_s": sum(part.nbytes for part in parts) / cold_s / 1e9,
        "put_warm_gb_s": big.nbytes / statistics.median(took[3:]) / 1e9,
        "init_s": ready - begun,
    }


# ------------------------------------------------------------------------------------------------ Dask beside us


def dask_rows(seconds: float) -> Figures:
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        value = kilobyte()

        def small(n: int) -> bytes:
            return b"ok"

        def echo(n: int, one: Any) -> Any:
            return one

        numbers = iter(range(1 << 60))  # equal arguments would be one task to Dask
        return {
            "dask_sync": _rate(lambda: expect(client.submit(small, next(numbers)).result(), b"ok"), 1, seconds),
            "dask_batch": _rate(
                lambda: expect(
                    client.gather([client.submit(small, next(numbers)) for _ in range(1000)]), [b"ok"] * 1000
                ),
                1000,
                seconds,
            ),
            "dask_dict": _rate(
                lambda: expect(
                    client.gather([client.submit(echo, next(numbers), value) for _ in range(200)]), [value] * 200
                ),
                200,
                seconds,
            ),
        }


def shoal_rows(seconds: float) -> Figures:
    engine = engine_started("shoal")
    value = kilobyte()

    @engine.remote
    def small(n: int) -> bytes:
        return b"ok"

    @engine.remote
    def echo(n: int, one: Any) -> Any:
        return one

    numbers = iter(range(1 << 60))
    found = {
        "shoal_sync": _rate(lambda: expect(engine.get(small.remote(next(numbers))), b"ok"), 1, seconds),
        "shoal_batch": _rate(
            lambda: expect(engine.get([small.remote(next(numbers)) for _ in range(1000)]), [b"ok"] * 1000),
            1000,
            seconds,
        ),
        "shoal_dict": _rate(
            lambda: expect(engine.get([echo.remote(next(numbers), value) for _ in range(200)]), [value] * 200),
            200,
            seconds,
        ),
    }
    engine.shutdown()
    return found


def _rate(step: Callable[[], None], operations: int, seconds: float) -> float:
    for _ in range(3):
        step()
    started, steps = time.perf_counter(), 0
    while (took_s := time.perf_counter() - started) < seconds:
        step()
        steps += 1
    return steps * operations / took_s


# ------------------------------------------------------------------------------------------------ rounds

CHILDREN: dict[str, Callable[..., Figures]] = {
    one.__name__: one
    for one in (first_result, actors, worker_start, idle_worker, queued, get_large, puts, dask_rows, shoal_rows)
}


def in_child(name: str, *arguments: Any) -> Figures:
    """Return the figures that one measurement takes in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps([name, *arguments])],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={
            **{key: value for key, value in os.environ.items() if key not in ("SHOAL_ADDRESS", "RAY_ADDRESS")},
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        },
    )
    if done.returncode:
        raise RuntimeError(f"{name}{arguments}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


class Report:
    """Collects the rounds of each figure, and judges."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}

    def tell(
        self,
        label: str,
        ours: list[float],
        *,
        theirs: list[float] | None = None,
        peer: str = "Ray",
        most: float | None = None,
        least: float | None = None,
        is_best_beaten: bool = False,
    ) -> None:
        """Print one line and keep its numbers."""
        median = statistics.median(ours)
        row: dict[str, Any] = {"shoal": median, "rounds": ours, "load": os.getloadavg()[0]}
        verdicts = []
        limit = ""
        if most is not None:
            row["most"], limit = most, f"<= {most:g}"
            verdicts.append(median <= most)
        if least is not None:
            row["least"], limit = least, f">= {least:g}"
            verdicts.append(median >= least)
        text = f"{label:<44}{_shown(median):>9}  [{_shown(min(ours))} - {_shown(max(ours))}]"
        if theirs:
            row[peer.lower()], row[f"{peer.lower()}_rounds"] = statistics.median(theirs), theirs
            text += f"   {peer} {_shown(row[peer.lower()])}, best {_shown(max(theirs))}"
            if is_best_beaten:
                limit = f">= {peer}'s best"
                verdicts.append(median >= max(theirs))
        if verdicts:
            row["is_passed"] = all(verdicts)
            text += f"   {limit}  {'pass' if row['is_passed'] else 'FAIL'}"
        self.figures[label] = row
        print(text, flush=True)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def taken(rounds: int, ours: tuple[Any, ...], theirs: tuple[Any, ...] | None) -> tuple[list[Figures], list[Figures]]:
    """Return the rounds of ours and of a peer's, in turn."""
    found: tuple[list[Figures], list[Figures]] = ([], [])
    for _ in range(rounds):
        if theirs is not None:
            found[1].append(in_child(*theirs))
        found[0].append(in_child(*ours))
    return found


def column(rounds: list[Figures], name: str) -> list[float]:
    return [one[name] for one in rounds]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    options.add_argument("--only", action="append", default=[], metavar="PART", help="only parts whose name holds PART")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--quick", action="store_true", help="one round of smaller sizes")
    options.add_argument("--no-peers", action="store_true", help="without Ray and Dask")
    options.add_argument(
        "--out", type=Path, help=f"write the result here; a full run: {RESULT.relative_to(HERE.parent)}"
    )
    options.add_argument("--check", action="store_true", help="exit with 1 if a figure misses its limit")
    chosen = options.parse_args()
    rounds, is_quick, report = 1 if chosen.quick else chosen.rounds, chosen.quick, Report()
    parts: dict[str, Callable[[], None]] = {}

    def part(name: str) -> Callable[[Callable[[], None]], None]:
        return lambda call: parts.__setitem__(name, call)

    def peers(*call: Any) -> tuple[Any, ...] | None:
        return None if chosen.no_peers else call

    @part("first result")
    def _() -> None:
        ours, theirs = taken(rounds, ("first_result", "shoal"), peers("first_result", "ray"))
        report.tell(
            "first result after import, s",
            column(ours, "first_result_s"),
            theirs=column(theirs, "first_result_s"),
            most=0.5,
        )

    @part("actors")
    def _() -> None:
        count = 20 if is_quick else 100
        ours, theirs = taken(rounds, ("actors", "shoal", count), peers("actors", "ray", 5 if is_quick else 20))
        report.tell(
            f"{count} actors, created and called, /s",
            column(ours, "actors_per_s"),
            theirs=column(theirs, "actors_per_s"),
            least=100,
        )

    @part("worker start")
    def _() -> None:
        ours, _ = taken(rounds, ("worker_start", 10 if is_quick else 40), None)
        report.tell("worker start, ms", column(ours, "worker_start_ms"), most=10)

    @part("idle worker")
    def _() -> None:
        ours, theirs = taken(rounds, ("idle_worker", "shoal", 10), peers("idle_worker", "ray", 2))
        report.tell(
            "memory of an idle worker (PSS), MB",
            column(ours, "idle_worker_mb"),
            theirs=column(theirs, "idle_worker_mb"),
            most=15,
        )

    @part("queued tasks")
    def _() -> None:
        few, many = [], []
        for _ in range(rounds):
            few.append(in_child("queued", 10_000))
            many.append(in_child("queued", 100_000))
        costs = [b["task_us"] / a["task_us"] for a, b in zip(few, many, strict=True)]
        report.tell("10,000 queued tasks, us each", column(few, "task_us"))
        report.tell("100,000 queued tasks, us each", column(many, "task_us"))
        report.tell("cost of one of 100,000 over one of 10,000", costs, most=1.2)
        report.tell("memory of a queued task, bytes", column(many, "task_bytes"), most=2048)

    @part("get of 1 GB")
    def _() -> None:
        size = 10**8 if is_quick else 10**9
        ours, theirs = taken(rounds, ("get_large", "shoal", size), peers("get_large", "ray", size))
        report.tell("first get of 1 GB in another process, ms", column(ours, "get_first_ms"), most=1)
        report.tell(
            "get of 1 GB in another process, ms", column(ours, "get_ms"), theirs=column(theirs, "get_ms"), most=1
        )

    @part("puts")
    def _() -> None:
        quick = 8 if is_quick else 1
        ours, theirs = taken(rounds, ("puts", "shoal", quick), peers("puts", "ray", quick))
        for label, name in (
            ("put of 1 GiB right after init, GB/s", "put_cold_gb_s"),
            ("put of 800 MiB, warm, GB/s", "put_warm_gb_s"),
        ):
            report.tell(label, column(ours, name), theirs=column(theirs, name), is_best_beaten=bool(theirs))

    @part("dask")
    def _() -> None:
        if chosen.no_peers:
            return
        seconds = 0.5 if is_quick else 2.0
        ours, theirs = taken(rounds, ("shoal_rows", seconds), ("dask_rows", seconds))
        for label, name in (
            ("tasks sync beside Dask, /s", "sync"),
            ("1,000 tasks and gather beside Dask, /s", "batch"),
            ("1 KB dict, tasks beside Dask, /s", "dict"),
        ):
            report.tell(label, column(ours, f"shoal_{name}"), theirs=column(theirs, f"dask_{name}"), peer="Dask")

    failed = []
    for name, run in parts.items():
        if chosen.only and not any(one in name for one in chosen.only):
            continue
        try:
            run()
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            failed.append(name)
            report.figures[name] = {"error": str(error), "is_passed": False}
            print(f"{name}: error: {error}", file=sys.stderr)
    failed += [label for label, row in report.figures.items() if row.get("is_passed") is False and label not in failed]
    out = chosen.out or (None if chosen.only or is_quick or chosen.no_peers else RESULT)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"machine": machine(), "rounds": rounds, "figures": report.figures}, indent=1) + "\n")
    raise SystemExit(1 if chosen.check and failed else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child, *arguments = json.loads(sys.argv[2])
        print(json.dumps(CHILDREN[child](*arguments)))
    else:
        main()
