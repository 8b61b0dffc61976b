"""PEFT used as its documentation says: train an adapter, save it, load it, merge it."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM, RhapsodeForSequenceClassification

MERGED = 1e-5  # float32, of the largest logit: W x + B A x against (W + B A) x
PRESETS = ("rhapsode-10m-tiny", "gpt2-tiny", "falcon-7b-tiny", "llama2-7b-tiny")


def train(model, batch: dict) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(4):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def logits(model, ids: torch.Tensor) -> torch.Tensor:
    return model.eval()(input_ids=ids).logits


@pytest.mark.parametrize("name", PRESETS)
def test_lora_trains_saves_loads_and_merges(name, tmp_path, seed):
    base = RhapsodeForCausalLM(RhapsodeConfig.from_preset(name))
    base.save_pretrained(tmp_path / "base")
    before = {key: value.clone() for key, value in base.state_dict().items()}
    ids = torch.randint(3, 99, (2, 20))
    plain = logits(base, ids)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.testing.assert_close(logits(model, ids), plain, rtol=0, atol=0)  # B is zero
    train(model.train(), {"input_ids": ids, "labels": ids})
    trained = logits(model, ids)
    assert not torch.equal(trained, plain)
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(RhapsodeForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    assert torch.equal(logits(again, ids), trained)
    merged = again.merge_and_unload()
    assert (logits(merged, ids) - trained).abs().max() < MERGED * trained.abs().max()
    assert merged.state_dict().keys() == before.keys()
    merged.save_pretrained(tmp_path / "merged")
    assert torch.equal(logits(RhapsodeForCausalLM.from_pretrained(tmp_path / "merged"), ids), logits(merged, ids))
    assert torch.equal(merged.get_input_embeddings().weight, before["model.embed_tokens.weight"])


def test_a_new_head_is_saved_with_the_adapter(tmp_path, seed):
    """A reward model: the adapter in the blocks, and the head that no base model has."""
    config = RhapsodeConfig.from_preset("rhapsode-10m-tiny", num_labels=1, pad_token_id=0)
    base = RhapsodeForSequenceClassification(config)
    base.save_pretrained(tmp_path / "base")
    ids = torch.randint(3, 99, (4, 12))
    adapter = LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"])
    model = get_peft_model(base, adapter)
    train(model.train(), {"input_ids": ids, "labels": torch.randn(4)})
    trained = logits(model, ids)
    model.save_pretrained(tmp_path / "adapter")
    fresh = RhapsodeForSequenceClassification.from_pretrained(tmp_path / "base")
    assert torch.equal(logits(PeftModel.from_pretrained(fresh, tmp_path / "adapter"), ids), trained)
