"""The trials of demand_to_launch.py on Ray: its autoscaler, its fake multi-node provider, real raylets on this machine.

`Recording` is Ray's own provider (`type: external` loads it by name) that notes when Ray calls it. Everything else is
Ray's default, but for the idle time, so that trials can follow each other.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from demand_to_launch import FIRST, KINDS, WAIT_LIMIT_S, account

# Ray asks for a token if it is told to, as Shoal always does; it reads this when it is imported.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", os.urandom(32).hex())

import ray
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider

NOTES = "DEMAND_TO_LAUNCH_NOTES"
PORT = 26379
HEAD = "ray.head.default"
RAY_ROUND_S = 5.0
"""How often Ray's autoscaler looks, by default."""


class Recording(FakeMultiNodeProvider):
    """Ray's provider of fake nodes, with the time of each launch call written down."""

    def create_node_with_resources_and_labels(self, *arguments: Any, **named: Any) -> Any:
        """Note the time, then launch."""
        with Path(os.environ[NOTES]).open("a") as file:
            file.write(f"{time.time()}\n")
        return super().create_node_with_resources_and_labels(*arguments, **named)

    create_node_with_resources = create_node_with_resources_and_labels


def measured(trials: int) -> dict[str, Any]:
    """Return every figure of one run on Ray."""
    place = Path(tempfile.mkdtemp(prefix="rl"))
    notes = place / "launches"
    notes.touch()
    config = place / "cluster.json"
    address = f"{ray.util.get_node_ip_address()}:{PORT}"
    config.write_text(json.dumps(_config(address)))
    environment = {
        **os.environ,
        NOTES: str(notes),
        "RAY_FAKE_CLUSTER": "1",
        "RAY_ADDRESS": address,
        "PYTHONPATH": str(Path(__file__).parent),
        # The provider's name for the head's node must be the head's own.
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    load = os.getloadavg()
    log = (place / "ray.log").open("w")
    began_s = time.monotonic()
    head = subprocess.Popen(
        [
            *(
                str(Path(sys.executable).with_name("ray")),
                "start",
                "--head",
                "--block",
                "--node-ip-address=127.0.0.1",
                f"--port={PORT}",
            ),
            *("--num-cpus=1", f"--autoscaling-config={config}", "--include-dashboard=false", "--disable-usage-stats"),
        ],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        while "Ray runtime started" not in (place / "ray.log").read_text():
            if head.poll() is not None or time.monotonic() - began_s > WAIT_LIMIT_S:
                raise SystemExit(f"ray did not start: {(place / 'ray.log').read_text()[-500:]}")
            time.sleep(0.02)
        up_s = time.monotonic() - began_s
        first = subprocess.run(
            [sys.executable, "-c", FIRST.format(engine="ray")], capture_output=True, text=True, env=environment
        )
        if "42" not in first.stdout:
            raise SystemExit(f"ray gave no first result: {first.stderr[-500:]}")
        first_result_s = time.monotonic() - began_s
        os.environ |= environment
        ray.init(log_to_driver=False)
        try:
            found = _trials(trials, notes)
        finally:
            ray.shutdown()
        began_s = time.monotonic()
        head.terminate()
        head.wait(WAIT_LIMIT_S)
        down_s = time.monotonic() - began_s
    finally:
        head.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(30)
        _end(notes)
        head.wait()
        log.close()
        shutil.rmtree(place, ignore_errors=True)
    return account(
        found,
        up_s=round(up_s, 3),
        up_to_first_result_s=round(first_result_s, 3),
        down_s=round(down_s, 3),
        load_average_before=load,
        version=ray.__version__,
    )


def _trials(count: int, notes: Path) -> list[tuple[float, float]]:
    """Return, per trial, seconds from `.remote()` to the launch call, and to the task's first instruction."""

    @ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
    def began() -> float:
        return time.time()

    chance = random.Random(1)
    found = []
    for trial in range(count):
        kind = f"kind{trial % KINDS}"
        end_s = time.monotonic() + WAIT_LIMIT_S
        while kind in ray.cluster_resources():
            if time.monotonic() > end_s:
                raise SystemExit(f"waited {WAIT_LIMIT_S:g} s for the last node with {kind} to go")
            time.sleep(0.05)
        # The last trial ended with a round of Ray's autoscaler: ask at any moment between two rounds.
        time.sleep(chance.uniform(0.0, RAY_ROUND_S))
        asked_s = time.time()
        ran_s = ray.get(began.options(resources={kind: 1}).remote(), timeout=WAIT_LIMIT_S)
        called_s = min(float(line) for line in notes.read_text().split() if float(line) > asked_s)
        found.append((called_s - asked_s, ran_s - asked_s))
        if sys.stderr.isatty():
            print(f"\r{trial + 1}/{count}", end="", file=sys.stderr, flush=True)
    return found


def _config(address: str) -> dict[str, Any]:
    """Return a cluster file like the one of Ray's own tests of its fake provider."""
    return {
        "cluster_name": "latency",
        "max_workers": 4000,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.02,
        "provider": {
            "type": "external",
            "module": "demand_to_launch_ray.Recording",
            "gcs_address": address,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": HEAD,
        "available_node_types": {
            HEAD: {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            **{
                f"worker{kind}": {
                    "resources": {"CPU": 1, f"kind{kind}": 1},
                    "node_config": {},
                    "min_workers": 0,
                    "max_workers": 1,
                }
                for kind in range(KINDS)
            },
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "head_node": {},
        "worker_nodes": {},
    }


def _end(notes: Path) -> None:
    """End every process of this run, known by its environment; `ray stop` would end every Ray on this machine."""
    mark = f"{NOTES}={notes}".encode()
    while True:
        left = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdecimal() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    left.append(int(entry.name))
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
