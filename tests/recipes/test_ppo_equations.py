"""The equations of PPO against plain loops and closed forms, in float64, over masks and both padding sides."""

import copy

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.trainers.advantages import EPSILON, gae, token_rewards, whiten
from rhapsode.recipes.trainers.kl import KLController, kl_terms
from rhapsode.recipes.trainers.losses import policy_terms, update_kl, value_terms
from rhapsode.recipes.trainers.scoring import add_token_scores, token_scores
from rhapsode.recipes.trainers.values import ValueHead, ValueModel
from torch.nn import functional as F
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

EXACT = 1e-10  # the same sums in float64, in another order
B, T = 4, 9


@pytest.fixture
def completions(seed):
    """(B, T) mask of one stretch a row: after a prompt and before padding, after left padding, whole, of one token."""
    mask = torch.zeros(B, T, dtype=torch.float64)
    for row, (start, end) in enumerate([(3, 7), (5, T), (1, T), (4, 5)]):
        mask[row, start:end] = 1
    return mask


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def same(tensor):
    return tensor  # the sum over one process


def stretch(mask) -> list[int]:
    return mask.nonzero().flatten().tolist()


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_the_score_is_at_the_last_token(completions, beta):
    scores, kl = draw(B), draw(B, T)
    found = token_rewards(scores, kl, completions, beta)
    for b in range(B):
        places = stretch(completions[b])
        for t in range(T):
            expected = -beta * kl[b, t] if t in places else 0
            expected += scores[b] if t == places[-1] else 0
            assert found[b, t].item() == pytest.approx(float(expected), abs=EXACT)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.7, 0.0)])
def test_advantages_are_the_sums_of_their_definition(completions, gamma, lam):
    """A_t = sum_k (gamma lambda)^k delta_{t+k}, written out; what is outside the mask must not matter."""
    rewards, values = draw(B, T), draw(B, T)
    advantages, returns = gae(rewards, values, completions, gamma, lam)
    for b in range(B):
        places = stretch(completions[b])
        deltas = []
        for t in places:
            following = values[b, t + 1] if t != places[-1] else 0.0
            deltas.append(rewards[b, t] + gamma * following - values[b, t])
        for i, t in enumerate(places):
            expected = sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[i:]))
            assert advantages[b, t].item() == pytest.approx(expected.item(), abs=EXACT)
            assert returns[b, t].item() == pytest.approx((expected + values[b, t]).item(), abs=EXACT)
    outside = completions == 0
    assert advantages[outside].abs().max() == 0 and returns[outside].abs().max() == 0
    other = gae(rewards + 7 * outside, values - 5 * outside, completions, gamma, lam)[0]
    assert torch.equal(other, advantages)


def test_with_lambda_one_the_return_is_the_discounted_sum_of_rewards(completions):
    rewards, gamma = draw(B, T), 0.9
    returns = gae(rewards, draw(B, T), completions, gamma, 1.0)[1]
    for b in range(B):
        places = stretch(completions[b])
        for i, t in enumerate(places):
            expected = sum(gamma**k * rewards[b, s].item() for k, s in enumerate(places[i:]))
            assert returns[b, t].item() == pytest.approx(expected, abs=EXACT)


def test_whitening_takes_the_tokens_of_the_mask_alone(completions):
    x = 1e6 + draw(B, T)  # a large mean, in which sums of squares would drown the variance
    found, inside = whiten(x, completions, same), x[completions.bool()]
    expected = (inside - inside.mean()) / (inside.var(unbiased=False) + EPSILON).sqrt()
    assert (found[completions.bool()] - expected).abs().max() < 1e-8  # 1e6 costs six of the digits
    assert found[completions == 0].abs().max() == 0


def test_whitening_over_processes_is_that_of_all_tokens(completions):
    """Two processes one after the other: `total` waits for the other one's sums."""
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    x, barrier, box = draw(B, T), Barrier(2), {}

    def process(rank: int):
        def total(tensor):
            box[rank] = tensor
            barrier.wait()
            summed = box[0] + box[1]
            barrier.wait()
            return summed

        part = slice(2 * rank, 2 * rank + 2)
        return whiten(x[part], completions[part], total)

    with ThreadPoolExecutor(2) as pool:
        found = torch.cat(list(pool.map(process, range(2))))
    assert (found - whiten(x, completions, same)).abs().max() < EXACT


