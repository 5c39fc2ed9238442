"""What a machine type's name says of the machine, for clouds whose price lists do not say it.

Compute Engine and Azure write the number of vCPUs into the name and keep one ratio of memory per family; the rules
below are that convention, as the vendors document it. A name that no rule covers has no specification here: then only
a YAML that writes `resources` can use it. Nothing is guessed.

Sources: https://cloud.google.com/compute/docs/machine-resource and
https://learn.microsoft.com/azure/virtual-machines/vm-naming-conventions
"""

from __future__ import annotations

import re

import msgspec


class MachineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A machine type's hardware. `gpu_model` in the spelling of `shoal.config.accelerators`."""

    arch: str
    vcpus: int
    memory_gib: float
    gpus: int = 0
    gpu_model: str = ""


def gcp_spec(name: str) -> MachineSpec | None:
    """Return what a Compute Engine machine type's name says, None where no rule covers it.

    >>> gcp_spec("n2-standard-8")
    MachineSpec(arch='amd64', vcpus=8, memory_gib=32.0, gpus=0, gpu_model='')
    """
    if name in _GCP_WHOLE:
        vcpus, memory_gib, gpus, model = _GCP_WHOLE[name]
        return MachineSpec(arch="amd64", vcpus=vcpus, memory_gib=memory_gib, gpus=gpus, gpu_model=model)
    if not (parts := re.fullmatch(r"([a-z]\d[a-z]?)-(standard|highmem|highcpu)-(\d+)(-[a-z]*lssd)?(-metal)?", name)):
        return None
    family, kind, vcpus = parts[1], parts[2], int(parts[3])
    if (ratio := _GCP_GIB_PER_VCPU.get(family, {}).get(kind)) is None:
        return None
    gpus = _G2_GPUS.get(vcpus, 0) if family == "g2" else vcpus // 48 if family == "g4" else 0
    model = {"g2": "L4", "g4": "RTX-PRO-6000"}.get(family, "")
    return MachineSpec(
        arch="arm64" if family in _GCP_ARM else "amd64",
        vcpus=vcpus,
        memory_gib=vcpus * ratio,
        gpus=gpus,
        gpu_model=model if gpus else "",
    )


def azure_spec(name: str) -> MachineSpec | None:
    """Return what an Azure VM size's name says, None where no rule covers it.

    A constrained size (`Standard_E16-4s_v5`) has the vCPUs after the dash and the memory of the size before it.

    >>> azure_spec("Standard_E16-4s_v5")
    MachineSpec(arch='amd64', vcpus=4, memory_gib=128.0, gpus=0, gpu_model='')
    """
    if name in _AZURE_GPU:
        vcpus, memory_gib, gpus, model = _AZURE_GPU[name]
        return MachineSpec(arch="amd64", vcpus=vcpus, memory_gib=memory_gib, gpus=gpus, gpu_model=model)
    if not (parts := re.fullmatch(r"Standard_([A-Z]+)(\d+)(?:-(\d+))?([a-z]*)(?:_v(\d+))?", name)):
        return None
    family, size, features, version = parts[1], int(parts[2]), parts[4], int(parts[5] or 1)
    if family in ("D", "DS") and version <= 2:
        if size not in _AZURE_OLD_D:
            return None
        vcpus, memory_gib = _AZURE_OLD_D[size]
    else:
        found = _azure_memory_gib(family, size, features, version)
        if found is None:
            return None
        vcpus, memory_gib = size, found
    return MachineSpec(
        arch="arm64" if "p" in features and family in ("B", "D", "E") else "amd64",
        vcpus=int(parts[3] or vcpus),
        memory_gib=memory_gib,
    )


