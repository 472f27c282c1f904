"""The deformable convolution against torchvision's operator."""

import pytest
import torch
from torchvision.ops import deform_conv2d as reference

from zoo.massformer.deform import deform_conv2d, operator_form


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


def test_bf16_coordinates_stay_exact_on_a_wide_map():
    """A bf16 coordinate above 256 has no fraction; only the map and its weights are rounded."""
    generator = torch.Generator().manual_seed(0)
    x, offset = torch.randn(1, 2, 2, 600, generator=generator), torch.full((1, 2, 2, 600), 0.5)
    modulation, weight = torch.ones(1, 1, 2, 600), torch.eye(2).view(2, 2, 1, 1)
    exact = deform_conv2d(x, offset, modulation, weight)
    rough = deform_conv2d(x.bfloat16(), offset.bfloat16(), modulation.bfloat16(), weight.bfloat16())
    assert (rough.float() - exact).abs().max() < 0.02 * exact.abs().max()


@pytest.mark.parametrize("grad", [False, True])
def test_it_is_traced_whole_with_sizes_left_open(grad):
    x, offset, modulation, weight = (t.requires_grad_(grad) for t in draw(3, 2, 2.0, torch.float32))
    traced = torch.compile(deform_conv2d, fullgraph=True, dynamic=True, backend="eager")
    assert torch.allclose(traced(x, offset, modulation, weight), deform_conv2d(x, offset, modulation, weight), atol=1e-5)


def test_the_operator_form_is_the_same():
    leaves = [t.detach() for t in draw(5, 2, 3.0, torch.float32)]
    assert torch.allclose(operator_form(*leaves), deform_conv2d(*leaves), atol=1e-5)


def test_training_keeps_no_more_than_the_arguments():
    """Neither the table of tap products nor the places of the samples, both many times as large as the map."""
    leaves, kept = draw(3, 2, 2.0, torch.float32), {}

    def keep(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        deform_conv2d(*leaves)
    assert 0 < sum(kept.values()) <= 2 * sum(t.untyped_storage().nbytes() for t in leaves)
