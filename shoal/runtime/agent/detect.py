"""What this machine has, as far as we may use it: CPUs and memory of our control group, GPUs that are visible."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from shoal.foundation.amounts import UNIT, Amounts, amounts
from shoal.runtime.agent.state import memory_now

STORE_SHARE = 0.3
"""The share of memory that the object store may take (Ray's)."""


def detected_resources(
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    memory: float | None = None,
    custom: Mapping[str, float] | None = None,
    store_bytes: int | None = None,
) -> Amounts:
    """Return the node's total amounts; what is given counts, the rest is looked up.

    Raises:
        ValueError: a given quantity is negative or too fine.
    """
    total_memory = memory_now()[1]
    if store_bytes is None:
        store_bytes = int(min(total_memory * STORE_SHARE, shared_memory_bytes() * 0.95))
    named: dict[str, float] = dict(custom or {})
    named["CPU"] = cpu_count() if num_cpus is None else num_cpus
    named["GPU"] = gpu_count() if num_gpus is None else num_gpus
    named["memory"] = int((total_memory - store_bytes) * 0.9) if memory is None else int(memory)
    named["object_store_memory"] = store_bytes
    return amounts(named)


def store_bytes_of(resources: Mapping[str, int]) -> int:
    """Return the object store's limit in bytes that the amounts name."""
    return resources.get("object_store_memory", 0) // UNIT


def cpu_count() -> int:
    """Return how many CPUs this process may use, by affinity and control group; at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return max(1, count)


def gpu_count() -> int:
    """Return how many NVIDIA GPUs are visible."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return len([one for one in listed.split(",") if one.strip() and one.strip() != "-1"])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def shared_memory_bytes() -> int:
    """Return how much shared memory is free."""
    try:
        room = os.statvfs("/dev/shm")
    except OSError:
        return 2**31
    return room.f_bavail * room.f_frsize
