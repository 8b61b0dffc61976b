"""Defaults, YAML and flags, in rising precedence; and one line for whatever does not fit."""

import dataclasses
import importlib
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rhapsode.recipes.cli import COMMANDS
from rhapsode.recipes.options.base import UserError, option, parse, save_resolved


@dataclass
class Options:
    """For tests."""

    prompt: str = option("", "a text", positional=True)
    output_dir: str = option("runs/x", "where")
    model: str | None = option(None, "which")
    max_steps: int | None = option(None, "how many")
    seed: int = option(0, "of draws")
    learning_rate: float = option(1e-3, "how fast, 100% of it")
    max_seconds: float | None = option(None, "how long")
    stream: bool = option(True, "at once")
    bf16: bool | None = option(None, "fewer bits")
    optim: str = option("adamw", "which", ("adamw", "muon"))
    width: int = option(2, "how wide", (2, 4))
    dataset: list[str] = option(["stdlib"], "what")  # noqa: RUF009 (option makes a field)
    sizes: list[int] = option([1, 2], "how large")  # noqa: RUF009

    def __post_init__(self):
        if self.seed < 0:
            raise UserError(f"--seed {self.seed} must not be negative")


@dataclass
class Several:
    """With any number of names."""

    names: list[str] = option([], "which", positional=True)  # noqa: RUF009
    json: bool = option(False, "as JSON")


def read(*arguments, options_class=Options):
    return parse(options_class, [str(a) for a in arguments], "rhapsode test", "for tests")


def complaint(*arguments, options_class=Options) -> str:
    with pytest.raises(UserError) as caught:
        read(*arguments, options_class=options_class)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def yaml_file(tmp_path):
    def write(text: str | bytes):
        path = tmp_path / "options.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_defaults():
    assert read() == Options()
    first, second = read(), read()
    first.dataset.append("more")
    assert second.dataset == Options().dataset == ["stdlib"]


def test_flags_override_the_file_and_the_file_the_defaults(yaml_file):
    path = yaml_file("seed: 1\nmax_steps: 10\ndataset: [a, b]\nstream: false\n")
    expected = Options(seed=1, max_steps=10, dataset=["a", "b"], stream=False)
    assert read("--config", path) == expected
    assert read("--seed", 2, "--config", path, "--stream") == dataclasses.replace(expected, seed=2, stream=True)
    assert read("--config", path, "--dataset", "c", "--max_steps", "none").dataset == ["c"]
    assert read("--config", path, "--max_steps", "none").max_steps is None


FLAGS = [
    ("seed", ["--seed", "1e6"], 10**6),
    ("seed", ["--seed", "1_000"], 1000),
    ("seed", ["--seed=12"], 12),
    ("max_steps", ["--max_steps", str(2**63 - 1)], 2**63 - 1),  # a float in between would make another number of it
    ("learning_rate", ["--learning_rate", "3e-4"], 3e-4),
    ("learning_rate", ["--learning_rate", "1"], 1.0),
    ("max_steps", ["--max_steps", "None"], None),
    ("max_seconds", ["--max_seconds", "1e300"], 1e300),
    ("model", ["--model", "none"], None),
    ("model", ["--model", "-"], "-"),
    ("output_dir", ["--output_dir", "none"], "none"),
    ("stream", ["--no-stream"], False),
    ("bf16", ["--bf16"], True),
    ("bf16", ["--no-bf16"], False),
    ("optim", ["--optim", "muon"], "muon"),
    ("width", ["--width", "4"], 4),
    ("dataset", ["--dataset", "a", "b c", "d=e"], ["a", "b c", "d=e"]),
    ("sizes", ["--sizes", "1", "1e3"], [1, 1000]),
    ("prompt", ["once upon a time"], "once upon a time"),
    ("prompt", ["--", "--seed"], "--seed"),
]


@pytest.mark.parametrize(("name", "arguments", "value"), FLAGS)
def test_flags(name, arguments, value):
    assert read(*arguments) == dataclasses.replace(Options(), **{name: value})
    assert type(getattr(read(*arguments), name)) is type(value)


