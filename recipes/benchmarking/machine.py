"""Where and with what it was measured."""

import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import time
from pathlib import Path

import torch

from ... import __version__
from ..data.parallel import available_cores
from ..evaluation.report import command_line
from ..options.bench import BenchOptions
from .turns import device
from .work import Design

FLAGS = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "bf16", "sve")
PACKAGES = {  # what each peer is made of, by the name that it is installed under
    **dict.fromkeys(("trainer", "trainer_best", "trainer_best_tuned", "llama"), "transformers"),
    "litgpt": "litgpt",
    "llama_cpp": "llama-cpp-python",
}
NOT_INSTALLED = "not installed"


def about(options: BenchOptions, designs: list[Design]) -> dict:
    """Command, versions, hardware and models: what it takes to measure the same again."""
    return {
        "command": command_line("bench", options),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "options": dataclasses.asdict(options),
        "versions": versions(),
        "machine": machine(),
        "models": [design.describe() for design in designs],
    }


def versions() -> dict[str, str]:
    packages = ("torch", "transformers", "tokenizers", "accelerate", "datasets", "numpy")
    found = {package: importlib.metadata.version(package) for package in packages}
    return {"python": platform.python_version(), "rhapsode": __version__} | found


def installed_peers(names: list[str]) -> dict[str, str]:
    """The version of each peer's package, or that it is not installed."""
    found = {}
    for name in names:
        module = PACKAGES[name].replace("-python", "").replace("-", "_")
        is_there = importlib.util.find_spec(module) is not None
        found[name] = _version(PACKAGES[name]) if is_there else NOT_INSTALLED
    return found


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package}, unknown version"


def machine() -> dict:
    """The processor and, where there is one, the accelerator."""
    capabilities = torch.cpu.get_capabilities()
    found = {
        "system": platform.platform(),
        "processor": _processor(),
        "flags": [flag for flag in FLAGS if capabilities.get(flag)],
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None,
        "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "device": str(device()),
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {"accelerator": properties.name, "accelerator_memory_bytes": properties.total_memory}
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return found


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
