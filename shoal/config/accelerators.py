"""One spelling for each accelerator, whatever a price list or a user calls it.

The spellings are those of Ray's `accelerator_type`, so that a task written for Ray asks for the same label value.
"""

from __future__ import annotations

import re

_KNOWN = {
    "a100": "A100",
    "a10040gb": "A100",
    "a10040g": "A100-40G",
    "a10080gb": "A100-80G",
    "a10080g": "A100-80G",
    "a10": "A10",
    "a10g": "A10G",
    "b200": "B200",
    "b300": "B300",
    "gb200": "GB200",
    "gb300": "GB300",
    "h100": "H100",
    "h10080gb": "H100",
    "h200": "H200",
    "h200141gb": "H200",
    "k80": "K80",
    "l4": "L4",
    "l40s": "L40S",
    "m60": "M60",
    "p100": "P100",
    "p4": "P4",
    "t4": "T4",
    "t4g": "T4G",
    "v100": "V100",
    "rtxproserver6000": "RTX-PRO-6000",
    "rtxpro6000": "RTX-PRO-6000",
}


def accelerator_name(text: str) -> str:
    """Return the usual spelling of an accelerator's name; an unknown one comes back as it is, trimmed.

    >>> accelerator_name("nvidia-tesla-t4"), accelerator_name("a100 80gb"), accelerator_name("Gaudi")
    ('T4', 'A100-80G', 'Gaudi')
    """
    plain = re.sub(r"[^a-z0-9]", "", text.lower())
    for prefix in ("nvidia", "tesla"):
        plain = plain.removeprefix(prefix)
    return _KNOWN.get(plain, text.strip())
