import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Beta, kl_divergence

from thinktwice.model_code.losses import beta_kl, smooth_l1


def test_kl_equals_the_library_s() -> None:
    parameters = 0.05 + 8 * torch.rand(4, 100, dtype=torch.double)
    expected = kl_divergence(Beta(*parameters[:2]), Beta(*parameters[2:]))
    torch.testing.assert_close(beta_kl(*parameters), expected)


def test_kl_equals_the_integral_and_vanishes_for_equal_distributions() -> None:
    p, q = stats.beta(2.5, 1.3), stats.beta(1.7, 3.1)
    integral, _ = integrate.quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), 0, 1)
    actual = beta_kl(*(torch.tensor(v, dtype=torch.double) for v in (2.5, 1.3, 1.7, 3.1)))
    assert actual.item() == pytest.approx(integral, rel=1e-6)
    assert beta_kl(*(torch.tensor(v) for v in (2.5, 1.3, 2.5, 1.3))).item() == pytest.approx(0, abs=1e-6)


def test_kl_has_the_right_gradient() -> None:
    target = 1 + torch.rand(2, 5, dtype=torch.double)
    predicted = (0.5 + 2 * torch.rand(2, 5, dtype=torch.double)).requires_grad_()
    assert torch.autograd.gradcheck(lambda q: beta_kl(target[0], target[1], q[0], q[1]), predicted)


def test_kl_of_extreme_parameters_is_that_of_double_precision() -> None:
    values = torch.tensor([1e-3, 0.5, 1.0, 30.0, 1e4], dtype=torch.double)
    parameters = torch.cartesian_prod(*[values] * 4).unbind(-1)
    with torch.autocast('cpu', torch.bfloat16):
        found = beta_kl(*(value.float() for value in parameters))
    assert found.dtype == torch.float32
    # lgamma(1e4) is 8e4, where the resolution of float32 is 0.008
    torch.testing.assert_close(found.double(), beta_kl(*parameters), rtol=1e-4, atol=0.1)


def test_smooth_l1_is_quadratic_then_linear_and_capped() -> None:
    prediction = torch.tensor([0.5, -2.0, 9.0], requires_grad=True)
    error = smooth_l1(prediction, torch.zeros(3))
    assert error.item() == pytest.approx((0.125 + 1.5 + 8.5) / 3)
    capped = smooth_l1(prediction, torch.zeros(3), max_error=5.0)
    assert capped.item() == pytest.approx((0.125 + 1.5 + 5.0) / 3)
    capped.backward()
    torch.testing.assert_close(prediction.grad, torch.tensor([0.5, -1.0, 0.0]) / 3)


def test_targets_are_repeated_for_every_stage_and_any_precision() -> None:
    prediction = torch.randn(2, 6, 4, 2)
    target = torch.randn(2, 4, 2, dtype=torch.double)
    expected = torch.stack([smooth_l1(prediction[:, i], target.float()) for i in range(6)]).mean()
    torch.testing.assert_close(smooth_l1(prediction, target.unsqueeze(1)), expected)
    assert smooth_l1(prediction.bfloat16(), target.unsqueeze(1)).dtype == torch.float32
