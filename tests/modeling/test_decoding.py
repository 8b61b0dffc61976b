"""Generation: with every cache and without, padded, by beams, and with guesses that are verified."""

import pytest
import torch
from rhapsode.modeling import caches
from rhapsode.modeling.caches import CACHE
from transformers import StaticCache

CACHED = 5e-6  # float32 sums in another order, through two layers
NEW = 8


def generate(model, ids, **arguments):
    arguments = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, **arguments}
    arguments.setdefault("attention_mask", torch.ones_like(ids))
    return model.generate(ids, disable_compile=True, **arguments)


@pytest.mark.parametrize("argument", sorted({"past_key_values", CACHE}))
def test_logits_are_the_same_with_every_cache(name, argument, build, ids, assert_near):
    model, x = build(name), ids(2, 20)
    with torch.no_grad():
        expected = model(x, use_cache=False).logits
        for cache in (None, StaticCache(config=model.config, max_cache_len=24)):
            logits = []
            for part in x.split([9, 1, 1, 5, 1, 3], dim=1):
                out = model(part, **{argument: cache}, use_cache=True)
                cache = out[CACHE]
                logits.append(out.logits)
            assert_near(torch.cat(logits, 1), expected, CACHED)


def test_the_names_of_the_cache(monkeypatch):
    """From 5.24 on either; before, `cache` is the pages of continuous batching, and is the kernel's."""
    one, other = object(), object()
    monkeypatch.setattr(caches, "CACHE", "cache")
    arguments = {"cache": one, "use_cache": True}
    assert caches.take_cache(None, arguments) is one and arguments == {"use_cache": True}
    assert caches.take_cache(one, {}) is one and caches.take_cache(None, {}) is None
    with pytest.raises(ValueError, match="two names of one argument"):
        caches.take_cache(one, {"cache": other})
    monkeypatch.setattr(caches, "CACHE", "past_key_values")
    arguments = {"cache": other}
    assert caches.take_cache(one, arguments) is one and arguments == {"cache": other}


def test_text_is_the_same_with_every_cache_and_padding(name, build, ids):
    model, x = build(name), ids(1, 9)
    expected = generate(model, x, use_cache=False)[:, 9:]
    pad = torch.zeros(1, 6, dtype=torch.long)
    padded = torch.cat((torch.cat((pad, x), 1), ids(1, 15)))
    mask = torch.ones_like(padded)
    mask[0, :6] = 0
    for cache in ({}, {"cache_implementation": "static"}, {"use_cache": False}):
        assert torch.equal(generate(model, x, **cache)[:, 9:], expected), cache
        text = generate(model, padded, attention_mask=mask, **cache)[:1, 15:]
        assert torch.equal(text, expected), ("left padding", cache)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_the_logits(name, side, build, ids, assert_near):
    model, x = build(name), ids(1, 11)
    pad, real = torch.zeros(1, 7, dtype=torch.long), torch.ones_like(x)
    order = slice(None, None, 1 if side == "left" else -1)
    padded, mask = (torch.cat((pad, part)[order], 1) for part in (x, real))
    with torch.no_grad():
        result = model(padded, attention_mask=mask).logits
    assert_near(result[mask.bool()][None], model(x).logits, CACHED)


def test_beams_and_verified_guesses(name, build, ids):
    model, x = build(name), ids(1, 9).repeat(1, 2)  # something to look up in the prompt
    expected = generate(model, x)
    assert torch.equal(generate(model, x, prompt_lookup_num_tokens=3), expected)
    assistant = build(name, num_hidden_layers=1, layer_types=None, no_rope_layers=None)
    assistant.generation_config.num_assistant_tokens = 3
    assert torch.equal(generate(model, x, assistant_model=assistant), expected)
    beams = generate(model, x, num_beams=3, num_return_sequences=2)
    assert beams.shape == (2, 18 + NEW)
    assert log_likelihood(model, beams[:1]) >= log_likelihood(model, beams[1:])


def log_likelihood(model, text):
    log_probabilities = model(text).logits.log_softmax(-1)[:, 17:-1]
    return log_probabilities.gather(-1, text[:, 18:, None]).sum().item()


def test_dynamic_rope_at_trained_length_is_plain_rope(build, ids):
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    plain, dynamic = build("llama2-7b"), build("llama2-7b", rope_parameters=rope)
    dynamic.load_state_dict(plain.state_dict())
    x, long = ids(1, 30), ids(1, 300)
    assert torch.equal(plain(x).logits, dynamic(x).logits)
    assert not torch.equal(plain(long).logits, dynamic(long).logits)
    assert torch.equal(plain(x).logits, dynamic(x).logits)  # back again after a long text