def _azure_memory_gib(family: str, size: int, features: str, version: int) -> float | None:
    match family:
        case "A" if version == 2:
            return size * (8.0 if "m" in features else 2.0)
        case "B" if version == 1:
            return _AZURE_B.get(f"{size}{features}")
        case "B":
            return 1.0 if "t" in features else size * (2.0 if "l" in features else 4.0)
        case "D" if version >= 3:
            if "p" in features and version == 5 and size == 64 and "l" not in features:
                return 208.0
            return size * (2.0 if "l" in features else 4.0)
        case "DC":
            return size * (8.0 if version == 3 else 4.0)
        case "E" | "EC" if version >= 3:
            return _azure_e_memory_gib(size, features, version)
        case "F":
            return size * (2.0 if version <= 2 or "l" in features else 8.0 if "m" in features else 4.0)
        case "FX" if size < 96:
            return size * 21.0
        case "L" if version >= 2:
            return size * 8.0
    return None


def _azure_e_memory_gib(size: int, features: str, version: int) -> float | None:
    if "p" in features and version == 5 and size == 32:
        return 208.0
    if size < 64:
        return size * 8.0
    return {(3, 64): 432.0, (4, 64): 504.0, (5, 64): 512.0, (6, 64): 512.0, (4, 80): 504.0}.get(
        (version, size), 672.0 if size == 96 and version <= 5 else None
    )


_FOUR = {"standard": 4.0, "highmem": 8.0, "highcpu": 2.0}
_GCP_GIB_PER_VCPU: dict[str, dict[str, float]] = {
    "n1": {"standard": 3.75, "highmem": 6.5, "highcpu": 0.9},
    "n2": {"standard": 4.0, "highmem": 8.0, "highcpu": 1.0},
    "n2d": {"standard": 4.0, "highmem": 8.0, "highcpu": 1.0},
    "e2": {"standard": 4.0, "highmem": 8.0, "highcpu": 1.0},
    "n4": _FOUR,
    "n4a": _FOUR,
    "n4d": _FOUR,
    "c2": {"standard": 4.0},
    "c2d": _FOUR,
    "c3": _FOUR,
    "c3d": _FOUR,
    "c4": {"standard": 3.75, "highmem": 7.75, "highcpu": 2.0},
    "c4a": _FOUR,
    "c4d": {"standard": 3.875, "highmem": 7.875, "highcpu": 1.875},
    "t2a": {"standard": 4.0},
    "t2d": {"standard": 4.0},
    "h3": {"standard": 4.0},
    "z3": {"highmem": 8.0},
    "g2": {"standard": 4.0},
    "g4": {"standard": 3.75},
}
"""GiB for each vCPU. A family that is missing is one whose ratio we do not know."""

_GCP_ARM = frozenset({"t2a", "c4a", "n4a"})
_G2_GPUS = {4: 1, 8: 1, 12: 1, 16: 1, 24: 2, 32: 1, 48: 4, 96: 8}