def test_one_token_and_equal_advantages_stay_finite():
    mask = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    assert whiten(3 * mask, mask, same).abs().max() == 0
    assert whiten(3 * mask, 0 * mask, same).abs().max() == 0


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_the_estimators_are_unbiased(seed, estimator):
    """The expectation over a vocabulary, in closed form."""
    policy, reference = (draw(50).log_softmax(-1) for _ in range(2))
    expected = (policy.exp() * (policy - reference)).sum()
    terms = kl_terms(policy, reference, estimator)
    assert (policy.exp() * terms).sum().item() == pytest.approx(expected.item(), abs=EXACT)
    if estimator == "k3":
        assert terms.min() >= 0


def test_as_a_reward_k3_pulls_by_the_difference_of_both_divergences(seed):
    """E[grad log pi f] for f = k1 is the gradient of KL(pi || rho); for k3, that less the one of KL(rho || pi)."""
    logits, reference = draw(20).requires_grad_(True), draw(20).log_softmax(-1)

    def gradient(function):
        return torch.autograd.grad(function(logits.log_softmax(-1)), logits)[0]

    def as_reward(estimator):
        return lambda p: (p.detach().exp() * kl_terms(p.detach(), reference, estimator) * p).sum()

    forward = gradient(lambda p: (p.exp() * (p - reference)).sum())
    backward = gradient(lambda p: (reference.exp() * (reference - p)).sum())
    assert (gradient(as_reward("k1")) - forward).abs().max() < EXACT
    assert (gradient(as_reward("k3")) - (forward - backward)).abs().max() < EXACT
    with torch.no_grad():
        logits.copy_(reference + 1e-3 * draw(20))  # near the reference, nothing is left of it
    assert gradient(as_reward("k3")).norm() < 0.01 * gradient(as_reward("k1")).norm()


def test_the_adaptive_coefficient_follows_its_target():
    fixed, adaptive = KLController(0.1), KLController(0.1, target=6.0, horizon=1000)
    fixed.update(100.0, 64)
    assert fixed.beta == 0.1
    adaptive.update(6.6, 100)  # an error of 0.1, by a tenth of the horizon
    assert adaptive.beta == pytest.approx(0.1 * 1.01)
    adaptive.update(100.0, 100)  # clipped to 0.2
    assert adaptive.beta == pytest.approx(0.1 * 1.01 * 1.02)
    adaptive.update(0.0, 100)
    assert adaptive.beta == pytest.approx(0.1 * 1.01 * 1.02 * 0.98)


def test_the_policy_loss_by_its_cases(seed):
    """Value and gradient: zero gradient exactly where the ratio is outside on the side that the advantage wants."""
    old, advantages, low, high = draw(200), draw(200), 0.2, 0.3
    new = (old + 0.4 * draw(200)).requires_grad_(True)
    loss, below, above = policy_terms(new, old, advantages, low, high)
    (gradient,) = torch.autograd.grad(loss.sum(), new)
    assert below.any() and above.any()
    for i in range(200):
        ratio, a = (new[i] - old[i]).exp().item(), advantages[i].item()
        clipped = (ratio < 1 - low and a < 0) or (ratio > 1 + high and a > 0)
        assert bool(below[i] or above[i]) == clipped
        bound = min(max(ratio, 1 - low), 1 + high) if clipped else ratio
        assert loss[i].item() == pytest.approx(-a * bound, abs=EXACT)
        assert gradient[i].item() == pytest.approx(0 if clipped else -a * ratio, abs=EXACT)


@pytest.mark.parametrize("clip", [None, 0.2])
def test_the_value_loss_by_its_cases(seed, clip):
    values, old, returns = draw(200).requires_grad_(True), draw(200), 3 * draw(200)
    loss, clips = value_terms(values, old, returns, clip)
    for i in range(200):
        v, o, r = values[i].item(), old[i].item(), returns[i].item()
        bound = v if clip is None else o + min(max(v - o, -clip), clip)
        assert loss[i].item() == pytest.approx(max((v - r) ** 2, (bound - r) ** 2) / 2, abs=EXACT)
        assert bool(clips[i]) == ((bound - r) ** 2 > (v - r) ** 2)
    assert clips.any() == (clip is not None)


