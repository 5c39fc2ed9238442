"""Other processes of the store tests: `python store_child.py ROLE DIRECTORY`, one JSON a line through pipes."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from shoal.runtime.store.reader import Reader
from shoal.runtime.store.segments import Located, Segment
from shoal.runtime.store.values import dump
from shoal.runtime.store.writer import Writer


def say(*words: Any) -> None:
    print(json.dumps(words), flush=True)


def hear() -> Any:
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    return json.loads(line)


def write(directory: str) -> None:
    """Write into the segments that we are told, over and over, until killed."""
    writer = Writer(Path(directory), lambda size: Segment(*hear()))
    array = np.frombuffer(os.urandom(1 << 20) * 64, dtype=np.uint8)
    for round in range(10_000):
        say("writing", round)
        sealed = writer.put(dump(array))
        if round == 0:
            say("wrote", sealed.segment_id, sealed.size)
            segment = Segment(*hear())
        writer.reuse(sealed, segment)


def read(directory: str) -> None:
    """Load what we are told, time it, and hold it until told otherwise."""
    reader = Reader(Path(directory))
    held = None
    while True:
        order, *rest = hear()
        if order == "load":
            object_id, located = bytes.fromhex(rest[0]), Located(*rest[1])
            took = []
            for _ in range(5):
                held = None
                reader.drain()
                start = time.perf_counter()
                held = reader.load(object_id, located)
                took.append(time.perf_counter() - start)
            say("loaded", int(held.sum(dtype=np.uint64)), bool(held.flags.writeable), min(took))
        elif order == "sum":
            say("sum", int(held.sum(dtype=np.uint64)))
        elif order == "drop":
            held = None
            say("gone", [object_id.hex() for object_id in reader.drain()])


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](*sys.argv[2:])
