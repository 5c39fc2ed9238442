"""Shoal's runtime beside Ray's, row by row, on the same machine in the same minutes.

    python benchmarks/runtime_vs_ray.py [--rows PART]... [--rounds 3] [--seconds 2] [--quick] [--out FILE] [--check]
    python benchmarks/runtime_vs_ray.py --show          the table of the run that is kept in benchmarks/results

Protocol. Each engine has a driver process of its own, both at their defaults with 2 CPUs: task records,
authentication and the forwarding of prints are on. For each row both are set up and warmed, then measured in turn, Ray
first, at least three rounds. A round's ratio is Shoal's rate over Ray's of the same round. A row passes if the median
of its ratios reaches the floor and the lowest reaches 0.7 of it; a row with a limit in seconds passes if its slowest
round stays under that. Steps check every result. The load average is kept with each round: on a busy machine
the rates mean little, the ratios still something.

`--quick` runs smaller steps and shorter rounds; its figures are for working, not for quoting.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from runtime_rows import ROWS, Row

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "runtime_vs_ray.json"
LOWEST_SHARE = 0.7
ANSWER_LIMIT_S = 180.0


class Engine:
    """One engine's driver, from outside."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by close()
        command_read, command_write = os.pipe()
        answer_read, answer_write = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "runtime_driver.py"), name, str(command_read), str(answer_write)],
            pass_fds=[command_read, answer_write],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=_environment(),
        )
        os.close(command_read)
        os.close(answer_write)
        self._commands = os.fdopen(command_write, "w", buffering=1)
        self._answers, self._rest = answer_read, b""
        self.about = self._answer()

    def ask(self, **command: Any) -> dict[str, Any]:
        """Return the driver's answer.

        Raises:
            RuntimeError: the row failed, or the driver died or fell silent; then it is of no use any more.
        """
        print(json.dumps(command), file=self._commands)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        end = time.monotonic() + ANSWER_LIMIT_S
        while b"\n" not in self._rest:
            if not select.select([self._answers], [], [], max(0.0, end - time.monotonic()))[0]:
                raise RuntimeError(f"{self.name}: no answer within {ANSWER_LIMIT_S:g} s\n{self.tail()}")
            data = os.read(self._answers, 65536)
            if not data:
                raise RuntimeError(f"{self.name}: its driver ended\n{self.tail()}")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return answer

    def tail(self) -> str:
        """Return the end of what the driver printed."""
        self.log.seek(0)
        return self.log.read()[-2000:]

    def close(self) -> None:
        """End the driver and its cluster."""
        self._commands.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._answers)
        self.log.close()


