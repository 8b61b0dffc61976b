"""The machine: its speed, its number formats, its memory."""

import functools
import platform
import statistics
import time

import torch

# Dense bfloat16 peaks of accelerators in FLOP/s, from the vendors' data sheets.
KNOWN_PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def supports_bf16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products run in hardware, and so faster than float32 ones."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
    return device.type in ("mps", "xpu")


@functools.cache
def peak_flops(device_type: str, dtype: torch.dtype) -> tuple[float, str]:
    """(FLOP/s, "measured" or "known") of the best matrix product: the denominator of MFU."""
    if device_type == "cuda":
        name = torch.cuda.get_device_name()
        for model, peak in KNOWN_PEAKS.items():
            if model in name and dtype == torch.bfloat16:
                return peak, "known"
    n = 2048 if device_type == "cpu" else 8192
    generator = torch.Generator().manual_seed(0)  # the random state of the run stays as it is
    a, b = (torch.randn(n, n, generator=generator).to(device_type, dtype) for _ in range(2))
    seconds = [_timed(lambda: a @ b, device_type) for _ in range(6)][1:]
    return 2 * n**3 / statistics.median(seconds), "measured"


def _timed(work, device_type: str) -> float:
    start = time.perf_counter()
    work()
    if device_type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that the process has held: on the accelerator, else resident on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
