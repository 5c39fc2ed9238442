"""`python -m shoal.guard DIR [FD]`: run the machine described in DIR; FD is a lock to let go of once it is found."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from shoal.foundation.clock import SystemClock
from shoal.foundation.errors import UserError
from shoal.foundation.eventlog import FileLog
from shoal.guard import machine
from shoal.guard.guard import Guard


def main() -> int:
    """Run one machine; return the exit code."""
    if len(sys.argv) not in (2, 3) or not all(word.isdecimal() for word in sys.argv[2:]):
        print("usage: python -m shoal.guard DIR [FD]", file=sys.stderr)  # noqa: T201
        return 2
    directory = Path(sys.argv[1]).resolve()
    held = int(sys.argv[2]) if len(sys.argv) == 3 else None
    os.chdir("/")  # whoever started us may want to unmount where it stood
    try:
        spec = machine.load(directory)
        log = Path(spec.log_dir) / "guard.jsonl"
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        clock = SystemClock()
        return asyncio.run(Guard(clock, directory, spec, FileLog(log, clock), held=held).run())
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
