"""The objective by hand, by finite differences, by properties; log-probabilities against naive ones."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from finer1_lib.models.log_probabilities import full_divergence, logp_and_entropy
from finer1_lib.training.objective import (DIVERGENCES, clipped_surrogate, divergence, group_advantages,
                                           sampled_entropy, tapo_loss, token_mean)

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

CLIPS = dict(clip_low=0.2, clip_high=0.28, dual_clip=3.0)
F64 = dict(dtype=torch.float64)


def test_advantages_of_a_hand_worked_group():
    # mean 0.5, unbiased variance (4 * 0.25) / 3, so +-0.5 / sqrt(1/3) = +-0.8660
    found = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.9, 0.9, 0.9, 0.9]]))
    torch.testing.assert_close(found[0], torch.tensor([0.8660, -0.8660, -0.8660, 0.8660]), atol=1e-4, rtol=0)
    assert found[1].tolist() == [0.0] * 4, "without variance there is no advantage, not a rounding error's"


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=12))
def test_advantages_are_centred_and_follow_the_rewards(rewards):
    values = torch.tensor([rewards])
    found = group_advantages(values)
    assert abs(float(found.sum())) < 1e-3
    assert torch.equal((values > values.mean()), (found > 0)) or float(values.std()) < 1e-6
    torch.testing.assert_close(group_advantages(values.flip(1)), found.flip(1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("ratio, advantage, loss, clipped", [
    (1.0, 2.0, -2.0, False),   # on policy: -A
    (1.5, 2.0, -2.56, True),   # clip-higher: 1.28 * 2
    (1.1, 2.0, -2.2, False),
    (0.5, 2.0, -1.0, False),   # A > 0 and a falling ratio is never clipped
    (0.5, -2.0, 1.6, True),    # A < 0: held at 0.8
    (2.0, -2.0, 4.0, False),   # A < 0 and a rising ratio pays in full ...
    (5.0, -2.0, 6.0, True),    # ... up to the dual clip, 3 * 2
])
def test_surrogate_by_hand(ratio, advantage, loss, clipped):
    found, held = clipped_surrogate(torch.tensor([[ratio]]), torch.tensor([advantage]), **CLIPS)
    assert float(found) == pytest.approx(loss) and bool(held) is clipped


def test_dual_clip_can_be_switched_off():
    found, _ = clipped_surrogate(torch.tensor([[5.0]]), torch.tensor([-2.0]), 0.2, 0.28, 0.0)
    assert float(found) == pytest.approx(10.0)


@given(st.floats(-3, 3), st.floats(-2, 2).map(lambda a: round(a, 9)))  # smaller ones underflow to gradient 0
def test_a_clipped_token_has_no_gradient_and_no_other_has(log_ratio, advantage):
    value = torch.tensor([[log_ratio]], requires_grad=True, **F64)
    loss, clipped = clipped_surrogate(value.exp(), torch.tensor([advantage], **F64), **CLIPS)
    loss.sum().backward()
    assert (float(value.grad.abs().sum()) == 0) == (bool(clipped) or advantage == 0)


def one_row(kind, logp, negative):
    logp, negative = torch.tensor([logp], **F64), torch.tensor([negative], **F64)
    return divergence(kind, logp, negative, torch.ones_like(logp))[0]


@pytest.mark.parametrize("kind, expected", [
    # log pi_negative - log pi = 0, 1, -2, 29 (held at 20)
    ("k1", [0.0, -1.0, 2.0, -20.0]),
    ("k2", [0.0, 0.5, 2.0, 200.0]),
    ("k3", [0.0, math.e - 2, math.exp(-2) + 1, 10.0]),  # the last value is held at 10
])
def test_divergences_of_a_token_by_hand_and_their_clamps(kind, expected):
    found = one_row(kind, [-1.0, -2.0, -1.0, -30.0], [-1.0, -1.0, -3.0, -1.0])
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


def test_the_papers_divergence_is_one_value_of_the_whole_rollout():
    # log g = (-1 - -1.5) + (-2 - -3) = 1.5; the third token is padding
    logp, negative = torch.tensor([[-1.0, -2.0, -9.0]], **F64), torch.tensor([[-1.5, -3.0, 0.0]], **F64)
    mask = torch.tensor([[1, 1, 0]])
    found = divergence("paper", logp, negative, mask)
    assert found.tolist()[0] == pytest.approx([math.exp(1.5) - 1.5 - 1] * 3)
    far = divergence("paper", logp + 30 * mask, negative, mask)  # log g = 61.5, held at 20
    assert far.tolist()[0] == pytest.approx([math.exp(20) - 21] * 3)
    with pytest.raises(ValueError, match="one of k1, k2, k3, paper"):
        divergence("k4", logp, negative, mask)


@pytest.mark.parametrize("kind", ["k2", "k3", "paper"])
@given(st.floats(-40, 0), st.floats(-40, 0))
def test_a_divergence_is_never_negative(kind, logp, negative):
    assert float(one_row(kind, [logp], [negative])) >= 0


def _two_distributions():
    return torch.tensor([0.7, 0.2, 0.1], **F64), torch.tensor([0.3, 0.3, 0.4], **F64)


def test_what_each_divergence_estimates_under_the_policys_own_samples():
    """The expectation over all three tokens, exactly."""
    p, q = _two_distributions()
    kl, chi2 = float((p * (p / q).log()).sum()), float((p * p / q).sum() - 1)

    def expectation(kind):
        values = torch.cat([one_row(kind, [float(a.log())], [float(b.log())]) for a, b in zip(p, q)])
        return float((p * values).sum())

    assert expectation("k1") == pytest.approx(kl) and expectation("k3") == pytest.approx(kl)
    assert expectation("paper") == pytest.approx(chi2 - kl)  # of a rollout of one token
    hidden = torch.stack([p.log(), q.log()])
    assert float(full_divergence(hidden[:1], hidden[1:], torch.eye(3, **F64))) == pytest.approx(kl)


@pytest.mark.parametrize("kind", [k for k in DIVERGENCES if k != "full"])
def test_divergence_gradients_by_finite_differences(kind):
    draw, mask = _random_inputs(3)
    inputs = [(draw(3, 4) * 0.3 - 2).requires_grad_(), (draw(3, 4) * 0.3 - 2).requires_grad_()]

    def total(logp, negative):
        return (divergence(kind, logp, negative, mask) * mask).sum()

    assert torch.autograd.gradcheck(total, inputs, eps=1e-7, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 3, 10])
def test_full_divergence_equals_the_naive_one_with_every_gradient(chunk):
    draw, _ = _random_inputs(chunk)
    hidden, other, weight = (draw(*shape).requires_grad_() for shape in ((5, 4), (5, 4), (7, 4)))
    logs, other_logs = (torch.log_softmax(h @ weight.t() / 1.3, -1) for h in (hidden, other))
    naive = (logs.exp() * (logs - other_logs)).sum(-1)
    found = full_divergence(hidden, other, weight, 1.3, chunk)
    torch.testing.assert_close(found, naive)
    scale = draw(5)
    ours = torch.autograd.grad((scale * found).sum(), (hidden, other, weight))
    theirs = torch.autograd.grad((scale * naive).sum(), (hidden, other, weight))
    for x, y in zip(ours, theirs):
        torch.testing.assert_close(x, y, atol=1e-10, rtol=1e-8)
    assert torch.autograd.gradcheck(lambda a, b: full_divergence(a, b, weight.detach(), 1.3, chunk),
                                    (hidden, other))


def test_the_sampled_entropys_value_is_right_on_average_and_its_gradient_is_zero():
    """Why it is a switch: E[-log pi] = H, but E[grad -log pi] = 0, where H has a gradient."""
    z = torch.tensor([0.5, -1.0, 2.0], **F64).requires_grad_()
    logs = torch.log_softmax(z, -1)
    p = logs.exp().detach()
    estimate, true = (p * sampled_entropy(logs)).sum(), -(logs.exp() * logs).sum()
    assert float(estimate.detach()) == pytest.approx(float(true.detach()))
    assert torch.autograd.grad(estimate, z, retain_graph=True)[0].abs().max() < 1e-12
    assert torch.autograd.grad(true, z)[0].abs().max() > 0.1


def test_token_mean_counts_real_tokens_only():
    values, mask = torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([[1, 1], [1, 0]])
    assert float(token_mean(values, mask)) == 3.0
    assert float(token_mean(values, mask, items=torch.tensor(9))) == 1.0
    assert float(token_mean(values, torch.zeros_like(mask))) == 0.0


def test_total_loss_by_hand():
    # one token, ratio 1, A = 0.5: -0.5; divergence 0.7; entropies 2 and 3
    one = torch.tensor([[1.0]])
    terms = tapo_loss(-one, -one, torch.tensor([0.5]), one, gamma=0.01, eta1=0.03, eta2=0.05, entropy=2 * one,
                      apart=0.7 * one, entropy_negative=3 * one, **CLIPS)
    assert float(terms.loss) == pytest.approx(-0.5 - 0.01 * 0.7 + 0.06 + 0.15)


def test_a_weight_without_its_tensor_is_refused():
    one = torch.tensor([[1.0]])
    for weight in ("gamma", "eta1", "eta2"):
        with pytest.raises(ValueError, match="is needed"):
            tapo_loss(one, one, torch.tensor([1.0]), one, **{weight: 0.1}, **CLIPS)


def _random_inputs(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, **F64)

    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
    return draw, mask


@pytest.mark.parametrize("kind", ["k1", "k2", "k3", "paper"])
@pytest.mark.parametrize("seed", range(2))
def test_total_gradient_by_finite_differences(seed, kind):
    draw, mask = _random_inputs(seed)
    old, advantages = draw(3, 4) * 0.3 - 2, draw(3)

    def loss(logp, negative, entropy, entropy_negative):
        return tapo_loss(logp, old, advantages, mask, gamma=0.1, eta1=0.03, eta2=0.05, entropy=entropy,
                         apart=divergence(kind, logp, negative, mask), entropy_negative=entropy_negative,
                         **CLIPS).loss

    inputs = [old + 0.1 * draw(3, 4), old + 0.5 * draw(3, 4), draw(3, 4).abs(), draw(3, 4).abs()]
    inputs = [value.detach().requires_grad_() for value in inputs]
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3", "paper"])
def test_the_inter_class_term_pushes_the_two_pictures_apart(kind):
    """A descent step on -gamma D alone raises the divergence: the sign of the term, whatever its formula."""
    draw, mask = _random_inputs(7)
    logp = (draw(3, 4) - 2).requires_grad_()
    negative = (logp.detach() + 0.3 * draw(3, 4)).requires_grad_()
    before = divergence(kind, logp, negative, mask)
    nothing = torch.zeros(3, **F64)
    tapo_loss(logp, logp.detach(), nothing, mask, gamma=1.0, apart=before, **CLIPS).loss.backward()
    after = divergence(kind, logp.detach() - 0.1 * logp.grad, negative - 0.1 * negative.grad, mask)
    assert token_mean(after, mask).item() > token_mean(before, mask).item()


def _naive(hidden, weight, targets, temperature):
    logs = torch.log_softmax(hidden @ weight.t() / temperature, -1)
    return logs.gather(-1, targets[:, None])[:, 0], -(logs.exp() * logs).sum(-1)


@settings(max_examples=25)
@given(rows=st.integers(1, 9), chunk=st.integers(1, 10), temperature=st.floats(0.5, 2.0),
       seed=st.integers(0, 99))
def test_chunked_log_probability_equals_the_naive_one(rows, chunk, temperature, seed):
    draw, _ = _random_inputs(seed)
    hidden, weight = draw(rows, 5).requires_grad_(), draw(7, 5).requires_grad_()
    targets = torch.arange(rows) % 7
    a, b = draw(rows), draw(rows)
    found = logp_and_entropy(hidden, weight, targets, temperature, chunk)
    expected = _naive(hidden, weight, targets, temperature)
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs)
    ours = torch.autograd.grad((a * found[0] + b * found[1]).sum(), (hidden, weight))
    theirs = torch.autograd.grad((a * expected[0] + b * expected[1]).sum(), (hidden, weight))
    for x, y in zip(ours, theirs):
        torch.testing.assert_close(x, y, atol=1e-10, rtol=1e-8)


def test_chunked_log_probability_by_finite_differences_and_with_a_frozen_head():
    draw, _ = _random_inputs(1)
    hidden, weight, targets = draw(4, 3).requires_grad_(), draw(6, 3), torch.tensor([0, 5, 2, 2])
    assert torch.autograd.gradcheck(lambda h: logp_and_entropy(h, weight, targets, 1.3, 3), (hidden,))
    for which in (0, 1):  # one of the two alone: the other's gradient is left out, not taken as zeros
        alone = torch.autograd.grad(logp_and_entropy(hidden, weight, targets)[which].sum(), hidden)
        naive = torch.autograd.grad(_naive(hidden, weight, targets, 1.0)[which].sum(), hidden)
        torch.testing.assert_close(alone, naive)
    logp_and_entropy(hidden, weight, targets)[0].sum().backward()
    assert weight.grad is None


def test_chunked_log_probability_survives_hard_zeros_no_tokens_and_half_precision():
    logits = torch.tensor([[2000.0, -2000.0, 0.0]]).requires_grad_()  # the head is the identity
    logp, entropy = logp_and_entropy(logits, torch.eye(3), torch.tensor([0]))
    (logp + entropy).sum().backward()
    assert float(logp) == 0.0 and float(entropy) == 0.0 and torch.isfinite(logits.grad).all()
    empty = logp_and_entropy(torch.zeros(0, 3), torch.eye(3), torch.zeros(0, dtype=torch.long))
    assert [tuple(value.shape) for value in empty] == [(0,), (0,)]
    half = torch.randn(5, 8).requires_grad_()
    logp, _ = logp_and_entropy(half, torch.randn(9, 8).bfloat16(), torch.arange(5))
    logp.sum().backward()
    assert logp.dtype == torch.float32 and half.grad.dtype == torch.float32
