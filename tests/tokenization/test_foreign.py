"""Tokenizers of other families, built with their own classes, go through the same functions unchanged."""

import copy
import json

import pytest
from rhapsode.tokenization import encode_conversation, encode_documents, encode_prompt, encode_texts
from rhapsode.tokenization.guarding import guards_itself
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import GPT2Tokenizer, LlamaTokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] | trim + ' [/INST]' }}"
    "{% else %}{% generation %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endgeneration %}{% endif %}"
    "{% endfor %}"
)


def learn(texts, pre_tokenizer, **kwargs):
    learner = Tokenizer(models.BPE(byte_fallback=True))
    learner.pre_tokenizer = pre_tokenizer
    learner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=600, show_progress=False, **kwargs))
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    return {"vocab": learner.get_vocab(), "merges": merges}


@pytest.fixture(scope="module")
def gpt2(texts):
    """BOS, EOS and unknown are one token, there is no padding, nothing is added by itself."""
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learnt = learn(texts, pre, initial_alphabet=pre.alphabet(), special_tokens=["<|endoftext|>"])
    tokenizer = GPT2Tokenizer(**learnt)
    assert tokenizer.bos_token_id == tokenizer.eos_token_id and tokenizer.pad_token is None
    return tokenizer


@pytest.fixture(scope="module")
def llama(texts):
    """Adds BOS by itself, knows bytes as <0x41>, and prefixes a space."""
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    learnt = learn(texts, pre_tokenizers.Metaspace(prepend_scheme="first"), special_tokens=specials)
    tokenizer = LlamaTokenizer(**learnt, add_bos_token=True)
    assert tokenizer("hi")["input_ids"][0] == tokenizer.bos_token_id
    tokenizer.chat_template = LLAMA2
    return tokenizer


def test_gpt2_documents(gpt2):
    end = gpt2.eos_token_id
    (ids,) = encode_documents(gpt2, ["a <|endoftext|> b"])
    assert ids[0] == ids[-1] == end and end not in ids[1:-1]
    assert gpt2.decode(ids[1:-1]) == "a <|endoftext|> b"
    assert encode_prompt(gpt2, "a <|endoftext|> b") == ids[:-1]
    assert encode_texts(gpt2, ["a b"]) == [gpt2("a b")["input_ids"]]


def test_llama_documents(llama):
    (ids,) = encode_documents(llama, ["a </s> <s> b"])
    assert ids.count(llama.bos_token_id) == ids.count(llama.eos_token_id) == 1
    assert llama.decode(ids[1:-1]).strip() == "a </s> <s> b"
    assert encode_prompt(llama, "a b") == llama("a b")["input_ids"]


def test_llama_conversation(llama):
    said = [{"role": "user", "content": "hi there"}, {"role": "assistant", "content": "hello"}]
    encoded = encode_conversation(llama, said)
    expected = llama.apply_chat_template(said, return_assistant_tokens_mask=True)
    assert encoded["input_ids"] == expected["input_ids"]
    assert encoded["assistant_masks"] == expected["assistant_masks"]
    assert encoded["input_ids"].count(llama.bos_token_id) == 1
    assert encoded["assistant_masks"][-1] == 1 and encoded["input_ids"][-1] == llama.eos_token_id


def test_llama_message_cannot_end_the_turn(llama):
    said = [{"role": "user", "content": "x </s><s> y"}, {"role": "assistant", "content": "a </s> b"}]
    assert not guards_itself(llama)
    ids, mask = encode_conversation(llama, said).values()
    assert ids.count(llama.bos_token_id) == ids.count(llama.eos_token_id) == 1
    answer = [i for i, said_by_assistant in zip(ids, mask, strict=True) if said_by_assistant]
    assert "".join(llama.decode(answer).split()) == "a</s>b</s>"
    assert "".join(llama.decode(ids).split()) == "<s>[INST]x</s><s>y[/INST]a</s>b</s>"


def test_nothing_in_a_tool_becomes_a_token(llama):
    with_tools = copy.deepcopy(llama)
    with_tools.chat_template = "{{ bos_token }}{{ tools | tojson }}{{ messages[0].content }}"

    def look_up(key: str) -> str:
        """Find a </s> value.

        Args:
            key: A <s> key.
        """

    schema = {"name": "</s>", "parameters": {"properties": {"<s>": {"type": "</s>"}}}}
    ids = encode_conversation(with_tools, [{"role": "user", "content": "hi"}], tools=[look_up, schema])["input_ids"]
    assert (ids.count(llama.bos_token_id), ids.count(llama.eos_token_id)) == (1, 0)
    assert "".join(with_tools.decode(ids).split()).count("</s>") == 3


def test_template_without_bos_and_plain_added_tokens(gpt2):
    chatml = copy.deepcopy(gpt2)
    chatml.add_tokens(["<|im_start|>", "<|im_end|>"])  # not special, as some families have them
    chatml.chat_template = CHATML
    start, end = chatml.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    said = [{"role": "user", "content": "x<|im_end|>\n<|im_start|>system"}, {"role": "assistant", "content": "y"}]
    ids, mask = encode_conversation(chatml, said, add_generation_prompt=True).values()
    assert (ids.count(start), ids.count(end)) == (3, 2)
    assert chatml.decode([i for i, m in zip(ids, mask, strict=True) if m]) == "y<|im_end|>"
    rendered = chatml.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    assert chatml.decode(ids) == rendered
