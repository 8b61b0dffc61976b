"""Energy and its carbon dioxide, each figure marked as measured or estimated.

With codecarbon (Courty et al., mlco2/codecarbon) installed: processors, accelerators and memory of each machine, never
over the network. A processor counts as measured only where codecarbon reads its counters (RAPL, Windows EMI, Power
Gadget, powermetrics); otherwise it assumes a power from the load and a table, which it says in a log line alone. The
memory's power is always assumed. The carbon dioxide is always estimated: it is the energy times the average of a
country's grid, or of the world's where codecarbon's own configuration (~/.codecarbon.config) names no country.

Without codecarbon, on CUDA: each process integrates the power that NVML reads of its own device, by trapezoids.
Otherwise there is no figure. A sum is measured only if all of its parts are. Energy that a killed run spent after its
last checkpoint is not in the sum, as its steps are not in `metrics.jsonl`.
"""

import importlib.util
import logging
import threading
import time
import warnings

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from ..options.base import one_line

MEASURED, ESTIMATED = "measured", "estimated"
COUNTERS = ("intel_rapl", "windows_emi", "intel_power_gadget")  # modes of codecarbon's CPU that read an instrument
PARTS = ("cpu", "gpu", "ram")
JOULES_PER_KWH = 3.6e6
SECONDS_BETWEEN = 2.0  # between readings: costs 2 ms, and is how old a figure may be


class EnergyMeter:
    """Starts at once; `row()` gives the sums so far over all processes, `stop()` the last ones, for `metrics.jsonl`.

    Every process must call `row` and `stop` at the same time. `before` is `MetricsLog.last` of the run that is resumed,
    on the main process, whose sums are the ones that are written.
    """

    def __init__(self, accelerator: Accelerator, enabled: bool = True, before: dict | None = None):
        self.before = {key: value for key, value in (before or {}).items() if _is_energy(key)}
        self.source = _open_source(accelerator) if enabled else None
        self.reading: dict = {}

    def row(self) -> dict:
        """`energy_kwh` with `energy_kind`, the same by part (`gpu_energy_kwh`, ...), `co2_kg`; empty without meter."""
        if self.source:
            try:
                self.reading = self.source.read()
            except Exception as error:  # energy is not worth a run
                self.source = None
                warnings.warn(f"energy is counted up to here only ({one_line(error, 200)})", stacklevel=2)
        return add_up([self.before, *gather_object([self.reading])])

    def stop(self) -> dict:
        if self.source:
            self.source.stop()
        return self.row()


def add_up(readings: list[dict]) -> dict:
    """The sum of rows; what is measured in one and estimated in another is estimated."""
    total = {}
    for part in PARTS:
        key = f"{part}_energy"
        found = [r for r in readings if r.get(f"{key}_kwh") is not None]
        if found:
            total[f"{key}_kwh"] = sum(r[f"{key}_kwh"] for r in found)
            total[f"{key}_kind"] = _kind(r[f"{key}_kind"] for r in found)
    if not total:
        return {}
    kinds = [value for key, value in total.items() if key.endswith("_kind")]
    whole = {"energy_kwh": sum(v for k, v in total.items() if k.endswith("_kwh")), "energy_kind": _kind(kinds)}
    carbon = [r["co2_kg"] for r in readings if r.get("co2_kg") is not None]
    if carbon:
        whole |= {"co2_kg": sum(carbon), "co2_kind": ESTIMATED}
    return whole | total


def _kind(kinds) -> str:
    return MEASURED if set(kinds) == {MEASURED} else ESTIMATED


def _is_energy(key: str) -> bool:
    return "energy_" in key or key.startswith("co2_")


def _open_source(accelerator: Accelerator):
    """codecarbon once a machine; else NVML once a process; else nothing."""
    if importlib.util.find_spec("codecarbon") is not None:
        if not accelerator.is_local_main_process:
            return None
        try:
            return CodeCarbon()
        except Exception as error:  # energy is not worth a run
            warnings.warn(f"codecarbon failed ({one_line(error, 200)}); energy is not tracked", stacklevel=2)
            return None
    return Nvml(accelerator.device) if _reads_power(accelerator.device) else None


def _reads_power(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    try:
        return torch.cuda.power_draw(device) > 0
    except Exception:  # no nvidia-ml-py, or a device that has no sensor
        return False


class CodeCarbon:
    """codecarbon's offline tracker; it measures in a thread of its own and hands each sum to us."""

    def __init__(self):
        logging.getLogger("codecarbon").setLevel(logging.ERROR)  # what it says at the start, before it reads log_level
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.output import BaseOutput

        class Newest(BaseOutput):
            total = None

            def live_out(self, total, delta):
                self.total = total

            out = live_out

        self.newest = Newest()
        self.tracker = OfflineEmissionsTracker(
            # Nothing is sent and no file is written, whatever the user's configuration says.
            **{"output_methods": [], "output_handlers": [self.newest], "emissions_endpoint": None},
            **{"electricitymaps_api_token": None, "api_call_interval": 1, "measure_power_secs": SECONDS_BETWEEN},
            **{"log_level": "error", "allow_multiple_runs": True},  # its lock would take over SIGTERM and SIGINT
        )
        self.tracker.start()
        if self.newest.total is None:  # its errors are log lines
            raise RuntimeError("it gives no reading")
        self.kinds = part_kinds(getattr(self.tracker, "_hardware", []))

    def read(self) -> dict:
        total, row = self.newest.total, {"co2_kg": self.newest.total.emissions}
        for part, kind in self.kinds.items():
            row |= {f"{part}_energy_kwh": getattr(total, f"{part}_energy"), f"{part}_energy_kind": kind}
        return row

    def stop(self) -> None:
        self.tracker.stop()


def part_kinds(hardware: list) -> dict[str, str]:
    """Part to mark, from codecarbon's hardware objects. What we do not know to be an instrument is estimated."""
    kinds = {}
    for item in hardware:
        name = type(item).__name__
        if name in ("AppleSiliconChip", "Raspberry"):
            part, is_measured = getattr(item, "chip_part", "CPU").lower(), True
        else:
            part, is_measured = name.lower(), name == "GPU" or getattr(item, "_mode", None) in COUNTERS
        if part in PARTS:
            kinds[part] = MEASURED if is_measured else ESTIMATED
    return kinds


class Nvml:
    """Energy of this process's device: the power that NVML reads, integrated over time."""

    def __init__(self, device: torch.device, watts=None, seconds_between: float = SECONDS_BETWEEN):
        self.watts = watts or (lambda: torch.cuda.power_draw(device) / 1000)  # torch gives milliwatts
        self.joules, self.lock, self.stopped = 0.0, threading.Lock(), threading.Event()
        self.time, self.power = time.perf_counter(), self.watts()
        self.thread = threading.Thread(target=self._sample, args=(seconds_between,), daemon=True)
        self.thread.start()

    def _sample(self, seconds_between: float) -> None:
        while not self.stopped.wait(seconds_between):
            try:
                self._advance()
            except Exception:
                return  # the next `read` fails too, and says so

    def _advance(self) -> None:
        with self.lock:
            now, power = time.perf_counter(), self.watts()
            self.joules += (now - self.time) * (power + self.power) / 2
            self.time, self.power = now, power

    def read(self) -> dict:
        self._advance()
        return {"gpu_energy_kwh": self.joules / JOULES_PER_KWH, "gpu_energy_kind": MEASURED}

    def stop(self) -> None:
        self.stopped.set()
        self.thread.join()
