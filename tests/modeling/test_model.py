"""The whole model against another one, written here from the papers' equations in plain torch and float64."""

import copy
import math

import pytest
import torch
from rhapsode import RhapsodeForCausalLM
from torch.nn.functional import cross_entropy, layer_norm
from transformers.activations import ACT2FN

REFERENCE = 1e-10  # float64 against float64
FLOAT32 = 1e-5  # rounding of two layers in float32; the logits of a tiny random model
ANGLES = 1e-5  # our angles are float32 whatever the dtype of the model
LENGTH = 40


def reference(config, weights: dict, ids: torch.Tensor) -> torch.Tensor:
    """Logits (B, T, V) by the equations, one layer and one head at a time."""
    c, w, T = config, {key: value.double() for key, value in weights.items()}, ids.shape[1]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

    def norm(x, name, scale=None):
        scale = w.get(f"{name}.weight", torch.ones(1, dtype=torch.float64)) if scale is None else scale
        if c.norm_type == "layer_norm":
            return layer_norm(x, x.shape[-1:], eps=c.norm_eps) * scale + w.get(f"{name}.bias", 0.0)
        return x / (x.square().mean(-1, keepdim=True) + c.norm_eps).sqrt() * scale

    def rotate(x):  # (B, T, C)
        R = int(c.head_dim * c.rope_parameters.get("partial_rotary_factor", 1.0))
        turned = x.clone()
        for n in range(R // 2):
            i, j = (2 * n, 2 * n + 1) if c.rope_interleaved else (n, n + R // 2)
            angle = torch.arange(T, dtype=torch.float64) * c.rope_parameters["rope_theta"] ** (-2 * n / R)
            turned[..., i] = x[..., i] * angle.cos() - x[..., j] * angle.sin()
            turned[..., j] = x[..., j] * angle.cos() + x[..., i] * angle.sin()
        return turned

    def attention(x, layer):
        name, H, K, C = f"model.layers.{layer}.self_attn", c.num_attention_heads, c.num_key_value_heads, c.head_dim
        q, k, v = (linear(x, f"{name}.{n}_proj") for n in "qkv")
        if c.clip_qkv is not None:
            q, k, v = (y.clamp(-c.clip_qkv, c.clip_qkv) for y in (q, k, v))
        if c.qk_norm == "full":
            q, k = norm(q, f"{name}.q_norm"), norm(k, f"{name}.k_norm")
        heads = []
        distance = torch.arange(T)[:, None] - torch.arange(T)
        sliding = c.attention_types()[layer] == "sliding_attention"
        hidden = (distance < 0) | (sliding and distance >= (c.sliding_window or T))
        for h in range(H):
            g = h // (H // K)
            q_h, k_g, v_g = q[..., h * C : h * C + C], k[..., g * C : g * C + C], v[..., g * C : g * C + C]
            if c.qk_norm in ("head", "per_head"):
                each = c.qk_norm == "per_head"
                q_h = norm(q_h, f"{name}.q_norm", w[f"{name}.q_norm.weight"][h] if each else None)
                k_g = norm(k_g, f"{name}.k_norm", w[f"{name}.k_norm.weight"][g] if each else None)
            if c.position_embedding_type == "rope" and (c.no_rope_layers or [1] * 99)[layer]:
                q_h, k_g = rotate(q_h), rotate(k_g)
            scores = q_h @ k_g.mT * (c.attention_multiplier or 1 / math.sqrt(C))
            heads.append(scores.masked_fill(hidden, -math.inf).softmax(-1) @ v_g)
        return linear(torch.cat(heads, -1), f"{name}.o_proj")

    def feed_forward(x, layer):
        name, act = f"model.layers.{layer}.mlp", ACT2FN[c.hidden_act]
        up = linear(x, f"{name}.up_proj")
        return linear(act(linear(x, f"{name}.gate_proj")) * up if c.mlp_gated else act(up), f"{name}.down_proj")

    def block(x, layer):
        def N(y, kind):
            return norm(y, f"model.layers.{layer}.{kind}_layernorm")

        def A(y):
            return c.residual_multiplier * attention(y, layer)

        def F(y):
            return c.residual_multiplier * feed_forward(y, layer)

        if c.parallel_block:
            return x + A(N(x, "input")) + F(N(x, "input" if c.parallel_shared_norm else "post_attention"))
        if c.norm_order == "pre":
            x = x + A(N(x, "input"))
            return x + F(N(x, "post_attention"))
        if c.norm_order == "output":
            x = x + N(A(x), "post_attention")
            return x + N(F(x), "post_feedforward")
        if c.norm_order == "sandwich":
            x = x + N(A(N(x, "input")), "post_attention")
            return x + N(F(N(x, "pre_feedforward")), "post_feedforward")
        x = N(x + A(x), "post_attention")
        return N(x + F(x), "post_feedforward")

    x = w["model.embed_tokens.weight"][ids] * c.embedding_multiplier
    if c.position_embedding_type == "learned":
        x = x + w["model.embed_positions.weight"][:T]
    elif c.position_embedding_type == "sinusoidal":
        rate = 10000 ** (-torch.arange(0, c.hidden_size, 2, dtype=torch.float64) / c.hidden_size)
        angle = torch.arange(T, dtype=torch.float64)[:, None] * rate
        x = x + torch.stack((angle.sin(), angle.cos()), -1).flatten(1)
    x = norm(x, "model.embed_norm") if c.embedding_norm else x
    for layer in range(c.num_hidden_layers):
        x = block(x, layer)
    x = x if c.norm_order == "post" else norm(x, "model.norm")
    head = "model.embed_tokens" if c.tie_word_embeddings else "lm_head"
    logits = c.logit_scale * (x @ w[f"{head}.weight"].T + w.get("lm_head.bias", 0.0))
    cap = c.final_logit_softcapping
    return logits if cap is None else cap * torch.tanh(logits / cap)


def test_logits_are_those_of_the_equations(name, build, ids, assert_near):
    if name == "yarn":
        pytest.skip("the scalings of RoPE are compared with transformers' own in test_positions.py")
    model, x = build(name), ids(2, LENGTH)
    expected = reference(model.config, model.state_dict(), x)
    with torch.no_grad():
        assert_near(model(x).logits, expected, FLOAT32)
        tables = {"rope": ANGLES, "sinusoidal": ANGLES}
        exact = tables.get(model.config.position_embedding_type, REFERENCE)
        assert_near(model.double()(x).logits, expected, exact)


def test_loss_is_the_mean_over_the_next_tokens(name, build, ids, assert_near):
    model, x = build(name), ids(3, 12)
    labels = x.clone()
    labels[:, :4] = -100
    out = model(x, labels=labels)
    expected = cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert_near(out.loss, expected, 1e-6)
    assert_near(model(x, logits_to_keep=1).logits, out.logits[:, -1:], FLOAT32)


def test_embeddings_may_be_given_in_place_of_tokens(name, build, ids):
    model, x = build(name), ids(2, 12)
    with torch.no_grad():
        assert torch.equal(model(inputs_embeds=model.get_input_embeddings()(x)).logits, model(x).logits)
    with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
        model(x, inputs_embeds=model.get_input_embeddings()(x))


def test_tied_weights_are_one_tensor(preset, build, ids):
    model = build(preset)
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    assert tied == model.config.tie_word_embeddings
    with torch.no_grad():
        model.model.embed_tokens.weight[7] += 1.0
    assert torch.equal(model.lm_head.weight[7], model.model.embed_tokens.weight[7]) == tied


def test_resizing_the_vocabulary_keeps_the_old_tokens(name, build, ids, assert_near):
    model, x = build(name), ids(2, 10)
    before = model(x).logits
    model.resize_token_embeddings(530)
    after = model(torch.cat((x, torch.full((2, 1), 529)), 1)).logits
    assert model.config.vocab_size == 530
    assert after.shape == (2, 11, 530)
    assert_near(after[:, :10, :512], before, FLOAT32)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == model.config.tie_word_embeddings
    model.resize_token_embeddings(300)
    assert model(x % 300).logits.shape == (2, 10, 300)


def test_compiled_model_gives_the_same_logits(preset, build, ids, assert_near):
    """Traced in one graph, without a break; the slow test below also builds the kernels."""
    model, x = build(preset, num_hidden_layers=1), ids(2, 16)
    torch.compiler.reset()
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        assert_near(compiled(x, use_cache=False).logits, model(x).logits, FLOAT32)


@pytest.mark.slow
def test_inductor_gives_the_same_logits(name, build, ids, assert_near):
    model, x = build(name), ids(2, 16)
    torch.compiler.reset()
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True)
        mask = torch.ones_like(x)
        assert_near(compiled(x, use_cache=False).logits, model(x).logits, FLOAT32)
        assert_near(compiled(x, attention_mask=mask).logits, model(x).logits, FLOAT32)


def test_every_parameter_receives_a_gradient(name, build, ids):
    model, x = build(name, RhapsodeForCausalLM), ids(2, 16)
    model(x, labels=x).loss.backward()
    missing = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not missing


def test_layers_that_are_added_count(build, ids, tmp_path):
    """A model grown in depth: the same as after it has been saved and opened."""
    model, x = build("rhapsode-10m", sliding_window=4), ids(1, 9)
    before = model(x).logits
    model.model.layers.extend(copy.deepcopy(layer) for layer in list(model.model.layers))
    model.config.num_hidden_layers *= 2
    for i, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = i
    after = model(x).logits
    assert not torch.allclose(after, before, atol=1e-3)
    model.save_pretrained(tmp_path)
    assert torch.equal(RhapsodeForCausalLM.from_pretrained(tmp_path)(x).logits, after)