YAML = [
    ("learning_rate: 3e-4", "learning_rate", 3e-4),  # a string to YAML 1.1
    ("learning_rate: 1", "learning_rate", 1.0),
    ("seed: 1e6", "seed", 10**6),
    ("seed: 5.0", "seed", 5),
    (f"max_steps: {2**53 + 1}", "max_steps", 2**53 + 1),
    ("max_steps: null", "max_steps", None),
    ("max_steps: ~", "max_steps", None),
    ("max_steps: none", "max_steps", None),  # as on the command line and in --help
    ("model: none", "model", None),
    ("model: org/name", "model", "org/name"),
    ("stream: no", "stream", False),
    ("bf16: true", "bf16", True),
    ("optim: muon", "optim", "muon"),
    ("width: 4", "width", 4),
    ("dataset: [a, b]", "dataset", ["a", "b"]),
    ("dataset: []", "dataset", []),
    ("sizes: [1e3, 7]", "sizes", [1000, 7]),
    ("prompt: |\n  two\n  lines", "prompt", "two\nlines"),
    ("max_seconds: 1e300", "max_seconds", 1e300),
]


@pytest.mark.parametrize(("text", "name", "value"), YAML)
def test_yaml(yaml_file, text, name, value):
    got = read("--config", yaml_file(text))
    assert got == dataclasses.replace(Options(), **{name: value})
    assert type(getattr(got, name)) is type(value)


@pytest.mark.parametrize("text", ["", "# seed: 3\n", "---\n"])
def test_a_file_of_comments_changes_nothing(yaml_file, text):
    assert read("--config", yaml_file(text)) == Options()


def test_positional_options_come_in_any_place():
    assert read("--seed", 1, "text", "--no-stream") == Options(prompt="text", seed=1, stream=False)
    assert read("names", "b", "--json", options_class=Several) == Several(["names", "b"], True)
    assert read("--json", "a", options_class=Several) == Several(["a"], True)
    assert read("--json", options_class=Several) == Several([], True)


# What does not fit


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max_step", "3"], "unknown argument --max_step; did you mean --max_steps?"),
        (["--learning-rate=3"], "unknown argument --learning-rate=3; did you mean --learning_rate?"),
        (["--confg", "x"], "unknown argument --confg; did you mean --config?"),
        (["--zzz"], "unknown argument --zzz; see --help"),
        (["--prompt", "x"], "unknown argument --prompt; see --help"),
        (["one", "two"], "unknown argument two; see --help"),
        (["--no-seed"], "unknown argument --no-seed; did you mean --seed?"),
        (["--seed", "many"], "argument --seed: invalid int value: 'many'"),
        (["--seed", "1.5"], "argument --seed: invalid int value: '1.5'"),
        (["--seed", "inf"], "argument --seed: invalid int value: 'inf'"),
        (["--seed", "nan"], "argument --seed: invalid int value: 'nan'"),
        (["--seed", "none"], "argument --seed: invalid int value: 'none'"),
        (["--seed"], "argument --seed: expected one argument"),
        (["--dataset"], "argument --dataset: expected at least one argument"),
        (["--sizes", "1", "x"], "argument --sizes: invalid int value: 'x'"),
        (["--seed", "-3"], "--seed -3 must be from 0 to 4294967295"),
        (["--seed", "4294967296"], "--seed 4294967296 must be from 0 to 4294967295"),
        (["--max_seconds", "nan"], "argument --max_seconds: 'nan' is not a finite number"),
    ],
)
def test_flags_that_do_not_fit(arguments, message):
    assert complaint(*arguments) == message


def test_a_choice_that_there_is_not():
    message = complaint("--optim", "sgd")
    assert message.startswith("argument --optim: invalid choice: 'sgd'")
    assert "adamw" in message
    assert "muon" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_step: 3", "unknown key 'max_step' in {path}; did you mean max_steps?"),
        ("zzz: 3", "unknown key 'zzz' in {path}; see --help"),
        ("config: other.yaml", "unknown key 'config' in {path}; see --help"),
        ("3: 3", "unknown key 3 in {path}; see --help"),
        ("seed: many", "seed='many' in {path} must be int"),
        ("seed: 1.5", "seed=1.5 in {path} must be int"),
        ("seed: .inf", "seed=inf in {path} must be int"),
        ("seed: true", "seed=True in {path} must be int"),
        ("seed: null", "seed=None in {path} must be int"),
        ("max_steps: [1]", "max_steps=[1] in {path} must be int or null"),
        ("learning_rate: fast", "learning_rate='fast' in {path} must be float"),
        ("stream: 1", "stream=1 in {path} must be bool"),
        ("stream: 'no'", "stream='no' in {path} must be bool"),
        ("output_dir: 3", "output_dir=3 in {path} must be str"),
        ("dataset: stdlib", "dataset='stdlib' in {path} must be list of str"),
        ("dataset: [a, 3]", "dataset=['a', 3] in {path} must be list of str"),
        ("dataset: {a: b}", "dataset={{'a': 'b'}} in {path} must be list of str"),
        ("optim: sgd", "optim='sgd' in {path}; use one of adamw, muon"),
        ("width: 3", "width=3 in {path}; use one of 2, 4"),
        ("seed: -1", "--seed -1 must be from 0 to 4294967295"),
        ("max_seconds: .inf", "max_seconds=inf in {path} is not a finite number"),
        ("- a\n- b", "--config {path} holds list; it must be a mapping of options to values"),
        ("just text", "--config {path} holds str; it must be a mapping of options to values"),
    ],
)
def test_yaml_that_does_not_fit(yaml_file, text, message):
    path = yaml_file(text)
    assert complaint("--config", path) == message.format(path=path)


