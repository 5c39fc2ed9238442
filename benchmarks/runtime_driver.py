"""One engine's driver: a process that stays up, and runs rows as it is told over a pipe.

    python runtime_driver.py ENGINE COMMANDS_FD ANSWERS_FD        (started by runtime_vs_ray.py)

One JSON object a line each way. `set_up` builds a row, `run` repeats its step for some seconds and tells how often,
`tear_down` drops it with its actors.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
import traceback
from typing import Any

from runtime_rows import QUICK, ROWS, Sizes

CHUNK_S = 0.02
"""The clock is read about this often: reading it after each `get` of 100 ns would be most of what is measured."""


class Driver:
    """A warm engine and the row that is set up."""

    def __init__(self, engine: str) -> None:
        self.ray = importlib.import_module(engine)
        started = time.perf_counter()
        if engine == "ray":
            self.ray.init(address="local", num_cpus=2, resources={"custom": 100}, include_dashboard=False)
        else:
            self.ray.init("local", num_cpus=2, resources={"custom": 100})
        self.init_s = time.perf_counter() - started
        self.step: Any = None
        self.operations = 1.0
        self.chunk = 1

    def set_up(self, row: str, is_quick: bool) -> dict[str, Any]:
        self.step, self.operations = ROWS[row].build(self.ray, QUICK if is_quick else Sizes())
        self.chunk = 1
        return {}

    def run(self, seconds: float) -> dict[str, Any]:
        """Repeat the step for at least `seconds`; a step under way is finished and counted."""
        step, chunk, steps = self.step, self.chunk, 0
        started = time.perf_counter()
        while True:
            for _ in range(chunk):
                step()
            steps += chunk
            took_s = time.perf_counter() - started
            if took_s >= seconds:
                break
        self.chunk = max(1, int(steps / took_s * CHUNK_S))
        return {"operations": steps * self.operations, "seconds": took_s, "steps": steps}

    def tear_down(self) -> dict[str, Any]:
        self.step = None
        gc.collect()
        return {}


def main() -> None:
    engine, commands_fd, answers_fd = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with os.fdopen(commands_fd) as commands, os.fdopen(answers_fd, "w", buffering=1) as answers:
        driver = Driver(engine)
        print(json.dumps({"init_s": driver.init_s, "version": driver.ray.__version__}), file=answers)
        for line in commands:
            command = json.loads(line)
            try:
                answer = getattr(driver, command.pop("do"))(**command)
            except Exception:
                answer = {"error": traceback.format_exc()}
            print(json.dumps(answer), file=answers)
        driver.tear_down()
        driver.ray.shutdown()


if __name__ == "__main__":
    main()
