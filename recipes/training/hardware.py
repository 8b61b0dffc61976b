"""The machine: its speed, its number formats, its memory."""

import functools
import platform
import re
import statistics
import time

import torch

# Dense bfloat16 peaks with float32 sums, in FLOP/s, from the vendors' data sheets; of two that fit, the first counts.
KNOWN_PEAKS = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H800": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "A10G": 70e12,
    "A40": 150e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX A6000": 155e12,
    "RTX 5090": 210e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "MI300X": 1307e12,
}
# Parts of a chip and slower ones of the same name: their peak is measured.
NOT_THE_WHOLE = ("MIG", "Laptop", "Max-Q", "RTX 4090 D")


def supports_bf16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products run in hardware, and so faster than float32 ones."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
    return device.type in ("mps", "xpu")


def known_peak(name: str) -> float | None:
    """The data sheet's FLOP/s for a device of this name, as `torch.cuda.get_device_name` spells it."""
    if any(re.search(rf"\b{part}\b", name) for part in NOT_THE_WHOLE):
        return None
    return next((peak for model, peak in KNOWN_PEAKS.items() if re.search(rf"\b{model}\b", name)), None)


@functools.cache
def peak_flops(device_type: str, dtype: torch.dtype) -> tuple[float, str]:
    """(FLOP/s, "measured" or "known") of this process's best matrix product, on its device with its threads."""
    if device_type == "cuda" and dtype == torch.bfloat16:
        peak = known_peak(torch.cuda.get_device_name())
        if peak is not None:
            return peak, "known"
    return measured_flops(device_type, dtype), "measured"


def measured_flops(device_type: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product, now."""
    n = 2048 if device_type == "cpu" else 8192
    generator = torch.Generator().manual_seed(0)  # the random state of the run stays as it is
    a, b = (torch.randn(n, n, generator=generator).to(device_type, dtype) for _ in range(2))
    seconds = [_timed(lambda: a @ b, device_type) for _ in range(6)][1:]
    return 2 * n**3 / statistics.median(seconds)


def measured_bandwidth(device_type: str) -> float:
    """Bytes a second at which memory is read, far more of it than caches hold, now: the best of several sweeps.

    A product of a matrix and a vector reads each number once, as a model that writes one token does with its weights.
    """
    rows, columns = (2**13, 2**13) if device_type == "cpu" else (2**15, 2**15)
    matrix = torch.ones(rows, columns, device=device_type)
    vector = torch.ones(columns, device=device_type)
    seconds = [_timed(work, device_type) for _ in range(4) for work in (lambda: matrix @ vector, matrix.sum)]
    return matrix.nbytes / min(seconds[2:])


def total_peak_flops(accelerator, dtype: torch.dtype) -> tuple[float, str]:
    """(FLOP/s, kind) of all processes together: the denominator of MFU. Every process must call it.

    They measure at the same time. Processes that share the cores of a machine so slow each other down as they do in
    training, and the sum is what the machine has, however many processes and threads it is cut into.
    """
    accelerator.wait_for_everyone()
    peak, kind = peak_flops(accelerator.device.type, dtype)
    total = accelerator.reduce(torch.tensor(peak, dtype=torch.float32, device=accelerator.device), reduction="sum")
    return total.item(), kind


def _timed(work, device_type: str) -> float:
    start = time.perf_counter()
    work()
    if device_type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def memory_row(device: torch.device) -> dict[str, int]:
    """The figures of `metrics.jsonl`: `memory_bytes` and, on CUDA, what the allocator has reserved for it."""
    row = {"memory_bytes": peak_memory_bytes(device)}
    if device.type == "cuda":
        row["memory_reserved_bytes"] = torch.cuda.max_memory_reserved(device)
    return row


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that the process has held: on the accelerator, else resident on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
