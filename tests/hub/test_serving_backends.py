"""How vLLM and SGLang drive a model through their Transformers backends, imitated on a CPU.

They build the backbone by AutoModel.from_config with its parameters on the meta device, put their own linear layers,
norms and embedding into it, look at its plans, and run it on all sequences of a batch laid end to end as one row,
without a mask: attention is a function of theirs, found by its name, which returns (tokens, heads x C) and keeps the
keys and values. Of a pipeline each process holds some layers, with something that hands its input on for the others.
"""

import sys
import tomllib
import types
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM, presets
from rhapsode.hub import vllm_plugin
from torch import nn
from transformers import AutoModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ROOT = Path(__file__).parent.parent.parent
TINY = [name for name in presets() if name.endswith("-tiny")]
SAME = 2e-5  # float32, in units of the largest entry: the engine's attention adds in another order
STYLES = {"colwise", "colwise_rep", "rowwise", "rowwise_rep", "replicated_with_grad_allreduce"}  # SGLang refuses others
PROMPTS, STEPS = (9, 1, 70), 3  # lengths of the prompts; tokens that follow each


class EngineLinear(nn.Module):
    """In the place of a linear layer: the same product on (tokens, D), a tensor and not a tuple."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x):
        return nn.functional.linear(x.reshape(-1, x.shape[-1]), self.weight, self.bias).view(*x.shape[:-1], -1)


class EngineRMSNorm(nn.Module):
    """In the place of every class whose name ends so: it knows a vector of weights, and an eps."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        assert norm.weight is None or norm.weight.dim() == 1
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, x):
        y = nn.functional.rms_norm(x, x.shape[-1:], eps=self.eps)
        return y if self.weight is None else y * self.weight


class EngineEmbedding(nn.Module):
    def __init__(self, config, scale: float | None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size, device="meta"))
        self.scale = scale

    def forward(self, ids):
        return self.weight[ids] * (1 if self.scale is None else self.scale)


class Missing(nn.Identity):
    """In the place of a module that another process of a pipeline holds."""

    def forward(self, *args, **kwargs):
        return args[0] if args else next(iter(kwargs.values()))


class EngineAttention:
    """Of one layer: keeps keys and values of each sequence; `batch` says how many of the tokens belong to which."""

    def __init__(self):
        self.batch, self.cache = [], {}

    def __call__(self, q, k, v, scaling: float, window: int | None):
        out, begin = [], 0
        for sequence, count in self.batch:
            part = slice(begin, begin + count)
            begin += count
            old = self.cache.get(sequence, (k[:0], v[:0]))
            keys, values = torch.cat((old[0], k[part])), torch.cat((old[1], v[part]))  # (S, K, C)
            self.cache[sequence] = keys, values
            repeat = q.shape[1] // k.shape[1]
            keys, values = keys.repeat_interleave(repeat, 1), values.repeat_interleave(repeat, 1)
            scores = torch.einsum("thc,shc->hts", q[part], keys) * scaling
            S, T = len(keys), count
            ahead = torch.arange(S)[None] - (torch.arange(T)[:, None] + S - T)  # positions from query to key
            hidden = (ahead > 0) if window is None else (ahead > 0) | (ahead <= -window)
            weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
            out.append(torch.einsum("hts,shc->thc", weights, values))
        assert begin == len(q)
        return torch.cat(out).flatten(1)  # (tokens, H C)


def engine_attention(module, query, key, value, attention_mask, scaling=None, attention_instances=None, **kwargs):
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # (tokens, heads, C)
    return attention_instances[module.layer_idx](q, k, v, scaling, kwargs.get("sliding_window")), None


@contextmanager
def parameters_on_meta():
    """Buffers stay where they are computed, as in vLLM and SGLang."""
    register = nn.Module.register_parameter

    def on_meta(module, name, parameter):
        register(module, name, parameter)
        if parameter is not None:
            module._parameters[name] = nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    nn.Module.register_parameter = on_meta
    try:
        yield
    finally:
        nn.Module.register_parameter = register


class Stage:
    """One process of the engine: the backbone with the layers from `first` to `last`."""

    def __init__(self, config, state: dict, first: int, last: int):
        self.is_first, self.is_last = first == 0, last == config.num_hidden_layers
        with torch.device("meta"):
            AutoModel.from_config(config)  # where torch.compile looks for the class
        with parameters_on_meta():
            self.model = AutoModel.from_config(config).eval()
        assert self.model.supports_pp_plan
        self.leave_out(first, last)
        self.replace(self.model)
        if self.is_first:
            scale = getattr(self.model.get_input_embeddings(), "embed_scale", None)
            self.model.set_input_embeddings(EngineEmbedding(config, scale))
        wanted = {f"model.{name}" for name, _ in self.model.named_parameters()}
        for name in wanted:
            *path, leaf = name.removeprefix("model.").split(".")
            setattr(self.model.get_submodule(".".join(path)), leaf, nn.Parameter(state[name].clone()))
        self.attention = {i: EngineAttention() for i in range(first, last)}

    def leave_out(self, first: int, last: int) -> None:
        names = list(self.model._pp_plan)
        at = names.index("layers")
        assert isinstance(self.model.layers, nn.ModuleList)
        for name in names[:at] if not self.is_first else []:
            setattr(self.model, name, Missing())
        for i in range(len(self.model.layers)):
            if not first <= i < last:
                self.model.layers[i] = Missing()
        for name in names[at + 1 :] if not self.is_last else []:
            setattr(self.model, name, Missing())

    def replace(self, module: nn.Module) -> None:
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, EngineLinear(child))
            elif type(child).__name__.endswith("RMSNorm"):
                setattr(module, name, EngineRMSNorm(child))
            else:
                self.replace(child)

    @torch.no_grad()
    def run(self, inputs: torch.Tensor, positions: torch.Tensor, batch: list[tuple[int, int]]) -> torch.Tensor:
        """Ids (tokens) or hidden states (tokens, D) -> hidden states (tokens, D)."""
        for instance in self.attention.values():
            instance.batch = batch
        name = "input_ids" if self.is_first else "inputs_embeds"
        given = {name: inputs[None], "position_ids": positions[None], "attention_instances": self.attention}
        return self.model(**given, use_cache=False, return_dict=False)[0][0]


