import torch
from torch.nn import functional as F

CHECKPOINTED = 1e-6  # the same operations, run twice
BY_HEART, STEPS = 0.05, 120  # nats a token, from about 6; three times the steps that the slowest design took
ACCUMULATED = 1e-5  # float32 gradients summed over eight parts


def gradients(model):
    return {key: p.grad.clone() for key, p in model.named_parameters()}


def test_gradient_checkpointing_gives_the_same_gradients(name, build, ids, assert_near):
    model, x = build(name), ids(2, 12)
    model(x, labels=x, use_cache=False).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    model.train().gradient_checkpointing_enable()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.0
    model(x, labels=x).loss.backward()
    for key, gradient in gradients(model).items():
        assert_near(gradient, expected[key], CHECKPOINTED)


def test_accumulating_one_by_one_equals_the_batch(preset, build, ids, assert_near):
    """The mean over all targets, not the mean of means: rows have different numbers of targets."""
    model, x = build(preset), ids(8, 16)
    labels = x.clone()
    for row in range(8):
        labels[row, : 2 * row] = -100
    model(x, labels=labels).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    targets = (labels[:, 1:] != -100).sum()
    for row in range(8):
        model(x[row : row + 1], labels=labels[row : row + 1], num_items_in_batch=targets).loss.backward()
    for key, gradient in gradients(model).items():
        assert_near(gradient, expected[key], ACCUMULATED)


def test_gradients_are_the_derivatives(name, build, ids, is_the_derivative):
    """Along a random direction through all parameters, in float64 (transformers' own loss is float32)."""

    def make():
        model, x = build(name).double(), ids(2, 10)
        return model, lambda: F.cross_entropy(model(x).logits[:, :-1].flatten(0, 1), x[:, 1:].flatten())

    assert is_the_derivative(make)


def test_one_batch_is_learned_by_heart(preset, configure, seed):
    """Random tokens: nothing but memory helps. Without dropout, which hides that a model knows it all."""
    from rhapsode import RhapsodeForCausalLM

    off = {"attention_dropout": 0.0, "residual_dropout": 0.0, "embedding_dropout": 0.0}
    model = RhapsodeForCausalLM(configure(preset, **off)).train()
    x = torch.randint(3, 512, (4, 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    while len(losses) < STEPS and (not losses or losses[-1] > BY_HEART):
        loss = model(x, labels=x).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] > 5 and losses[-1] <= BY_HEART, losses
