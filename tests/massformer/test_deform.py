"""The deformable convolution against torchvision's operator."""

import pytest
import torch
from torchvision.ops import deform_conv2d as reference

from zoo.massformer.deform import deform_conv2d


def draw(kernel, batch, spread, dtype=torch.float64):
    generator = torch.Generator().manual_seed(kernel)
    x = torch.randn(batch, 5, 9, 7, generator=generator, dtype=dtype)
    offset = spread * torch.randn(batch, 2 * kernel**2, 9, 7, generator=generator, dtype=dtype)
    modulation = torch.randn(batch, kernel**2, 9, 7, generator=generator, dtype=dtype).sigmoid()
    weight = torch.randn(4, 5, kernel, kernel, generator=generator, dtype=dtype)
    return [t.requires_grad_() for t in (x, offset, modulation, weight)]


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("table", [2**26, 600, 1], ids=["all taps", "some taps", "one tap"])
def test_values_and_gradients_equal_torchvisions(kernel, table):
    leaves = draw(kernel, 2, 3.0, torch.float32)
    x, offset, modulation, weight = leaves
    ours = deform_conv2d(x, offset, modulation, weight, table)
    theirs = reference(x, offset, weight, padding=kernel // 2, mask=modulation)
    assert torch.allclose(ours, theirs, atol=1e-4)
    push = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    for a, b in zip(torch.autograd.grad((ours * push).sum(), leaves), torch.autograd.grad((theirs * push).sum(), leaves)):
        assert torch.allclose(a, b, atol=1e-3 * b.abs().max().item())


def test_zero_offsets_are_a_plain_convolution():
    x, offset, modulation, weight = draw(3, 1, 0.0, torch.float32)
    ours = deform_conv2d(x, offset, torch.ones_like(modulation), weight)
    assert torch.allclose(ours, torch.nn.functional.conv2d(x, weight, padding=1), atol=1e-4)


def test_bf16_maps_keep_their_type_and_stay_near_fp32():
    x, offset, modulation, weight = (t.detach() for t in draw(3, 1, 1.0, torch.float32))
    ours = deform_conv2d(x.bfloat16(), offset, modulation, weight.bfloat16())
    assert ours.dtype == torch.bfloat16
    exact = deform_conv2d(x, offset, modulation, weight)
    assert (ours.float() - exact).abs().max() < 0.03 * exact.abs().max()
