"""Which parameters are matrices of blocks, by hand, for our designs, other families and models without blocks."""

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.options.base import UserError
from rhapsode.recipes.training.parameters import block_matrices, blocks, head_weight, matching
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1}
SMALL |= {"vocab_size": 50, "intermediate_size": 48}


class Recurrent(nn.Module):
    """A language model that is none of transformers': no list of blocks, and a head under a name of its own."""

    def __init__(self, tied: bool):
        super().__init__()
        self.table, self.lstm, self.head = nn.Embedding(50, 8), nn.LSTM(8, 8, num_layers=2), nn.Linear(8, 50)
        if tied:
            self.head.weight = self.table.weight

    def get_output_embeddings(self):
        return self.head


@pytest.mark.parametrize("tied", [True, False])
def test_recurrent_weights_are_matrices(tied):
    model = Recurrent(tied)
    expected = {f"lstm.weight_{kind}_l{layer}" for kind in ("ih", "hh") for layer in (0, 1)}
    assert set(block_matrices(model)) == expected
    assert head_weight(model) is model.head.weight
    assert blocks(model) == {}
    assert set(block_matrices(nn.Sequential(nn.Linear(3, 3)))) == {"0.weight"}  # no head at all
    assert head_weight(nn.Linear(3, 3)) is None


@pytest.mark.parametrize("preset", ["rhapsode-10m-tiny", "gpt2-tiny", "llama2-7b-tiny", "falcon-7b-tiny"])
def test_our_designs(preset):
    model = RhapsodeForCausalLM(RhapsodeConfig.from_preset(preset))
    names = {n for n, _ in model.named_parameters() if ".layers." in n and n.endswith("_proj.weight")}
    assert set(block_matrices(model)) == names
    assert list(blocks(model)) == [f"model.layers.{i}" for i in range(model.config.num_hidden_layers)]
    model.requires_grad_(False)
    assert set(block_matrices(model)) == names  # frozen matrices multiply too


def test_other_families():
    llama = LlamaForCausalLM(LlamaConfig(**SMALL))
    assert list(blocks(llama)) == ["model.layers.0", "model.layers.1", "model.layers.2"]
    assert len(block_matrices(llama)) == 3 * 7
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=50))
    assert list(blocks(gpt2)) == ["transformer.h.0", "transformer.h.1"]
    assert len(block_matrices(gpt2)) == 2 * 4
    mixtral = MixtralForCausalLM(MixtralConfig(**SMALL, num_local_experts=4))
    assert len(blocks(mixtral)) == 3
    stacked = {n for n, p in block_matrices(mixtral).items() if p.dim() == 3}
    assert len(stacked) == 3 * 2  # the experts' matrices decay; Muon, which takes one matrix, does not get them


def test_a_pattern_fits_every_name_of_a_tied_weight():
    model = RhapsodeForCausalLM(RhapsodeConfig.from_preset("rhapsode-10m-tiny"))
    table = {id(model.model.embed_tokens.weight)}
    assert matching(model, "lm_head.*", "freeze") == matching(model, "*.embed_tokens.*", "freeze") == table
    assert len(matching(model, "model.layers.[01].self_attn.q_proj.weight", "freeze")) == 2


def test_a_pattern_that_fits_nothing_names_the_nearest():
    model = RhapsodeForCausalLM(RhapsodeConfig.from_preset("rhapsode-10m-tiny"))
    with pytest.raises(UserError, match=r"--freeze 'model.embed_token.weight' .* model\.embed_tokens\.weight$"):
        matching(model, "model.embed_token.weight", "freeze")
    with pytest.raises(UserError, match="fits no parameter"):
        matching(model, "zzz", "freeze")


def test_shapes_are_whole_shapes():
    with torch.device("meta"):
        model = RhapsodeForCausalLM(RhapsodeConfig.from_preset("llama2-7b"))
    assert sum(p.numel() for p in block_matrices(model).values()) == 32 * (4 * 4096**2 + 3 * 4096 * 11008)
