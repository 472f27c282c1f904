"""Labels at the picture's own size, whichever way they are found."""

import pytest
import torch
import torch.nn.functional as F

from datamodules.errors import UserError
from zoo.inference import Inference, bands, resize_rows, slide, starts, to_labels, tta

SIZES = torch.randint(1, 80, (60, 4), generator=torch.Generator().manual_seed(0)).tolist()


def picture(height, width, seed=0):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def pointwise(images):
    """Scores that look at one pixel only: windows and mirrors change nothing. B 3 h w -> B 4 h w."""
    x = images.float() / 255
    return torch.cat([x, 1 - x.mean(1, keepdim=True)], 1).softmax(1)


def coarse(images):
    """A net with a stride of 8: scores at an eighth of the size. B 3 h w -> B 4 h/8 w/8."""
    return F.adaptive_avg_pool2d(pointwise(images), [-(-n // 8) for n in images.shape[-2:]])


class Coarse:
    """A method as `Inference` sees it."""

    def scores(self, images):
        return F.interpolate(coarse(images), size=images.shape[-2:], mode="bilinear", align_corners=False)

    def label_map(self, image, rows):
        low, size = coarse(image[None])[0], tuple(image.shape[-2:])
        return bands(lambda r0, r1: resize_rows(low, size, r0, r1), size[0], rows)


@pytest.mark.parametrize("sizes", [*SIZES, [96, 5, 3072, 7], [3000, 4, 700, 9], [1, 1, 5, 6], [7, 9, 7, 9]])
def test_resized_rows_equal_interpolating_the_whole(sizes):
    h, w, H, W = sizes
    x = torch.randn(2, 3, h, w, generator=torch.Generator().manual_seed(h))
    expected = F.interpolate(x, size=(H, W), mode="bilinear", align_corners=False)
    rows = max(1, H // 3)
    found = torch.cat([resize_rows(x, (H, W), r, min(r + rows, H)) for r in range(0, H, rows)], -2)
    assert found.shape == expected.shape
    rounding = 1e-6 * max(h, w, 20)            # of positions: torch rounds them differently on one thread and on several
    assert torch.allclose(found, expected, rtol=0, atol=rounding)


def test_one_window_that_covers_the_picture_equals_whole():
    images = picture(37, 53)[None]
    score = Coarse().scores
    assert torch.equal(slide(score, images, window=64), score(images))
    assert torch.equal(slide(score, images, window=53), score(images))


@pytest.mark.parametrize("feather", [True, False])
@pytest.mark.parametrize(("window", "overlap"), [(16, 0.5), (17, 0.0), (8, 0.9), (40, 0.3), (1, 0.5)])
def test_windows_join_without_seams(window, overlap, feather):
    images = torch.stack([picture(37, 53, seed) for seed in range(2)])
    found = slide(pointwise, images, window, overlap, feather)
    assert torch.allclose(found, pointwise(images), atol=1e-6)


def test_overlapping_windows_are_averaged_by_their_weights():
    for feather, expected in ((False, [0, 0, 1 / 2, 1 / 2, 1, 1]), (True, [0, 0, 1 / 3, 2 / 3, 1, 1])):
        values = iter([0.0, 1.0])
        found = slide(lambda x, v=values: torch.full((1, 1, 4, 4), next(v)), picture(4, 6)[None], 4, 0.5, feather)
        assert found[0, 0, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("size", "window", "overlap"), [(100, 30, 0.5), (31, 30, 0.0), (1000, 7, 0.9), (30, 30, 0.5)])
def test_windows_cover_everything_and_overlap_enough(size, window, overlap):
    first = starts(size, window, overlap)
    assert first[0] == 0 and first[-1] == size - window
    assert all(0 < b - a <= max(1, window * (1 - overlap)) for a, b in zip(first, first[1:], strict=False))


def test_mirrored_and_scaled_scores_return_to_the_picture():
    images = picture(37, 53)[None]
    assert torch.allclose(tta(pointwise, images, flip=True, scales=(1.0,)), pointwise(images), atol=1e-6)
    ramp = torch.linspace(0, 255, 64).expand(1, 3, 48, 64)

    def brightness(x):
        return x[:, :1] / 255

    found = tta(brightness, ramp, flip=True, scales=(0.5, 1.0, 1.5))
    assert torch.allclose(found, brightness(ramp), atol=0.02)


@pytest.mark.parametrize("options", [
    {}, {"mode": "bands", "rows": 5}, {"mode": "bands", "rows": 1000}, {"mode": "slide", "window": 1000},
    {"mode": "slide", "window": 16}, {"flip": True}, {"mode": "slide", "window": 16, "flip": True, "scales": [0.5, 1]},
])
def test_labels_have_the_size_of_the_picture(options):
    labels = Inference(**options).labels(Coarse(), picture(37, 53))
    assert labels.shape == (37, 53) and labels.dtype == torch.uint8


def test_bands_and_one_window_label_as_the_whole():
    image = picture(61, 83)
    expected = to_labels(Coarse().scores(image[None])[0])
    for inference in (Inference(), Inference("bands", rows=7), Inference("slide", window=100)):
        assert (inference.labels(Coarse(), image) != expected).float().mean() <= 1e-3


def test_sliding_labels_are_the_best_of_the_sliding_scores():
    image = picture(61, 83)
    expected = to_labels(slide(Coarse().scores, image[None], 32, 0.6)[0])
    assert torch.equal(Inference("slide", window=32, overlap=0.6).labels(Coarse(), image), expected)


def test_more_than_255_classes_are_labelled_in_int32():
    assert to_labels(torch.eye(256)[:, :, None]).dtype == torch.int32
    assert to_labels(torch.eye(255)[:, :, None]).dtype == torch.uint8


@pytest.mark.parametrize(("options", "message"), [
    ({"mode": "tiles"}, "inference: mode=tiles must be whole, slide or bands"),
    ({"window": 0}, "window=0 must be at least 1 pixel"),
    ({"overlap": 1.0}, "overlap=1.0 must lie in 0..1"),
    ({"scales": []}, "must be one or more positive factors"),
    ({"scales": [1, -2]}, "must be one or more positive factors"),
    ({"rows": 0}, "rows=0 must be at least 1"),
    ({"mode": "bands", "flip": True}, "take inference.mode=whole or slide"),
])
def test_settings_that_cannot_work_are_said_in_one_line(options, message):
    with pytest.raises(UserError, match=message):
        Inference(**options)
