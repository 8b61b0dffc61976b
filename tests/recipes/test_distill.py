"""Distillation: the loss against the formula, where answers come from, and what a run leaves."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from rhapsode import RhapsodeForCausalLM
from rhapsode.recipes import distill
from rhapsode.recipes.alignment.distillation import Distiller, compare_losses, encoded
from rhapsode.recipes.alignment.report import is_alignment_run
from rhapsode.recipes.alignment.training import arguments, build, prepare
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.options.distill import DistillOptions
from rhapsode.tokenization import encode_conversation
from safetensors.torch import load_file
from small_chats import assistant, chats, completions, save_model, user, write_splits
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DistillationConfig

SAME = 1e-5  # float32 log-probabilities of a vocabulary of 512, against float64
SMALL = ["hidden_size=32", "intermediate_size=64"]


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer_directory) -> str:
    return save_model(tmp_path_factory.mktemp("model"), tokenizer_directory)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, model) -> str:
    """Surer than a new model: its head is ten times as large."""
    directory = shutil.copytree(model, tmp_path_factory.mktemp("teacher") / "teacher")
    opened = RhapsodeForCausalLM.from_pretrained(directory)
    torch.manual_seed(3)
    with torch.no_grad():
        for p in opened.parameters():
            p.add_(0.05 * torch.randn_like(p))
        opened.lm_head.weight.mul_(10)
    opened.save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> str:
    return write_splits(tmp_path_factory.mktemp("rows"), chats(12))


def options(model: str | None, teacher: str, dataset: str, directory: Path, **others) -> DistillOptions:
    settings = {"max_steps": 8, "learning_rate": 3e-3, "logging_steps": 1, "save_steps": 100, "eval_steps": 100}
    settings |= {"eval_prompts": 2, "max_new_tokens": 8, "max_completion_length": 8, "per_device_train_batch_size": 4}
    settings |= {"lr_scheduler_type": "constant"}
    out = str(directory)
    return DistillOptions(
        model=model, teacher=teacher, dataset=dataset, output_dir=out, bf16=False, **settings | others
    )


def built(asked: DistillOptions) -> Distiller:
    opened, tokenizer = distill.open_teacher(asked)
    student = partial(distill.open_student, tokenizer=tokenizer, vocab_size=opened.config.vocab_size)
    job = prepare("distill", asked, student, distill.read)
    own = {name: getattr(asked, name) for name in distill.SAME}
    trainer_class = partial(Distiller, teacher_model=opened, lmbda=asked.lmbda)
    return build(job, trainer_class, arguments(job, DistillationConfig, distill.LEARNING_RATE, **own))


def logged(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def divergence(p: torch.Tensor, q: torch.Tensor, beta: float) -> torch.Tensor:
    """Of probabilities (T, V), in float64, as the module's docstring writes it."""
    if beta in (0, 1):
        p, q = (p, q) if beta == 0 else (q, p)
        return (p * (p.log() - q.log())).sum(-1)
    m = beta * p + (1 - beta) * q
    return (beta * p * (p.log() - m.log()) + (1 - beta) * q * (q.log() - m.log())).sum(-1)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_loss_is_the_divergence(model, teacher, rows, tmp_path, beta):
    """Held-out: the mean over the tokens of the answers, of a batch that holds all rows."""
    trainer = built(options(model, teacher, rows, tmp_path / "out", beta=beta, temperature=2.0))
    chat = chats(12)
    tokenizer, found = trainer.processing_class, []
    with torch.no_grad():
        for row in chat:
            ids = torch.tensor([encode_conversation(tokenizer, row["messages"])["input_ids"]])
            begin = (
                len(encode_conversation(tokenizer, row["messages"][:-1], add_generation_prompt=True)["input_ids"]) - 1
            )
            p, q = (
                (m(ids).logits[0, begin:-1].double() / 2.0).softmax(-1)
                for m in (AutoModelForCausalLM.from_pretrained(path) for path in (teacher, model))
            )
            found.append(divergence(p, q, beta))
    expected = torch.cat(found).mean().item()
    assert expected > 100 * SAME
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-4, abs=SAME)


def test_a_teacher_has_nothing_to_teach_itself(teacher, rows, tmp_path):
    trainer = built(options(teacher, teacher, rows, tmp_path / "out"))
    assert abs(trainer.evaluate()["eval_loss"]) < SAME
    same = AutoModelForCausalLM.from_pretrained(teacher)
    found = compare_losses(same, same, trainer.processing_class, trainer.eval_dataset, 5)
    assert found["kl"] == 0 and found["student"] == found["teacher"]


