"""GGUF files: read back by transformers' own reader, and run by llama.cpp where llama-cpp-python is installed."""

import contextlib
import copy

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM, RhapsodeForSequenceClassification
from rhapsode.tokenization.training import train_tokenizer
from transformers import AutoModelForCausalLM

gguf = pytest.importorskip("gguf")
from rhapsode.hub.families import family_named  # noqa: E402
from rhapsode.hub.family import to_family  # noqa: E402
from rhapsode.hub.gguf import ARCHITECTURES, neighbouring_pairs, save_gguf  # noqa: E402
from rhapsode.hub.gguf_vocabulary import PRE_TOKENIZERS, as_llama_cpp, nearest_pre_tokenizer  # noqa: E402

LENGTH = 80  # beyond 64, below which mistakes in rotary layouts hide
SAME_ORDER = 3e-6  # float32, sums in another order, of the largest logit
GELU_TABLE = 5e-3  # llama.cpp looks GELU up in a table of half precision
TEXTS = [
    "def read(path, limit=1024):\n    # It's 'strict' here; we'll see 12345 rows\n    return path[:limit]\n\n\n" * 20,
    "The quick brown fox doesn't jump over 1,234,567 lazy dogs -- isn't that so?\n" * 20,
]
SIZES = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 256}
GROUPED, MULTI_HEAD = {"num_key_value_heads": 2}, {"num_key_value_heads": 4}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
DESIGNS = {  # name: family, preset, what differs
    "llama": ("llama", "llama2-7b", GROUPED | {"intermediate_size": 96, "head_dim": 32}),
    "llama-biases": ("llama", "llama2-7b", GROUPED | {"attention_bias": True, "mlp_bias": True, "head_dim": 16}),
    "llama-llama3": (
        "llama",
        "llama2-7b",
        GROUPED | {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 64}, "head_dim": 16},
    ),
    "llama-linear": (
        "llama",
        "llama2-7b",
        GROUPED | {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e4, "factor": 4.0}, "head_dim": 16},
    ),
    "qwen3": ("qwen3", "rhapsode-10m", GROUPED | {"head_dim": 32}),
    "qwen2": ("qwen2", "llama2-7b", GROUPED | {"attention_bias": True, "attention_out_bias": False, "head_dim": 16}),
    "olmo": ("olmo", "olmo-7b", MULTI_HEAD | {"head_dim": 16, "clip_qkv": 1.0}),
    "olmo2": ("olmo2", "llama2-7b", GROUPED | {"norm_order": "output", "qk_norm": "full", "head_dim": 16}),
    "olmo2-tied": (
        "olmo2",
        "llama2-7b",
        GROUPED | {"norm_order": "output", "qk_norm": "full", "head_dim": 16, "tie_word_embeddings": True},
    ),
    "stablelm": ("stablelm", "openlm-7b", MULTI_HEAD | {"head_dim": 16}),
    "falcon": ("falcon", "falcon-7b", {"num_key_value_heads": 1, "head_dim": 16}),
    "gpt2": ("gpt2", "gpt2", MULTI_HEAD | {"head_dim": 16}),
}
READ_BY_TRANSFORMERS = ("llama", "llama-biases", "qwen3", "qwen2", "stablelm", "falcon", "gpt2")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=420, show_progress=False)


def build(name: str, tokenizer, tools, **overrides) -> RhapsodeForCausalLM:
    """A model of the design with random weights; its vocabulary is a little larger than the tokenizer's."""
    _, preset, fields = DESIGNS[name]
    fields = {"intermediate_size": 256} | SIZES | fields | {"vocab_size": len(tokenizer) + 3} | overrides
    ends = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    return tools.randomise(RhapsodeForCausalLM(RhapsodeConfig.from_preset(preset, **fields, **ends))).eval()


@torch.no_grad()
def logits(model, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids).logits[0]


def test_every_architecture_has_a_design():
    assert {family for family, _, _ in DESIGNS.values()} == set(ARCHITECTURES)