def _environment() -> dict[str, str]:
    """Both engines get the same environment; Ray is kept from asking and from calling home."""
    return {
        **{name: value for name, value in os.environ.items() if name not in ("SHOAL_ADDRESS", "RAY_ADDRESS")},
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


class Bench:
    """Both engines, started when first needed and again after a failure."""

    def __init__(self, engines: tuple[str, ...], *, rounds: int, seconds: float, is_quick: bool) -> None:
        self._names, self._rounds, self._seconds, self._is_quick = engines, rounds, seconds, is_quick
        self._engines: dict[str, Engine] = {}
        self.about: dict[str, Any] = {}

    def engine(self, name: str) -> Engine:
        """Return a driver that works."""
        found = self._engines.get(name)
        if found is None:
            found = self._engines[name] = Engine(name)
            self.about[name] = found.about
        return found

    def measure(self, name: str, row: Row) -> dict[str, Any]:
        """Return what was measured of one row; an engine that fails is named in `error`."""
        rounds: list[dict[str, float]] = []
        current = ""
        try:
            for current in self._names:
                self.engine(current).ask(do="set_up", row=name, is_quick=self._is_quick)
            for current in self._names:
                self.engine(current).ask(do="run", seconds=self._seconds)
            for _ in range(self._rounds):
                one = {"load": os.getloadavg()[0]}
                for current in self._names:
                    done = self.engine(current).ask(do="run", seconds=self._seconds)
                    if row.limit_s is None:
                        one[current] = done["operations"] / done["seconds"]
                    else:
                        one[current] = done["seconds"] / done["steps"]
                rounds.append(one)
            for current in self._names:
                self.engine(current).ask(do="tear_down")
        except RuntimeError as error:
            broken = self._engines.pop(current, None)
            if broken is not None:
                broken.close()
            for other in self._engines.values():
                other.ask(do="tear_down")
            return {"error": str(error), "rounds": rounds, "is_passed": False}
        return {"rounds": rounds, **judged(row, rounds)}

    def close(self) -> None:
        """End both."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()


def judged(row: Row, rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Return medians, ratios and the verdict of a row's rounds."""
    ours = [one["shoal"] for one in rounds if "shoal" in one]
    theirs = [one["ray"] for one in rounds if "ray" in one]
    found: dict[str, Any] = {"unit": row.unit}
    if ours:
        found["shoal"] = statistics.median(ours)
    if theirs:
        found["ray"] = statistics.median(theirs)
    if row.limit_s is not None:
        return {**found, "limit_s": row.limit_s, "is_passed": bool(ours) and max(ours) < row.limit_s}
    if not ours or not theirs:
        return found
    against = [max(theirs)] * len(ours) if row.is_against_best else theirs
    ratios = [mine / other for mine, other in zip(ours, against, strict=True)]
    found |= {"floor": row.floor, "ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
    found["is_passed"] = found["ratio"] >= row.floor and found["lowest"] >= LOWEST_SHARE * row.floor
    return found


# ------------------------------------------------------------------------------------------------ telling

HEADING = f"{'row':<46}{'Ray':>10}{'Shoal':>11}  {'ratio':>7} {'lowest':>7} {'highest':>8} {'floor':>6}  load"


def line_of(name: str, found: dict[str, Any]) -> str:
    """Return a row of the printed table."""
    if "error" in found:
        return f"{name:<46}error: {found['error'].strip().splitlines()[-1]}"
    load = max(one["load"] for one in found["rounds"])
    text = f"{name:<46}{_short(found.get('ray')):>10}{_short(found.get('shoal')):>11}  "
    if "ratio" in found:
        text += f"{found['ratio']:>7.1f} {found['lowest']:>7.1f} {found['highest']:>8.1f} {found['floor']:>6g}"
    elif "limit_s" in found:
        text += f"{'':>24} {'<' + format(found['limit_s'], 'g') + ' s':>6}"
    verdict = {True: "pass", False: "FAIL"}.get(found.get("is_passed"), "")  # type: ignore[call-overload]
    return f"{text}  {load:4.1f}  {verdict}"


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 1e6:
        return f"{value / 1e6:.2f}M"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """Return what the figures were taken on."""
    model = "unknown"
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [one.partition(":")[2].strip() for one in cpuinfo.read_text().splitlines() if "model name" in one]
        model = models[0] if models else model
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "processor": model,
        "processors": os.cpu_count(),
        "memory_gib": round(memory_bytes / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in ("ray", "msgspec", "cloudpickle", "uvloop", "numpy")},
        "commit": commit,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def show(result: dict[str, Any]) -> None:
    """Print the table of a run that was kept."""
    where = result["machine"]
    print(
        f"{where['at']}, commit {where['commit']}: {where['processor']}, {where['processors']} processors, "
        f"Python {where['python']}, Ray {where['packages']['ray']}"
    )
    print(HEADING)
    for name, found in result["rows"].items():
        print(line_of(name, found))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    options.add_argument("--rows", action="append", default=[], metavar="PART", help="only rows whose name holds PART")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=2.0, help="length of a round, and of the warm-up")
    options.add_argument("--quick", action="store_true", help="smaller steps, rounds of 0.5 s")
    options.add_argument("--engine", choices=["ray", "shoal"], help="only one of the two")
    options.add_argument(
        "--out", type=Path, help=f"write the result here; a full run: {RESULT.relative_to(HERE.parent)}"
    )
    options.add_argument("--check", action="store_true", help="exit with 1 if a row fails")
    options.add_argument(
        "--show", type=Path, nargs="?", const=RESULT, metavar="FILE", help="only print the table of a result file"
    )
    chosen = options.parse_args()
    if chosen.show is not None:
        show(json.loads(chosen.show.read_text()))
        return
    rows = {name: row for name, row in ROWS.items() if not chosen.rows or any(part in name for part in chosen.rows)}
    if not rows:
        options.error(f"--rows: no row's name holds {' or '.join(chosen.rows)}; rows: {', '.join(ROWS)}")
    seconds = min(chosen.seconds, 0.5) if chosen.quick else chosen.seconds
    engines = (chosen.engine,) if chosen.engine else ("ray", "shoal")
    bench = Bench(engines, rounds=chosen.rounds, seconds=seconds, is_quick=chosen.quick)
    found: dict[str, Any] = {}
    print(HEADING)
    try:
        for name, row in rows.items():
            found[name] = bench.measure(name, row)
            print(line_of(name, found[name]), flush=True)
    finally:
        bench.close()
    failed = [name for name, one in found.items() if one.get("is_passed") is False]
    judged_rows = [one for one in found.values() if "is_passed" in one]
    if judged_rows:
        print(f"{len(judged_rows) - len(failed)} of {len(judged_rows)} rows pass")
    for name in failed:
        if "error" in found[name]:
            print(f"\n{name}: {found[name]['error']}", file=sys.stderr)
    is_full = not (chosen.rows or chosen.quick or chosen.engine)
    out = chosen.out or (RESULT if is_full else None)
    if out is not None:
        protocol = {"rounds": chosen.rounds, "seconds": seconds, "is_quick": chosen.quick, "num_cpus": 2}
        result = {"machine": machine(), "protocol": protocol, "engines": bench.about, "rows": found}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
    raise SystemExit(1 if chosen.check and failed else 0)


if __name__ == "__main__":
    main()