def test_the_distance_of_an_update_is_a_divergence(seed):
    old, new = (draw(50).log_softmax(-1) for _ in range(2))
    expected = (old.exp() * (old - new)).sum().item()
    assert (old.exp() * update_kl(new, old)).sum().item() == pytest.approx(expected, abs=EXACT)
    assert update_kl(old, old).abs().max() == 0


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_change_neither_scores_nor_gradients(seed, chunk):
    """Against log_softmax on the whole logits, and its gradients through log-probabilities and entropies."""
    head, temperature = torch.nn.Linear(6, 11, dtype=torch.float64), 0.7
    hidden, targets, weights = draw(20, 6).requires_grad_(True), torch.randint(0, 11, (20,)), draw(2, 20)

    def finish(logits):
        return 2 * torch.tanh(logits)

    logps, entropy = token_scores(hidden, targets, head, finish, temperature, chunk)
    whole = (finish(head(hidden)) / temperature).log_softmax(-1)
    expected = whole.gather(-1, targets[:, None])[:, 0], -(whole.exp() * whole).sum(-1)
    assert (logps - expected[0]).abs().max() < EXACT and (entropy - expected[1]).abs().max() < EXACT
    wanted = (hidden, *head.parameters())
    ours = torch.autograd.grad((weights[0] * logps + weights[1] * entropy).sum(), wanted)
    theirs = torch.autograd.grad((weights[0] * expected[0] + weights[1] * expected[1]).sum(), wanted)
    assert all((a - b).abs().max() < EXACT for a, b in zip(ours, theirs, strict=True))
    assert token_scores(hidden[:0], targets[:0], head, finish, temperature)[0].shape == (0,)


COMMON = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL = COMMON | {"intermediate_size": 32, "num_key_value_heads": 2, "max_position_embeddings": 64}
INSIDE = 3e-5  # norms, softmax and angles of transformers are float32, whatever the format of the model
FAMILIES = {
    "rhapsode": lambda: RhapsodeForCausalLM(RhapsodeConfig(**SMALL, logit_scale=0.5, final_logit_softcapping=3.0)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=2.0)),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=4.0)),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**SMALL, logit_scale=0.25)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=64)),
}


@pytest.mark.parametrize("kind", ["head", "policy"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_scores_as_its_own_logits_say(seed, family, kind):
    """Rows of different lengths, padded on the right; values of the state before each token."""
    model = FAMILIES[family]().double().eval()
    plain, temperature = copy.deepcopy(model), 1.3
    own = ValueHead(model) if kind == "head" else ValueModel(copy.deepcopy(model.base_model))
    torch.nn.init.normal_(own.double().score.weight)
    trunk = model.base_model if kind == "head" else own.backbone
    add_token_scores(model, temperature, own)
    lengths, prompts = [12, 7, 9], [3, 4, 1]
    ids, mask = torch.randint(3, 40, (3, 12)), torch.zeros(3, 12)
    attention = torch.zeros(3, 12, dtype=torch.long)
    for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        mask[row, prompt:length], attention[row, :length] = 1, 1
    found = model(input_ids=ids, attention_mask=attention, scored=mask)
    for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        alone = ids[row : row + 1, :length]
        logps = (plain(input_ids=alone).logits[0] / temperature).log_softmax(-1)
        states = trunk(input_ids=alone).last_hidden_state[0]
        for t in range(prompt, length):
            assert found.log_probs[row, t].item() == pytest.approx(logps[t - 1, ids[row, t]].item(), abs=INSIDE)
            entropy = F.softmax(logps[t - 1], -1).mul(-logps[t - 1]).sum().item()
            assert found.entropy[row, t].item() == pytest.approx(entropy, abs=INSIDE)
            assert found.state_values[row, t].item() == pytest.approx(own.score(states[t - 1]).item(), abs=INSIDE)
    assert found.log_probs[mask == 0].abs().max() == 0
    assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)  # as before, where nobody asks
    assert model(input_ids=ids, attention_mask=attention, scored=mask, value_rows=2).state_values.shape == (2, 12)


def test_a_head_that_the_configuration_does_not_tell_is_refused(seed):
    model = FAMILIES["llama"]()
    original = model.forward

    def doubled(*args, **kwargs):
        output = original(*args, **kwargs)
        output.logits = output.logits * 2
        return output

    model.forward = doubled
    with pytest.raises(ValueError, match="scale_logits"):
        add_token_scores(model, 1.0)