def test_neighbouring_pairs():
    """By the definition: row n + h C/2 of a head becomes row 2n + h."""
    tensor, C = torch.randn(3 * 8, 5), 8
    moved = neighbouring_pairs(tensor, C)
    for head in range(3):
        for n in range(C // 2):
            for half in range(2):
                assert torch.equal(moved[head * C + 2 * n + half], tensor[head * C + n + half * C // 2])


@pytest.mark.parametrize("name", READ_BY_TRANSFORMERS)
def test_transformers_reads_the_file_with_the_same_logits(name, tokenizer, tools, tmp_path, seed):
    model = build(name, tokenizer, tools)
    assert save_gguf(model, tmp_path / "model.gguf", tokenizer, TEXTS)["family"] == DESIGNS[name][0]
    theirs = to_family(family_named(DESIGNS[name][0]), model.config)  # from the file it reads a part of it
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", config=theirs, dtype="float32"
    ).eval()
    ids = torch.randint(0, len(tokenizer), (1, LENGTH))
    assert tools.relative_difference(logits(again.eval(), ids), logits(model, ids)) < SAME_ORDER


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_in_the_file(dtype, tokenizer, tools, tmp_path, seed):
    """Matrices bit for bit in the model's format, vectors in float32; the vocabulary id by id."""
    model = build("qwen3", tokenizer, tools).to(dtype)
    save_gguf(model, tmp_path / "model.gguf", tokenizer, TEXTS)
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    kind = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}[dtype]
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert "output.weight" not in found  # tied
    for ours, theirs in (
        ("mlp.up_proj", "ffn_up"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.q_proj", "attn_q"),
    ):
        wanted, got = model.get_parameter(f"model.layers.1.{ours}.weight"), found[f"blk.1.{theirs}.weight"]
        assert got.tensor_type.name == (kind if wanted.dim() > 1 else "F32")
        wanted = wanted.detach() if wanted.dim() > 1 else wanted.detach().float()
        assert wanted.view(torch.uint8).flatten().tolist() == got.data.view("uint8").flatten().tolist()
    values = {name: field.contents() for name, field in reader.fields.items()}
    assert values["general.architecture"] == "qwen3"
    spelled = {token: index for index, token in enumerate(values["tokenizer.ggml.tokens"])}
    assert {token: spelled[token] for token in tokenizer.get_vocab()} == tokenizer.get_vocab()
    assert len(spelled) == model.config.vocab_size
    assert values["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id != values["tokenizer.ggml.padding_token_id"]
    assert values["tokenizer.ggml.add_bos_token"] is True
    assert "generation -" not in values["tokenizer.chat_template"].replace("add_generation", "")


def test_a_tokenizer_that_llama_cpp_knows_is_the_same(tokenizer):
    """Each of the candidates is found again from its own tokens, and ours is told to be none of them."""
    for name in PRE_TOKENIZERS:
        known = train_tokenizer(TEXTS, vocab_size=420, show_progress=False)
        known.backend_tokenizer.pre_tokenizer = as_llama_cpp(tokenizer.backend_tokenizer, name).pre_tokenizer
        chosen, share = nearest_pre_tokenizer(known, TEXTS)
        assert share == 1
        if chosen != name:  # no text here on which the two differ
            a, b = (as_llama_cpp(tokenizer.backend_tokenizer, n) for n in (chosen, name))
            assert all(a.encode(text).ids == b.encode(text).ids for text in TEXTS)
    assert 0.5 < nearest_pre_tokenizer(tokenizer, TEXTS)[1] < 1


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("qwen3", {"norm_order": "sandwich"}, "norm_order='sandwich', where the family has 'pre'"),
        ("qwen3", {"sliding_window": 9}, "sliding_window=9, where it has none"),
        ("qwen3", {"attention_bias": True}, "attention_bias=True, where it has False"),
        ("qwen3", {"hidden_act": "relu"}, "hidden_act='relu', where it has 'silu'"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "rope_type='dynamic', where default, linear and llama3 are written",
        ),
    ],
)
def test_what_llama_cpp_does_not_have_is_named_and_nothing_is_written(
    name, overrides, expected, tokenizer, tools, tmp_path
):
    model = build(name, tokenizer, tools, **overrides)
    with pytest.raises(ValueError) as error:
        save_gguf(model, tmp_path / "model.gguf", tokenizer, TEXTS, DESIGNS[name][0])
    assert expected in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"none of llama\.cpp's"):
        save_gguf(build(name, tokenizer, tools, norm_order="post"), tmp_path / "model.gguf", tokenizer, TEXTS)
    assert not list(tmp_path.iterdir())