def test_losses_are_those_of_the_models(model, teacher, rows, tmp_path):
    """Against transformers' own loss, a row at a time, and the divergence in float64; whatever the batch."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    student, larger = (AutoModelForCausalLM.from_pretrained(path) for path in (model, teacher))
    table = distill.read(rows, "validation", 0, None)
    sums, count = torch.zeros(3, dtype=torch.float64), 0
    with torch.no_grad():
        for prompt, answer in encoded(tokenizer, table):
            assert answer[-1] == tokenizer.eos_token_id
            ids = torch.tensor([prompt + answer])
            labels = torch.tensor([[-100] * len(prompt) + answer])
            losses = [m(ids, labels=labels).loss.double() * len(answer) for m in (student, larger)]
            q, p = (m(ids).logits[0, len(prompt) - 1 : -1].double().softmax(-1) for m in (student, larger))
            sums += torch.stack([*losses, divergence(p, q, 0).sum()])
            count += len(answer)
    expected = (sums / count).tolist()
    for size in (1, 5):
        assert list(compare_losses(student, larger, tokenizer, table, size).values()) == pytest.approx(
            expected, rel=1e-4
        )


def test_share_of_answers_that_the_student_samples(model, teacher, rows, tmp_path):
    trainer = built(options(model, teacher, rows, tmp_path / "out"))
    batch = [trainer.train_dataset[i] for i in range(2)]
    given = [answer for _, answer in encoded(trainer.processing_class, batch)]

    def is_sampled(step: int) -> bool:
        trainer.state.global_step = step
        made = trainer._generate_and_score_completions(batch)
        masks = zip(made["completion_ids"].tolist(), made["completion_mask"].tolist(), strict=True)
        return [[i for i, real in zip(ids, mask, strict=True) if real] for ids, mask in masks] != given

    for lmbda, least, most in ((0.0, 0, 0), (0.5, 4, 12), (1.0, 16, 16)):
        trainer.lmbda = lmbda
        trainer.model.train()
        found = [is_sampled(step) for step in range(16)]
        assert least <= sum(found) <= most, "the draws are the same each time"
        trainer.model.eval()
        assert not is_sampled(0), "held-out rows keep their answers"


@pytest.mark.parametrize("use_peft", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_student_comes_closer(model, teacher, rows, tmp_path, use_peft):
    out = tmp_path / "out"
    lr = 5e-3 if use_peft else 3e-3
    distill.run(options(model, teacher, rows, out, beta=0.0, lmbda=0.25, use_peft=use_peft, learning_rate=lr))
    opened, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert is_alignment_run(out) and opened.config.use_cache
    results = json.loads((out / "results.json").read_text())
    assert results["kl_after"] < 0.97 * results["kl_before"]
    assert results["eval_loss"] == pytest.approx(results["kl_after"], rel=1e-3), "forward KL is what is trained on"
    assert results["teacher"]["n"] == results["after"]["n"] == 2
    report = (out / "report.md").read_text()
    assert "teacher's held-out loss" in report and "| before | after | teacher |" in report


def test_a_new_student_has_the_teachers_tokenizer(teacher, rows, tmp_path):
    asked = {"preset": "rhapsode-10m-tiny", "config_overrides": SMALL, "max_steps": 2}
    out = tmp_path / "out"
    distill.run(options(None, teacher, rows, out, **asked))
    opened, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert opened.config.hidden_size == 32 and opened.config.vocab_size == len(tokenizer)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(teacher).chat_template
    assert opened.config.pad_token_id == tokenizer.pad_token_id and opened.config.eos_token_id == tokenizer.eos_token_id


def test_resumed_run_is_the_run_without_a_break(model, teacher, rows, tmp_path):
    """Twelve rows are three steps, so that the break is in the second pass over them."""
    out = tmp_path / "out"
    asked = options(model, teacher, rows, out, save_steps=5, eval_prompts=0)
    distill.run(asked)
    weights, before = load_file(out / "model.safetensors"), logged(out)
    shutil.rmtree(out / "checkpoints" / "checkpoint-8")
    (out / "model.safetensors").unlink()
    asked.resume = True
    distill.run(asked)
    resumed = load_file(out / "model.safetensors")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in weights.items())
    assert [row["loss"] for row in logged(out) if "loss" in row] == [row["loss"] for row in before if "loss" in row]


def test_rows_with_several_answers_and_rows_of_prompts(tmp_path):
    turns = [user("a"), assistant("b"), user("c"), assistant("d")]
    table = distill.read(write_splits(tmp_path / "turns", [{"messages": turns}]), "train", 0, None)
    assert table[0] == {"prompt": turns[:3], "completion": turns[3:]}
    table = distill.read(write_splits(tmp_path / "pairs", completions()), "train", 0, None)
    assert table[0]["completion"] == completions()[0]["completion"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"preset": "gpt2-tiny"}, "with --preset gpt2-tiny: give one of them"),
        ({"model": None}, "--model none with --preset none: give one of them"),
        ({"model": None, "preset": "gpt2-tiny", "use_peft": True}, "--use_peft with --preset gpt2-tiny"),
        ({"config_overrides": ["hidden_size=8"]}, "--config_overrides hidden_size=8 change a --preset"),
        ({"beta": 1.5}, r"--beta 1\.5 must be from 0 to 1"),
        ({"lmbda": -0.5}, r"--lmbda -0\.5 must be from 0 to 1"),
        ({"per_device_train_batch_size": 16}, "12 rows, but a step takes 16"),
        ({"max_completion_length": 127}, "a row may have 1; raise --max_length"),
    ],
)
def test_faults_are_one_line(model, teacher, rows, tmp_path, wrong, message):
    with pytest.raises(UserError, match=message):
        distill.run(
            options(**{"model": model, "teacher": teacher, "dataset": rows, "directory": tmp_path / "o"} | wrong)
        )
    assert not (tmp_path / "o").exists()


def test_teachers_that_do_not_fit(model, teacher, rows, tmp_path):
    other = Path(shutil.copytree(teacher, tmp_path / "other"))
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["<|more|>"])
    tokenizer.save_pretrained(other)
    larger = RhapsodeForCausalLM.from_pretrained(other)
    larger.resize_token_embeddings(len(tokenizer))
    larger.save_pretrained(other)
    with pytest.raises(UserError, match="its tokenizer has another vocabulary or chat template"):
        distill.run(options(model, str(other), rows, tmp_path / "out"))
    AutoTokenizer.from_pretrained(model).save_pretrained(other)
    with pytest.raises(
        UserError, match=r"vocab_size is 513, and the student's 512|vocab_size is \d+, and the student's \d+"
    ):
        distill.run(options(model, str(other), rows, tmp_path / "out"))
    with pytest.raises(UserError, match="is the model that the run starts from"):
        distill.run(options(model, str(other), rows, other, overwrite_output_dir=True))