_GCP_WHOLE: dict[str, tuple[int, float, int, str]] = {
    "f1-micro": (1, 0.6, 0, ""),
    "g1-small": (1, 1.7, 0, ""),
    "e2-micro": (2, 1.0, 0, ""),
    "e2-small": (2, 2.0, 0, ""),
    "e2-medium": (2, 4.0, 0, ""),
    "a2-highgpu-1g": (12, 85.0, 1, "A100"),
    "a2-highgpu-2g": (24, 170.0, 2, "A100"),
    "a2-highgpu-4g": (48, 340.0, 4, "A100"),
    "a2-highgpu-8g": (96, 680.0, 8, "A100"),
    "a2-megagpu-16g": (96, 1360.0, 16, "A100"),
    "a2-ultragpu-1g": (12, 170.0, 1, "A100-80G"),
    "a2-ultragpu-2g": (24, 340.0, 2, "A100-80G"),
    "a2-ultragpu-4g": (48, 680.0, 4, "A100-80G"),
    "a2-ultragpu-8g": (96, 1360.0, 8, "A100-80G"),
    "a3-highgpu-1g": (26, 234.0, 1, "H100"),
    "a3-highgpu-2g": (52, 468.0, 2, "H100"),
    "a3-highgpu-4g": (104, 936.0, 4, "H100"),
    "a3-highgpu-8g": (208, 1872.0, 8, "H100"),
    "a3-megagpu-8g": (208, 1872.0, 8, "H100"),
    "a3-edgegpu-8g": (208, 1872.0, 8, "H100"),
    "a3-ultragpu-8g": (224, 2952.0, 8, "H200"),
    "m1-megamem-96": (96, 1433.6, 0, ""),
    "m1-ultramem-40": (40, 961.0, 0, ""),
    "m1-ultramem-80": (80, 1922.0, 0, ""),
    "m1-ultramem-160": (160, 3844.0, 0, ""),
    "m2-megamem-416": (416, 5888.0, 0, ""),
    "m2-ultramem-208": (208, 5888.0, 0, ""),
    "m2-ultramem-416": (416, 11776.0, 0, ""),
    "m2-hypermem-416": (416, 8832.0, 0, ""),
    "m3-ultramem-32": (32, 976.0, 0, ""),
    "m3-ultramem-64": (64, 1952.0, 0, ""),
    "m3-ultramem-128": (128, 3904.0, 0, ""),
    "m3-megamem-64": (64, 976.0, 0, ""),
    "m3-megamem-128": (128, 1952.0, 0, ""),
}
"""Name: vCPUs, GiB, GPUs, model; families whose names do not follow the ratio."""

_AZURE_OLD_D = {
    1: (1, 3.5),
    2: (2, 7.0),
    3: (4, 14.0),
    4: (8, 28.0),
    5: (16, 56.0),
    11: (2, 14.0),
    12: (4, 28.0),
    13: (8, 56.0),
    14: (16, 112.0),
    15: (20, 140.0),
}
_AZURE_B = {
    "1ls": 0.5,
    "1s": 1.0,
    "1ms": 2.0,
    "2s": 4.0,
    "2ms": 8.0,
    "4ms": 16.0,
    "8ms": 32.0,
    "12ms": 48.0,
    "16ms": 64.0,
    "20ms": 80.0,
}
_AZURE_GPU: dict[str, tuple[int, float, int, str]] = {
    "Standard_NC4as_T4_v3": (4, 28.0, 1, "T4"),
    "Standard_NC8as_T4_v3": (8, 56.0, 1, "T4"),
    "Standard_NC16as_T4_v3": (16, 110.0, 1, "T4"),
    "Standard_NC64as_T4_v3": (64, 440.0, 4, "T4"),
    "Standard_NC6s_v3": (6, 112.0, 1, "V100"),
    "Standard_NC12s_v3": (12, 224.0, 2, "V100"),
    "Standard_NC24s_v3": (24, 448.0, 4, "V100"),
    "Standard_NC24rs_v3": (24, 448.0, 4, "V100"),
    "Standard_NC24ads_A100_v4": (24, 220.0, 1, "A100-80G"),
    "Standard_NC48ads_A100_v4": (48, 440.0, 2, "A100-80G"),
    "Standard_NC96ads_A100_v4": (96, 880.0, 4, "A100-80G"),
    "Standard_NC40ads_H100_v5": (40, 320.0, 1, "H100"),
    "Standard_NC80adis_H100_v5": (80, 640.0, 2, "H100"),
    "Standard_ND40rs_v2": (40, 672.0, 8, "V100"),
    "Standard_ND96asr_v4": (96, 900.0, 8, "A100"),
    "Standard_ND96amsr_A100_v4": (96, 1900.0, 8, "A100-80G"),
    "Standard_ND96isr_H100_v5": (96, 1900.0, 8, "H100"),
    "Standard_ND96isr_H200_v5": (96, 1850.0, 8, "H200"),
    "Standard_NV36ads_A10_v5": (36, 440.0, 1, "A10"),
    "Standard_NV72ads_A10_v5": (72, 880.0, 2, "A10"),
}
