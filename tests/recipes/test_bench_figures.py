"""What `rhapsode bench` makes of its samples: medians, ratios, shares, goals, tables."""

import pytest
from rhapsode.recipes.benchmarking.figures import LESS, Entry, Figure, entries, median_ratio, round_shares
from rhapsode.recipes.benchmarking.goals import goals
from rhapsode.recipes.benchmarking.interleaving import LIMIT, OURS, PEER
from rhapsode.recipes.benchmarking.plot import plot
from rhapsode.recipes.benchmarking.table import number, report
from rhapsode.recipes.options.base import UserError, parse
from rhapsode.recipes.options.bench import PEERS, SECTIONS, BenchOptions

# The machine is twice as slow in the second round, for all alike: the ratio is 3 in each, that of the medians is not.
FAST, SLOW = [30.0, 15.0, 33.0], [10.0, 5.0, 11.0]


@pytest.fixture
def figure() -> Figure:
    ours, peer = Entry("rhapsode", OURS, FAST), Entry("Trainer", PEER, SLOW)
    ours.shares = round_shares(FAST, [60.0, 30.0, 66.0])
    gone = Entry("litgpt", PEER, fault="not | there")
    return Figure("training", "30M", "tokens/s", [ours, peer, gone], limit="the peak")


def test_ratios_are_those_of_rounds(figure):
    assert figure.ratio("rhapsode", "Trainer") == pytest.approx(3.0)
    assert figure.ratios("rhapsode") == {"Trainer": pytest.approx(3.0)}
    assert figure.ratio("rhapsode", "litgpt") is None and figure.ratio("rhapsode", "nobody") is None
    assert median_ratio([1.0, 8.0, 3.0], [1.0, 2.0]) == 2.5  # of the rounds that both have
    assert figure.entry("rhapsode").share == 0.5


def test_entries_leave_limits_out_and_name_who_is_not_there():
    kinds = {"disk": LIMIT, "a": OURS, "b": PEER, "c": PEER}
    rows = entries({"disk": [1.0], "a": [2.0], "c": []}, kinds, {"b": "died"})
    assert [(row.name, row.values, row.fault) for row in rows] == [("a", [2.0], None), ("b", [], "died")]


def test_json_has_all_samples(figure):
    ours, peer, gone = figure.as_json()["contenders"]
    assert ours["values"] == FAST and (ours["low"], ours["median"], ours["high"]) == (15.0, 30.0, 33.0)
    assert ours["share_of_limit"] == 0.5 and ours["ratios"] == {"Trainer": pytest.approx(3.0)}
    assert peer["ratios"] == {} and gone["median"] is None and gone["fault"] == "not | there"


def test_goals():
    def one(section, what, unit, values, better="more"):
        rows = [Entry(n, kind, [v], [share] if share else []) for n, kind, v, share in values]
        return Figure(section, what, unit, rows, better)

    training = [("rhapsode", OURS, 1.0, 0), ("rhapsode compiled", OURS, 2.0, 0), ("Trainer", PEER, 0.5, 0)]
    training += [("Trainer best", PEER, 1.9, 0), ("Trainer best, our process", PEER, 1.9, 0)]
    decoding = [("rhapsode", OURS, 6.0, 0.5), ("llama generate", PEER, 2.0, 0.1), ("llama.cpp", PEER, 8.0, 0.9)]
    figures = [
        one("training", "x", "tokens/s", training),
        one("decoding", "x, batch 1, y", "tokens/s", decoding),
        one("decoding", "x, batch 16, y", "tokens/s", decoding),
        one("loss", "x", "s", [("rhapsode", OURS, 1.0, 0), ("whole logits", PEER, 2.0, 0)], LESS),
        one("loss", "x, memory", "MiB", [("rhapsode", OURS, 18.0, 0.2), ("whole logits", PEER, 90.0, 4)], LESS),
        one("packing", "x", "t/s", [("concatenated", OURS, 97.0, 0.97), ("best fit", OURS, 96.5, 0.96)]),
    ]
    found = [(round(goal.value, 3), goal.bound, goal.is_reached) for goal in goals(figures)]
    assert found == [
        (4.0, 3.0, True),
        (1.053, 1.25, False),
        (3.0, 2.0, True),
        (0.75, 1.0, False),
        (0.5, 0.6, False),
        (0.5, 1.1, True),
        (0.2, 0.1, False),
        (0.995, 0.99, True),
        (0.97, 0.95, True),
    ]
    assert goals([]) == []


def test_the_report(figure, tmp_path):
    growth = [
        Figure("growth", f"length {n}", "s", [Entry("rhapsode", OURS, [n])], LESS, None, "length", n) for n in (1, 2)
    ]
    results = {
        "machine": {
            "processor": "P",
            "flags": ["avx2"],
            "cores": 2,
            "threads": 2,
            "memory_bytes": 2**34,
            "load": [0.5],
        },
        "options": {"seed": 7, "rounds": 3},
        "versions": {"torch": "2.13"},
        "command": "rhapsode bench",
        "seconds": 5.0,
        "peers": {"litgpt": "not installed", "llama": "transformers 5"},
        "goals": [goal.as_json() for goal in goals([figure])],
    }
    text = report([figure, *growth], results)
    assert "P (avx2); 2 cores, 2 threads, 16 GiB; load at the start 0.5. torch 2.13." in text
    assert "Not installed, and so not measured: litgpt." in text
    assert "| training, 30M: rhapsode / Trainer | 3 | at least 3 | yes |" in text
    assert "**30M, tokens/s; limit: the peak**" in text
    assert "| rhapsode | 30 | 15 .. 33 | 50.0% | 3.00 x Trainer |" in text
    assert "| Trainer | 10 | 5 .. 11 | - | - |" in text
    assert r"| litgpt | - | - | - | not \| there |" in text
    assert "**growth with length, s, less is better**" in text
    assert "| 1 | rhapsode | 1 | once | - | - |\n| 2 | rhapsode | 2 | once | - | - |" in text
    plot([figure, *growth], tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("value", "shown"), [(1234567.8, "1,234,568"), (0.0123456, "0.01235"), (12.3456, "12.35")])
def test_numbers(value, shown):
    assert number(value) == shown


def test_options():
    options = parse(
        BenchOptions,
        ["--measure", "loss", "--peers", "trainer", "--rounds", "2"],
        "rhapsode bench",
        BenchOptions.__doc__,
    )
    assert (options.measure, options.peers, options.rounds) == (["loss"], ["trainer"], 2)
    assert (BenchOptions().measure, BenchOptions().peers) == (list(SECTIONS), list(PEERS))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--measure", "trainin"], "--measure 'trainin': did you mean 'training'?"),
        (["--peers", "vllm"], "--peers 'vllm': did you mean 'llama'?"),
        (["--peers", "tgi"], "--peers 'tgi': use trainer, "),
        (["--rounds", "0"], "--rounds 0 must be above 0"),
        (["--new_tokens", "1"], "--new_tokens 1 must be 2 or more"),
        (["--decode_batches", "1", "0"], "--decode_batches 1 0: all must be above 0"),
        (["--decode_dtypes", "float16"], "--decode_dtypes 'float16': did you mean 'bfloat16'?"),
    ],
)
def test_options_that_cannot_be(flags, message):
    with pytest.raises(UserError) as error:
        parse(BenchOptions, flags, "rhapsode bench", BenchOptions.__doc__)
    assert str(error.value).startswith(message)