@pytest.mark.parametrize(
    "text", ["seed: [1", "a: b: c", "\tseed: 1", b"model: Gr\xfc\xdfe", "seed: 2026-99-99", "seed: *x"]
)
def test_a_file_that_is_not_yaml(yaml_file, text):
    path = yaml_file(text)
    assert complaint("--config", path).startswith(f"--config {path} is not YAML: ")


def test_a_file_that_cannot_be_read(tmp_path):
    missing = tmp_path / "missing.yaml"
    assert complaint("--config", missing) == f"--config {missing}: No such file or directory"
    assert complaint("--config", tmp_path) == f"--config {tmp_path}: Is a directory"


# Help


def test_help_shows_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit):
        read("--help")
    shown = " ".join(capsys.readouterr().out.split())
    for part in (
        "--max_steps INT how many (default: none)",
        "--learning_rate FLOAT how fast, 100% of it (default: 0.001)",
        "--stream, --no-stream at once (default: on)",
        "--optim {adamw,muon} which (default: adamw)",
        "--dataset STR ... what (default: stdlib)",
    ):
        assert part in shown


def test_a_switch_that_is_off_can_be_turned_off(yaml_file):
    path = yaml_file("json: true\n")
    assert read("--config", path, options_class=Several).json is True
    assert read("--config", path, "--no-json", options_class=Several).json is False


# The resolved options repeat the run


def options_classes() -> list[type]:
    return [
        getattr(importlib.import_module(f"rhapsode.recipes.options.{name}"), c.options) for name, c in COMMANDS.items()
    ]


# What a command cannot do without.
NEEDED = {"PpoOptions": {"reward_model": "runs/reward"}, "DistillOptions": {"preset": "rhapsode-10m-tiny"}}


@pytest.mark.parametrize("options_class", options_classes(), ids=lambda c: c.__name__)
def test_the_defaults_of_every_command_come_back(options_class, tmp_path):
    path, needed = tmp_path / "config_resolved.yaml", NEEDED.get(options_class.__name__, {})
    flags = [part for name, value in needed.items() for part in (f"--{name}", value)]
    options = options_class(**needed)
    save_resolved(options, path, "command")
    assert read("--config", path, options_class=options_class) == options == read(*flags, options_class=options_class)
    assert path.read_text(encoding="utf-8").startswith("# rhapsode command --config config_resolved.yaml\n")


@pytest.mark.parametrize("options_class", options_classes(), ids=lambda c: c.__name__)
def test_every_option_of_every_command_says_what_it_is(options_class):
    assert options_class.__doc__
    assert not options_class.__doc__.startswith(f"{options_class.__name__}(")  # what dataclass puts where there is none
    for field in dataclasses.fields(options_class):
        assert len(field.metadata["help"]) > 5, field.name


plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the file is written anew each time
@given(
    st.builds(
        Options,
        prompt=plain,
        output_dir=plain,
        model=st.none() | plain.filter(lambda text: text.lower() != "none"),
        max_steps=st.none() | st.integers(),
        seed=st.integers(0, 2**32 - 1),
        learning_rate=st.floats(allow_nan=False, allow_infinity=False),
        max_seconds=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        stream=st.booleans(),
        bf16=st.none() | st.booleans(),
        optim=st.sampled_from(["adamw", "muon"]),
        width=st.sampled_from([2, 4]),
        dataset=st.lists(plain),
        sizes=st.lists(st.integers()),
    )
)
def test_any_options_come_back(tmp_path, options):
    path = tmp_path / "config_resolved.yaml"
    save_resolved(options, path, "test")
    assert read("--config", path) == options
