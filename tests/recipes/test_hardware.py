"""What is said about the machine."""

import time

import numpy as np
import pytest
import torch
from rhapsode.recipes.training.hardware import KNOWN_PEAKS, known_peak, measured_bandwidth, memory_row, peak_flops


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
    ],
)
def test_a_device_has_its_own_peak_and_not_that_of_a_longer_or_shorter_name(name, peak):
    assert known_peak(name) == peak


@pytest.mark.parametrize(
    "name",
    [
        *("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D"),
        *("NVIDIA A10", "NVIDIA GB200", "Tesla T4", ""),
    ],
)
def test_what_no_data_sheet_covers_is_measured(name):
    assert known_peak(name) is None


def test_of_two_names_that_fit_the_longer_one_comes_first():
    names = list(KNOWN_PEAKS)
    for i, name in enumerate(names):
        assert not any(later.startswith(f"{name} ") for later in names[i + 1 :]), name


def test_measuring_leaves_the_random_state_of_the_run():
    before = torch.get_rng_state()
    speed, kind = peak_flops("cpu", torch.float32)
    assert kind == "measured"
    assert 1e8 < speed < 1e15  # from a phone to more than any processor has
    assert torch.equal(torch.get_rng_state(), before)
    assert peak_flops("cpu", torch.float32) == (speed, kind)  # once a process


def test_the_bandwidth_of_memory_is_that_at_which_numpy_adds_it_up():
    numbers = np.ones(2**25)  # 256 MiB
    numbers.sum()
    start = time.perf_counter()
    numbers.sum()
    by_numpy = numbers.nbytes / (time.perf_counter() - start)
    assert by_numpy / 20 < measured_bandwidth("cpu") < 20 * by_numpy  # one thread there, and the machine is shared


def test_memory_of_this_process():
    """We hold 64 MiB more; the peak never falls."""
    before = memory_row(torch.device("cpu"))
    held = torch.ones(2**24)
    after = memory_row(torch.device("cpu"))
    assert before.keys() == {"memory_bytes"}
    assert after["memory_bytes"] >= max(2**24 * 4, before["memory_bytes"])
    assert held.sum() == 2**24
