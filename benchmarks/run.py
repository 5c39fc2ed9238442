"""`make bench`: run the benchmarks one after the other, each beside its peers, and keep their results.

    python benchmarks/run.py [NAME]... [--quick] [--list]        make bench ARGS="runtime_vs_ray --quick"

Each is a script of its own with more options (`python benchmarks/NAME.py --help`); a full run writes
`benchmarks/results/NAME.json`. Runs one at a time: they would measure each other.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
QUICK: dict[str, list[str]] = {
    "reaction_and_price": ["--repeats", "1", "--offline", "1", "--out", "/dev/null"],
    "simulated_day": ["--nodes", "100", "--hours", "6", "--out", "/dev/null"],
    "demand_to_launch": ["--trials", "8"],
    "runtime_vs_ray": ["--quick"],
    "runtime_extras": ["--quick"],
    "object_transfer": ["--quick"],
    "head_heartbeats": ["--nodes", "200", "--seconds", "3", "--out", "/dev/null"],
    "object_store": ["--rounds", "1", "--out", "/dev/null"],
}
"""What makes a script quick; one that is not named here is left out of quick runs."""


def scripts() -> dict[str, str]:
    """Return every benchmark beside this file, with the first line of its docstring: what can be run by itself."""
    found = {}
    for path in sorted(HERE.glob("*.py")):
        text = path.read_text()
        if path != Path(__file__).resolve() and "argparse" in text and '__name__ == "__main__"' in text:
            found[path.stem] = text.partition("\n")[0].strip('"')
    return found


def main() -> None:
    known = scripts()
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    options.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(known)}; all by default")
    options.add_argument("--quick", action="store_true", help="for a look: small sizes, no result files")
    options.add_argument("--list", action="store_true", help="say what there is")
    chosen = options.parse_args()
    if chosen.list:
        for name, title in known.items():
            print(f"{name:<20} {title}")
        return
    unknown = [name for name in chosen.names if name not in known]
    if unknown:
        options.error(f"no benchmark `{unknown[0]}`; there are: {', '.join(known)}")
    names = chosen.names or [name for name in known if not chosen.quick or name in QUICK]
    failed = []
    for name in names:
        print(f"== {name}: {known[name]}", flush=True)
        started = time.monotonic()
        arguments = QUICK.get(name, []) if chosen.quick else []
        if subprocess.run([sys.executable, str(HERE / f"{name}.py"), *arguments], check=False).returncode:
            failed.append(name)
        print(f"== {name}: {time.monotonic() - started:.0f} s\n", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
