"""What this machine has: CPUs as cgroups allow, memory, GPUs. Found once, when a node starts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import psutil

MEMORY_SHARE = 0.7
"""How much of the machine's memory tasks may ask for; the rest is the system's and the object store's."""
STORE_SHARE = 0.3
STORE_BYTES_MAX = 200 * 10**9


def resources() -> dict[str, float]:
    """Return CPU, memory and object_store_memory (bytes), and GPU where there is one."""
    memory = memory_bytes()
    found: dict[str, float] = {
        "CPU": cpus(),
        "memory": int(memory * MEMORY_SHARE),
        "object_store_memory": store_bytes(memory),
    }
    if count := len(gpus()):
        found["GPU"] = count
    return found


def cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many CPUs this process may use: affinity and the cgroup's quota, at least 1."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = _quota_v2(cgroup) or _quota_v1(cgroup)
    return max(1, min(there, int(quota) if quota else there))


def memory_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how much memory this process may use: the machine's, or the cgroup's limit if that is smaller."""
    limits = [psutil.virtual_memory().total]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limits.append(int((cgroup / name).read_text()))
    return min(limits)


def store_bytes(memory: int) -> int:
    """Return the object store's default size: 30 % of memory, at most what shared memory has room for."""
    size = min(int(memory * STORE_SHARE), STORE_BYTES_MAX)
    with contextlib.suppress(OSError):
        room = os.statvfs(os.environ.get("SHOAL_SHM_DIR", "/dev/shm"))
        size = min(size, int(room.f_bavail * room.f_frsize * 0.9))
    return size


def gpus() -> Sequence[str]:
    """Return the names of the GPUs that this process may use, by NVML where the driver is; none is no error."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    try:
        import pynvml
    except ImportError:
        return sorted(path.name for path in Path("/proc/driver/nvidia/gpus").glob("*"))
    try:
        pynvml.nvmlInit()
        try:
            count = pynvml.nvmlDeviceGetCount()
            return [str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(place))) for place in range(count)]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return []


def _quota_v2(cgroup: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        quota, period = (cgroup / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    return None


def _quota_v1(cgroup: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        quota = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text())
        return quota / int((cgroup / "cpu" / "cpu.cfs_period_us").read_text()) if quota > 0 else None
    return None
