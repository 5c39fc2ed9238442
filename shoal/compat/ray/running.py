"""Run a Ray program as `python SCRIPT` would, with `ray` served by Shoal."""

from __future__ import annotations

import builtins
import sys
import types
from pathlib import Path

USAGE = "usage: python -m shoal.compat.ray SCRIPT [ARGUMENT ...]"


def main() -> None:
    """Run the script that the command line names, with its arguments.

    Exits with 2 if there is none; else as the script does.
    """
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.stderr.write(f"{USAGE}\n")
        raise SystemExit(0 if len(sys.argv) > 1 else 2)
    script = Path(sys.argv[1])
    if not script.is_file():
        sys.stderr.write(f"{script}: expected a Python script, found no such file\n{USAGE}\n")
        raise SystemExit(2)
    sys.argv = sys.argv[1:]
    run(script)


def run(script: Path) -> None:
    """Run the script as `__main__`, in a module of its own."""
    sys.path.insert(0, str(script.resolve().parent))
    module = types.ModuleType("__main__")
    module.__file__ = str(script)
    module.__dict__["__builtins__"] = builtins  # the module, as in a script; elsewhere it is its dict
    sys.modules["__main__"] = module
    exec(compile(script.read_bytes(), str(script), "exec"), module.__dict__)
