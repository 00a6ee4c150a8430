"""What a measurement ran on."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import psutil
import torch


def machine(device: torch.device) -> dict[str, str | int]:
    """The processor, how much of it there is, and the device that the models are on."""
    return {
        "cpu": _processor(),
        "cores": psutil.cpu_count(logical=False) or 1,
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def versions(packages: Sequence[str] = ("torch", "transformers", "personalign")) -> dict[str, str]:
    """Python's version and those of packages."""
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _processor() -> str:
    """The name that Linux gives it; elsewhere what Python knows."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
