"""What a measurement ran on: hardware, versions, date and command. Without them a figure means nothing."""

import datetime
import platform
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from anchordetr_jax.devices import processors

PACKAGES = ("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "flax", "numpy", "scipy", "torch")


def surroundings() -> dict[str, Any]:
    """Date, device, versions and command of this process. It starts JAX."""
    import jax  # Not above: the process that only starts others does not need JAX.

    device = jax.devices()[0]
    return {
        "date": datetime.date.today().isoformat(),
        "device": f"{len(jax.devices())} x {device.device_kind}" if device.platform != "cpu" else processor(),
        "python": platform.python_version(),
        "versions": versions(),
        "command": shlex.join(["python", *sys.argv]),
    }


def versions() -> dict[str, str]:
    """The installed versions of the packages that matter."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The CPU's model and the number of cores that this process may use."""
    model = ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        model = platform.processor()
    return f"cpu ({model or platform.machine()}, {processors()} cores)"


def graphics_cards() -> list[str]:
    """Name, memory, driver and power limit of each NVIDIA GPU of this machine; [] without `nvidia-smi`."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version,power.limit", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    if answer.returncode:
        return []
    labels = ("", " of memory", " (driver)", " (power limit)")
    return [
        ", ".join(part.strip() + label for part, label in zip(line.split(","), labels, strict=False))
        for line in answer.stdout.splitlines()
        if line.strip()
    ]