@pytest.fixture(autouse=True)
def attention():
    ALL_ATTENTION_FUNCTIONS["engine"] = engine_attention
    yield
    ALL_ATTENTION_FUNCTIONS.pop("engine")


def compare(model: RhapsodeForCausalLM, stages: list[tuple[int, int]], tools) -> None:
    """Prefill of all prompts at once, then some tokens for each, against each sequence alone in the whole model."""
    config = RhapsodeConfig(**{**model.config.to_dict(), "attn_implementation": "engine"})
    config._attn_implementation = "engine"
    state = model.state_dict()
    chain = [Stage(config, state, *stage) for stage in stages]
    texts = [torch.randint(3, config.vocab_size, (length + STEPS,)) for length in PROMPTS]
    with torch.no_grad():
        wanted = [model(input_ids=text[None]).logits[0] for text in texts]
    for step in range(STEPS + 1):
        parts = [range(length) if step == 0 else range(length + step - 1, length + step) for length in PROMPTS]
        x = torch.cat([text[list(part)] for text, part in zip(texts, parts, strict=True)])
        positions = torch.cat([torch.tensor(list(part)) for part in parts])
        for stage in chain:
            x = stage.run(x, positions, [(i, len(part)) for i, part in enumerate(parts)])
        with torch.no_grad():
            found = model.scale_logits(model.lm_head(x)).split([len(part) for part in parts])
        for logits, part, whole in zip(found, parts, wanted, strict=True):
            assert tools.relative_difference(logits, whole[list(part)]) < SAME


def build(tools, name: str, **overrides) -> RhapsodeForCausalLM:
    return tools.randomise(RhapsodeForCausalLM(RhapsodeConfig.from_preset(name, **overrides))).eval()


@pytest.mark.parametrize("name", TINY)
def test_an_engine_computes_the_logits_of_the_model(name, tools, seed):
    model = build(tools, name)
    compare(model, [(0, model.config.num_hidden_layers)], tools)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("rhapsode-10m-tiny", {"num_hidden_layers": 3}),
        ("gpt2-tiny", {"num_hidden_layers": 3}),
        ("rhapsode-10m-tiny", {"num_hidden_layers": 3, "embedding_norm": True, "embedding_multiplier": 4.0}),
        ("llama2-7b-tiny", {"num_hidden_layers": 3, "sliding_window": 5}),
    ],
)
def test_a_pipeline_of_engines(name, overrides, tools, seed):
    compare(build(tools, name, **overrides), [(0, 1), (1, 3)], tools)


@pytest.mark.parametrize("name", TINY)
def test_plans_and_flags_that_engines_read(name):
    config = RhapsodeConfig.from_preset(name)
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    assert model.is_backend_compatible() and model._supports_attention_backend
    assert list(model._pp_plan) == ["embed_tokens", "layers", "norm"]
    modules = [module for module, _ in model.named_modules()]
    assert config.base_model_tp_plan
    for pattern, style in config.base_model_tp_plan.items():
        assert pattern.replace("*", "0") in modules
        assert style in STYLES
    assert getattr(config, "layer_types", True) is not None  # vLLM indexes it if it is there
    attention = [module for module in model.modules() if hasattr(module, "is_causal")]
    assert [module.layer_idx for module in attention] == list(range(config.num_hidden_layers))
    assert all(module.is_causal for module in attention)
    # An engine sizes its cache by these.
    for field in ("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size", "vocab_size"):
        assert isinstance(getattr(config.get_text_config(), field), int)


class Registry:
    models: dict

    def __init__(self):
        self.models = {}

    def get_supported_archs(self):
        return self.models.keys()

    def register_model(self, name, path):
        assert name not in self.models
        self.models[name] = path


def test_vllm_finds_the_plugin(monkeypatch):
    """By the entry point of the package; vLLM itself calls it in each of its processes, and maybe twice in one."""
    group = "vllm.general_plugins"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ((name, value),) = project["entry-points"][group].items()
    assert EntryPoint(name, value, group).load() is vllm_plugin.register
    registry = Registry()
    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(ModelRegistry=registry))
    vllm_plugin.register()
    vllm_plugin.register()
    assert registry.models == {"RhapsodeForCausalLM": "vllm.model_executor.models.transformers:TransformersForCausalLM"}
