import pytest
import torch

CHECKPOINTED = 1e-6  # the same operations, run twice
ACCUMULATED = 1e-5  # float32 gradients summed over eight parts
DERIVATIVE = 1e-5  # central differences in float64: the step squared (1e-8), and rounding over the step (1e-8)
STEP = 3e-7  # along a direction of length about 300


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


def test_gradients_are_the_derivatives(name, build, ids):
    """Along a random direction through all parameters, in float64 (transformers' own loss is float32)."""
    smooth = {"vaswani-base": {"hidden_act": "gelu"}, "olmo2": {"clip_qkv": 99.0}}  # a kink has no derivative
    model, x = build(name, **smooth.get(name, {})).double(), ids(2, 10)
    parameters = list(model.parameters())

    def loss():
        return torch.nn.functional.cross_entropy(model(x).logits[:, :-1].flatten(0, 1), x[:, 1:].flatten())

    loss().backward()
    directions = [torch.randn_like(p) for p in parameters]
    slope = sum((p.grad * d).sum() for p, d in zip(parameters, directions, strict=True)).item()
    losses = []
    with torch.no_grad():
        for sign in (1, -2):
            for p, d in zip(parameters, directions, strict=True):
                p += sign * STEP * d
            losses.append(loss().item())
    assert slope == pytest.approx((losses[0] - losses[1]) / (2 * STEP), rel=DERIVATIVE, abs=DERIVATIVE)


def test_a_tiny_model_learns(preset, configure, seed):
    from rhapsode import RhapsodeForCausalLM

    model = RhapsodeForCausalLM(configure(preset)).train()
    x = torch.randint(3, 512, (4, 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(15):
        loss = model(x, labels=x).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
