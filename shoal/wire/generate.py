"""Regenerate the stubs of `control.proto`: `make proto`, or `python shoal/wire/generate.py`.

Run it with an interpreter that has grpcio-tools 1.66.2, the oldest that pyproject's bounds allow: its code runs with
every later protobuf up to the pinned ceiling, never the other way round. It belongs in a venv of its own, because that
version of grpcio-tools wants an older protobuf than the rest.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

TOOLS = "1.66.2"
HERE = Path(__file__).resolve().parent


def main() -> None:
    """Write `control_pb2.py`, `control_pb2.pyi` and `control_pb2_grpc.py` beside the proto."""
    try:
        found = importlib.metadata.version("grpcio-tools")
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    if found != TOOLS:
        sys.exit(
            f"generate: expected grpcio-tools {TOOLS}, got {found}\nhint: python -m venv V && V/bin/pip install "
            f"grpcio-tools=={TOOLS} setuptools && V/bin/python {Path(__file__).name}"
        )
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"-I{HERE}",
        f"--python_out={HERE}",
        f"--pyi_out={HERE}",
        f"--grpc_python_out={HERE}",
        str(HERE / "control.proto"),
    ]
    subprocess.run(command, check=True)
    stubs = HERE / "control_pb2_grpc.py"
    # protoc writes a top-level import, which only works if this folder is on the path.
    text = stubs.read_text()
    fixed = re.sub(r"^import control_pb2 as", "from shoal.wire import control_pb2 as", text, flags=re.MULTILINE)
    if fixed == text:
        sys.exit("generate: the stubs' import of control_pb2 was not found")
    stubs.write_text(fixed)


if __name__ == "__main__":
    main()