def test_other_refusals(tokenizer, tools, tmp_path):
    model = build("qwen3", tokenizer, tools)
    pieces = train_tokenizer(TEXTS, "unigram", vocab_size=420, show_progress=False)
    for arguments, expected in (
        ((model, tmp_path / "m.gguf", tokenizer, TEXTS, "gemma"), r"convert_hf_to_gguf\.py"),
        ((model, tmp_path / "m.gguf", pieces, TEXTS), "kind Unigram"),
        ((model, tmp_path / "m.gguf", tokenizer, []), "no text"),
        ((copy.deepcopy(model).double(), tmp_path / "m.gguf", tokenizer, TEXTS), "float64"),
    ):
        with pytest.raises(ValueError, match=expected):
            save_gguf(*arguments)
    classifier = RhapsodeForSequenceClassification(RhapsodeConfig.from_preset("rhapsode-10m-tiny"))
    with pytest.raises(ValueError, match="RhapsodeForCausalLM"):
        save_gguf(classifier, tmp_path / "m.gguf", tokenizer, TEXTS)
    assert not list(tmp_path.iterdir())


# llama.cpp itself


@contextlib.contextmanager
def llama_cpp(path):
    """The file in llama.cpp, with keys and values cached in float32 (its default is float16)."""
    library = pytest.importorskip("llama_cpp")
    float32 = library.GGML_TYPE_F32
    model = library.Llama(
        str(path), n_ctx=128, n_threads=1, logits_all=True, type_k=float32, type_v=float32, verbose=False
    )
    try:
        yield model
    finally:
        model.close()


@pytest.mark.slow  # llama-cpp-python is compiled when it is installed
@pytest.mark.parametrize("name", DESIGNS)
def test_llama_cpp_computes_the_same(name, tokenizer, tools, tmp_path, seed):
    model = build(name, tokenizer, tools)
    save_gguf(model, tmp_path / "model.gguf", tokenizer, TEXTS, DESIGNS[name][0])
    ids = torch.randint(16, len(tokenizer), (1, LENGTH))
    tolerance = GELU_TABLE if model.config.hidden_act.startswith("gelu") else SAME_ORDER
    with llama_cpp(tmp_path / "model.gguf") as theirs:
        theirs.eval(ids[0].tolist())
        wanted = logits(model, ids)
        assert tools.relative_difference(torch.from_numpy(theirs.scores[:LENGTH].copy()), wanted) < tolerance
        prompt = ids[:, :10]
        settings = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "output_logits": True}
        ours = model.generate(prompt, return_dict_in_generate=True, **settings)
        theirs.reset()
        greedy = theirs.generate(prompt[0].tolist(), temp=0.0, top_k=1)
        for step, wanted in enumerate(ours.sequences[0, 10:].tolist()):
            best = ours.logits[step][0].topk(2).values
            if best[0] - best[1] < 3 * tolerance * ours.logits[step].abs().max():
                return  # nearly level: either may be first, and from there on the texts are different ones
            assert next(greedy) == wanted, step


@pytest.mark.slow
def test_llama_cpp_reads_the_vocabulary(tokenizer, tools, tmp_path):
    """Its tokens are those that we expected of it, special tokens and BOS are ours, a chat is rendered alike."""
    chosen = save_gguf(build("qwen3", tokenizer, tools), tmp_path / "model.gguf", tokenizer, TEXTS)["pre_tokenizer"]
    expected = as_llama_cpp(tokenizer.backend_tokenizer, chosen)
    chat = [{"role": "user", "content": "read path"}]
    with llama_cpp(tmp_path / "model.gguf") as theirs:
        for text in TEXTS:
            found = theirs.tokenize(text.encode(), add_bos=False, special=True)
            assert found == expected.encode(text, add_special_tokens=False).ids
            assert theirs.detokenize(found).decode() == text
        assert theirs.tokenize(b"a<|eos|>b", special=True) == tokenizer("a<|eos|>b").input_ids
        used = theirs.create_chat_completion(chat, max_tokens=1, temperature=0.0)["usage"]["prompt_tokens"]
        assert used == len(tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"])
        assert theirs.token_eos() == tokenizer.eos_token_id
        assert theirs.n_vocab() == len(tokenizer) + 3
