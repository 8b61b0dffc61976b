"""Models that are not there, not whole, or not what they say."""

import json

from .bad import bad, broken, cut_off, holding, with_fields, with_tensors, without
from .commands import ABSTAIN, CLASSIFY, DISTILL, DPO, EVALUATE, GRPO, KTO, PPO, REWARD, RLOO, SFT

GENERATE = "generate hello --model broken"
EVERYWHERE = {
    "generate": GENERATE,
    "chat": "chat hello --model broken",
    "evaluate": EVALUATE.replace("{m}", "broken"),
    "inspect": "inspect broken text",
    "serve": "serve --model broken --port 0",
    "export": "export --model broken --output_dir out",
    "convert": "convert --from broken --to out",
    "sft": SFT.replace("{m}", "broken"),
    "dpo": DPO.replace("{m}", "broken"),
    "kto": KTO.replace("{m}", "broken"),
    "reward": REWARD.replace("{m}", "broken"),
    "ppo": PPO.replace("{m}", "broken"),
    "grpo": GRPO.replace("{m}", "broken"),
    "rloo": RLOO.replace("{m}", "broken"),
    "classify": CLASSIFY.replace("{m}", "broken"),
    "abstain": ABSTAIN.replace("{m}", "broken"),
    "distill": DISTILL.replace("{m}", "broken"),
    "pretrain": "pretrain --model broken --dataset {d} --max_length 32 --output_dir out",
}
WEIGHTS = "model.safetensors"


def header(content: bytes) -> bytes:
    return len(content).to_bytes(8, "little") + content


def lacking_one(tensors: dict) -> dict:
    return {name: t for name, t in tensors.items() if name != "model.layers.1.mlp.up_proj.weight"}


def one_too_many(tensors: dict) -> dict:
    return tensors | {"model.layers.1.mlp.more_proj.weight": tensors["model.norm.weight"].clone()}


def of_another_shape(tensors: dict) -> dict:
    return tensors | {"model.norm.weight": tensors["model.norm.weight"][:-1].clone()}


def each(what: str, *says: str, build, but: tuple[str, ...] = ()):
    return [bad(what, argv, "broken", *says, build=build) for name, argv in EVERYWHERE.items() if name not in but]


def one(what: str, *says: str, build, of: str = "generate"):
    return bad(what, EVERYWHERE[of], "broken", *says, build=build)


