"""New tokens: rows at the mean, the old ones untouched; and a base tokenizer that learns our chat format."""

import copy
import json

import pytest
import torch
from rhapsode.modeling import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.tokenization import check_fits, encode_conversation, encode_texts, token_ids
from rhapsode.tokenization.growing import add_chat_tokens, add_tokens
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import GPT2Tokenizer

ROUNDING = 1e-6  # float32 means of some hundred numbers below 0.1


def tiny_model(vocab_size: int, **overrides) -> RhapsodeForCausalLM:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return RhapsodeForCausalLM(RhapsodeConfig(vocab_size=vocab_size, **sizes, **overrides)).eval()


@pytest.fixture
def gpt2(texts):
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre
    options = {"initial_alphabet": pre.alphabet(), "special_tokens": ["<|endoftext|>"], "show_progress": False}
    learner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, **options))
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    return GPT2Tokenizer(vocab=learner.get_vocab(), merges=merges)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_new_rows_are_the_mean_of_the_old(bpe, seed, tied, bias):
    tokenizer = copy.deepcopy(bpe)
    model = tiny_model(len(tokenizer), tie_word_embeddings=tied, lm_head_bias=bias)
    old = len(tokenizer)
    if bias:
        torch.nn.init.normal_(model.lm_head.bias)
    ids = torch.tensor([[1, 20, 30]])
    logits, embedding = model(ids).logits, model.get_input_embeddings().weight.clone()
    assert add_tokens(tokenizer, model, ["<|think|>", "<|/think|>", "<|user|>"]) == 2
    assert len(tokenizer) == old + 2 == model.config.vocab_size == model.get_input_embeddings().num_embeddings
    grown = model.get_input_embeddings().weight
    assert torch.equal(grown[:old], embedding)
    torch.testing.assert_close(grown[old:], embedding.mean(0).expand(2, -1), atol=ROUNDING, rtol=0)
    after = model(ids).logits
    assert torch.equal(after[..., :old], logits)
    torch.testing.assert_close(after[..., old:], logits.mean(-1, keepdim=True).expand(-1, -1, 2), atol=1e-5, rtol=1e-5)
    assert (model.get_output_embeddings().weight is grown) == tied
    check_fits(tokenizer, model.config)


def test_no_model_shrinks(bpe):
    model = tiny_model(len(bpe) + 64)
    add_tokens(copy.deepcopy(bpe), model, ["<|new|>"])
    assert model.config.vocab_size == len(bpe) + 64


def test_gpt2_learns_our_chat_format(gpt2, texts):
    before = encode_texts(gpt2, texts)
    model = tiny_model(len(gpt2))
    assert add_chat_tokens(gpt2, model) == 7
    assert add_chat_tokens(gpt2, model) == 0
    assert encode_texts(gpt2, texts) == before
    assert gpt2.pad_token_id != gpt2.eos_token_id
    for name, value in token_ids(gpt2).items():
        assert getattr(model.config, name) == getattr(model.generation_config, name) == value
    said = [{"role": "user", "content": "<|endoftext|> <|assistant|>"}, {"role": "assistant", "content": "<|user|>"}]
    ids, mask = encode_conversation(gpt2, said).values()
    assert gpt2.decode(ids) == "<|endoftext|><|user|><|endoftext|> <|assistant|><|assistant|><|user|><|endoftext|>"
    user, assistant = gpt2.convert_tokens_to_ids(["<|user|>", "<|assistant|>"])
    assert (ids.count(gpt2.eos_token_id), ids.count(user), ids.count(assistant)) == (2, 1, 1)  # BOS and EOS are one
    assert gpt2.decode([i for i, m in zip(ids, mask, strict=True) if m]) == "<|user|><|endoftext|>"
    check_fits(gpt2, model.config)


def test_a_vocabulary_beyond_the_models_is_refused(bpe):
    with pytest.raises(ValueError, match=rf"ids up to {len(bpe) - 1} and the model has vocab_size={len(bpe) - 1}"):
        check_fits(bpe, RhapsodeConfig(vocab_size=len(bpe) - 1))
    check_fits(bpe, RhapsodeConfig(vocab_size=len(bpe)))


def test_different_stop_tokens_are_refused(bpe):
    with pytest.raises(ValueError, match="eos_token_id=2 and the model stops at eos_token_id=5"):
        check_fits(bpe, RhapsodeConfig(vocab_size=len(bpe), eos_token_id=5))
    check_fits(bpe, RhapsodeConfig(vocab_size=len(bpe), eos_token_id=[5, 2]))
