"""The objective by hand, by finite differences, by properties; log-probabilities against naive ones."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finer1_lib.objective import (
    clipped_surrogate,
    group_advantages,
    k3_divergence,
    logp_and_entropy,
    tapo_loss,
    token_mean,
)

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


@given(st.floats(-3, 3), st.floats(-2, 2))
def test_a_clipped_token_has_no_gradient_and_no_other_has(log_ratio, advantage):
    value = torch.tensor([[log_ratio]], requires_grad=True, **F64)
    loss, clipped = clipped_surrogate(value.exp(), torch.tensor([advantage], **F64), **CLIPS)
    loss.sum().backward()
    assert (float(value.grad.abs().sum()) == 0) == (bool(clipped) or advantage == 0)


def test_divergence_by_hand_and_its_clamps():
    logp, negative = torch.tensor([[-1.0, -2.0, -1.0, -30.0]]), torch.tensor([[-1.0, -1.0, -3.0, -1.0]])
    found = k3_divergence(logp, negative)[0]
    # d = 0, 1, -2, 29 (clamped to 20, and its value to 10)
    expected = [0.0, math.e - 2, math.exp(-2) + 1, 10.0]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


@given(st.floats(-40, 0), st.floats(-40, 0))
def test_divergence_is_never_negative(logp, negative):
    assert 0 <= float(k3_divergence(torch.tensor([logp], **F64), torch.tensor([negative], **F64))) <= 10


def test_divergence_estimates_kl_under_the_policys_own_samples():
    p, q = torch.tensor([0.7, 0.2, 0.1], **F64), torch.tensor([0.3, 0.3, 0.4], **F64)
    expected = (p * k3_divergence(p.log(), q.log())).sum()  # the expectation over samples, exactly
    assert float(expected) == pytest.approx(float((p * (p / q).log()).sum()))


def test_token_mean_counts_real_tokens_only():
    values, mask = torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([[1, 1], [1, 0]])
    assert float(token_mean(values, mask)) == 3.0
    assert float(token_mean(values, mask, items=torch.tensor(9))) == 1.0
    assert float(token_mean(values, torch.zeros_like(mask))) == 0.0


def test_total_loss_by_hand():
    # one token, ratio 1, A = 0.5: -0.5; d = 1: k3 = e - 2; entropies 2 and 3
    one = torch.tensor([[1.0]])
    terms = tapo_loss(-one, -one, torch.tensor([0.5]), one, gamma=0.01, eta1=0.03, eta2=0.05, entropy=2 * one,
                      logp_negative=0 * one, entropy_negative=3 * one, **CLIPS)
    assert float(terms.loss) == pytest.approx(-0.5 - 0.01 * (math.e - 2) + 0.06 + 0.15)


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


@pytest.mark.parametrize("seed", range(3))
def test_total_gradient_by_finite_differences(seed):
    draw, mask = _random_inputs(seed)
    old, advantages = draw(3, 4) * 0.3 - 2, draw(3)

    def loss(logp, negative, entropy, entropy_negative):
        return tapo_loss(logp, old, advantages, mask, gamma=0.1, eta1=0.03, eta2=0.05, entropy=entropy,
                         logp_negative=negative, entropy_negative=entropy_negative, **CLIPS).loss

    inputs = [old + 0.1 * draw(3, 4), old + draw(3, 4), draw(3, 4).abs(), draw(3, 4).abs()]
    inputs = [value.detach().requires_grad_() for value in inputs]
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-7, atol=1e-5)


def test_the_inter_class_term_pushes_the_two_pictures_apart():
    """A descent step on -gamma D alone raises the divergence: the sign of the term, whatever its formula."""
    draw, mask = _random_inputs(7)
    logp = (draw(3, 4) - 2).requires_grad_()
    negative = (logp.detach() + 0.3 * draw(3, 4)).requires_grad_()
    terms = tapo_loss(
        logp, logp.detach(), torch.zeros(3, **F64), mask, gamma=1.0, logp_negative=negative, **CLIPS)
    terms.loss.backward()
    after = k3_divergence(logp.detach() - 0.1 * logp.grad, negative - 0.1 * negative.grad)
    assert token_mean(after, mask).item() > token_mean(terms.divergence, mask).item()


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