INDEX = {"metadata": {}, "weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
CHECKPOINTS = [
    *(bad("no such directory", argv.replace("broken", "nowhere/here"), "nowhere/here") for argv in EVERYWHERE.values()),
    *each("no configuration", "config.json", build=broken(without("config.json"))),
    *each("a configuration that is no JSON", "config.json", build=broken(holding("config.json", "{"))),
    *each("no weights", ".safetensors", build=broken(without(WEIGHTS))),
    *each("weights that are cut off", build=broken(cut_off(WEIGHTS))),
    *each("a tensor too few", "up_proj", build=broken(with_tensors(lacking_one))),
    one("a configuration that is a list", "config.json", build=broken(holding("config.json", "[1]"))),
    one("a configuration of bytes", "config.json", build=broken(holding("config.json", b"\xff\xfe\0"))),
    one("an empty configuration", "config.json", build=broken(holding("config.json", "{}"))),
    one(
        "a kind that is none",
        "contains custom code",
        build=broken(with_fields("config.json", model_type="no_such_model")),
    ),
    one("a kind that is a number", "cannot be opened", build=broken(with_fields("config.json", model_type=3))),
    one("another kind", "the weights lack bert", build=broken(with_fields("config.json", model_type="bert")), of="sft"),
    one("no layers", "num_hidden_layers=0", "above 0", build=broken(with_fields("config.json", num_hidden_layers=0))),
    one("words for a size", "hidden_size", "'large'", build=broken(with_fields("config.json", hidden_size="large"))),
    one(
        "a norm that is none", "did you mean 'rms_norm'", build=broken(with_fields("config.json", norm_type="rmsnorm"))
    ),
    one(
        "other sizes than the weights",
        "[400, 32] in the weights and [400, 64]",
        build=broken(with_fields("config.json", hidden_size=64)),
        of="dpo",
    ),
    one(
        "more layers than weights",
        "layers.2",
        build=broken(with_fields("config.json", num_hidden_layers=3)),
        of="evaluate",
    ),
    one(
        "fewer layers than weights", "layers.1", build=broken(with_fields("config.json", num_hidden_layers=1)), of="sft"
    ),
    one(
        "generation settings that are no JSON",
        "generation_config.json",
        build=broken(holding("generation_config.json", "{")),
    ),
    one("weights that are text", build=broken(holding(WEIGHTS, "hello"))),
    one("empty weights", build=broken(holding(WEIGHTS, b""))),
    one("a header that is no JSON", build=broken(holding(WEIGHTS, header(b"nonsense")))),
    one("a header of a petabyte", build=broken(holding(WEIGHTS, (2**50).to_bytes(8, "little") + b"{}"))),
    one(
        "a header that points outside",
        build=broken(
            holding(
                WEIGHTS,
                header(
                    json.dumps(
                        {"model.norm.weight": {"dtype": "F32", "shape": [32], "data_offsets": [0, 10**9]}}
                    ).encode()
                ),
            )
        ),
    ),
    one("a surplus tensor", "more_proj", build=broken(with_tensors(one_too_many))),
    one("a surplus tensor", "more_proj", build=broken(with_tensors(one_too_many)), of="sft"),
    one("a tensor of another shape", "model.norm.weight", build=broken(with_tensors(of_another_shape))),
    one("a tensor of another shape", "model.norm.weight", build=broken(with_tensors(of_another_shape)), of="export"),
    one(
        "a pickle",
        "pickle",
        "save_pretrained",
        build=broken(without(WEIGHTS), holding("pytorch_model.bin", b"\x80\x02")),
    ),
    one(
        "an index that is no JSON", "index.json", build=broken(without(WEIGHTS), holding(f"{WEIGHTS}.index.json", "{"))
    ),
    one(
        "an index without its files",
        "model-00001-of-00002.safetensors",
        build=broken(without(WEIGHTS), holding(f"{WEIGHTS}.index.json", json.dumps(INDEX))),
    ),
    one("an index without a map", "weight_map", build=broken(without(WEIGHTS), holding(f"{WEIGHTS}.index.json", "{}"))),
    one("an adapter of nothing", "adapter", build=broken(holding("adapter_config.json", "{}"))),
    one("a reward model", "ForSequenceClassification", "predicts no tokens", build=broken(of="r")),
    one("a reward model", "ForSequenceClassification", "predicts no tokens", build=broken(of="r"), of="sft"),
    one("a reward model", "ForSequenceClassification", "predicts no tokens", build=broken(of="r"), of="evaluate"),
    one("a reward model", "ForSequenceClassification", build=broken(of="r"), of="serve"),
    one("a reward model", "ForSequenceClassification", "predicts no tokens", build=broken(of="r"), of="convert"),
    one("a reward model", "ForSequenceClassification", "predicts no tokens", build=broken(of="r"), of="pretrain"),
    bad("a file", "generate hello --model x.txt", "x.txt", "cannot be opened", files={"x.txt": "hello"}),
    bad("a name that is none", "generate hello --model 'a b/c d'", "a b/c d", "cannot be opened"),
    bad("a name of nothing", "generate hello --model ''", "''", "name"),
    bad(
        "a base model for a reward",
        "grpo --model {m} --reward_funcs {m} --dataset {prompts} --output_dir out",
        "reward",
        "rhapsode reward",
    ),
    bad(
        "a base model for a reward",
        "ppo --model {m} --reward_model {m} --dataset {prompts} --output_dir out",
        "reward",
        "rhapsode reward",
    ),
    bad(
        "a reward model that is nowhere",
        "rloo --model {m} --reward_funcs nowhere/here --dataset {prompts} --output_dir out",
        "nowhere/here",
        "nor a reward model",
    ),
    bad(
        "a teacher that is nowhere",
        "distill --model {m} --teacher nowhere/here --dataset {chats} --output_dir out",
        "--teacher nowhere/here",
        "cannot be opened",
    ),
    bad(
        "a model to compare that is nowhere",
        f"{EVALUATE} --compare_with nowhere/here",
        "--compare_with nowhere/here",
        "cannot be opened",
    ),
    bad(
        "code that was changed",
        f"{GENERATE} --trust_remote_code",
        "do not run it",
        "README.md",
        build=broken(holding("README.md", f"---\ncode_sha256: {'a' * 64}\n---\n")),
    ),
    bad(
        "a checkpoint that is no directory",
        "pretrain --preset rhapsode-10m-tiny --tokenizer {t} --dataset {d} "
        "--max_steps 1 --max_length 32 --output_dir out --resume --seed 1",
        "--resume with",
        "the run in out has",
        "start a new run",
        files={
            "out/config_resolved.yaml": "# rhapsode pretrain --config config_resolved.yaml\n"
            "preset: rhapsode-10m-tiny\nmax_steps: 1\nmax_length: 32\n"
        },
    ),
]
