"""Crops that are cut before they are resized; flips; colours; one generator a sample."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from datamodules.transforms import PAD, SceneTransform, Window, change_colours, cut_image, cut_labels


def scene(h=96, w=120, classes=5, dtype=torch.uint8):
    """The label is readable from the picture: red is 40 times the label."""
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(np.kron(rng.integers(0, classes, (h // 8, w // 8)), np.ones((8, 8), int))).to(dtype)
    image = torch.stack([labels * 40, labels * 0, labels * 0]).to(torch.uint8)
    return {"image": image, "labels": labels, "name": "s", "size": (h, w)}


def transformed(seed=0, source=None, **settings):
    settings = {"crop": (32, 40), "colour": 0.0} | settings
    return SceneTransform(**settings)(source or scene(), np.random.default_rng(seed))


@pytest.mark.parametrize("scale, tolerance", [((1, 1), 0), ((0.5, 0.8), 0.06), ((1.5, 3), 0.04), ((0.1, 0.2), 0.3)])
def test_labels_lie_on_their_pixels_at_every_scale(scale, tolerance):
    for seed in range(10):
        out = transformed(seed, scene(classes=2), scale=scale)
        assert out["image"].shape == (3, 32, 40) and out["labels"].shape == (32, 40)
        assert out["image"].dtype == out["labels"].dtype == torch.uint8
        known = out["labels"] != 255
        wrong = ((out["image"][0] > 20) != (out["labels"] == 1)) & known         # resizing rounds corners
        assert wrong.float().mean() <= tolerance
        assert (out["image"][0][~known] == PAD[0]).all()


def test_without_a_change_of_scale_the_crop_is_a_piece_of_the_picture():
    source, out = scene(), transformed(flip=0.0, cat_max_ratio=1.0)
    pieces = source["labels"].unfold(0, 32, 1).unfold(1, 40, 1)
    assert (pieces == out["labels"]).all(-1).all(-1).any()
    assert torch.equal(out["image"][0], out["labels"] * 40)


def test_cutting_first_equals_resizing_the_whole_picture_and_cutting_then():
    source = scene(96, 128)
    window = Window(16, 32, 64, 64, (32, 32), (32, 32))
    whole = F.interpolate(source["image"][None], scale_factor=0.5, mode="bilinear", antialias=True)[0]
    image = cut_image(source["image"], window)
    assert (image.int() - whole[:, 8:40, 16:48].int()).abs()[:, 2:-2, 2:-2].max() <= 1
    labels = F.interpolate(source["labels"][None, None].float(), scale_factor=0.5, mode="nearest-exact")[0, 0]
    assert torch.equal(cut_labels(source["labels"], window, 255), labels[8:40, 16:48].byte())


@pytest.mark.parametrize("scale", [(0.01, 0.02), (0.4, 0.6), (2.0, 3.0)])
def test_a_strip_one_pixel_wide_keeps_its_mean_colour(scale):
    image = torch.arange(0, 240, 2, dtype=torch.uint8).view(3, 40, 1)
    source = {"image": image, "labels": torch.zeros(40, 1, dtype=torch.uint8), "name": "", "size": (40, 1)}
    out = transformed(0, source, crop=200, scale=scale)
    known = out["labels"] == 0
    assert (out["image"][:, known].float().mean(1) - image.float().mean((1, 2))).abs().max() <= 1


def test_a_small_picture_is_padded_below_and_to_the_right():
    out = transformed(source=scene(24, 24), flip=0.0)
    assert (out["labels"][24:] == 255).all() and (out["labels"][:, 24:] == 255).all()
    assert (out["labels"][:24, :24] != 255).all()
    assert out["image"][:, 31, 39].tolist() == list(PAD)


def test_many_classes_keep_their_dtype_and_are_padded_with_their_own_ignore():
    out = transformed(source=scene(24, 24, 500, torch.int32), ignore=-1)
    assert out["labels"].dtype == torch.int32 and (out["labels"][24:] == -1).all() and out["labels"].max() > 255


def test_a_flip_mirrors_both():
    straight, mirrored = transformed(flip=0.0), transformed(flip=1.0)
    assert torch.equal(straight["image"].flip(-1), mirrored["image"])
    assert torch.equal(straight["labels"].flip(-1), mirrored["labels"])


def test_windows_of_almost_one_class_are_drawn_again():
    labels = torch.zeros(200, 200, dtype=torch.uint8)
    labels[90:110, 90:110] = 1
    source = {"image": labels.expand(3, -1, -1), "labels": labels, "name": "", "size": (200, 200)}

    def mixed(ratio):
        outs = [transformed(seed, source, crop=24, cat_max_ratio=ratio)["labels"] for seed in range(60)]
        return sum(bool(o.any()) for o in outs)

    assert mixed(0.75) > 2 * mixed(1.0)


def test_a_picture_of_nothing_but_ignored_pixels_passes():
    source = scene()
    source["labels"][:] = 255
    assert (transformed(source=source)["labels"] == 255).all()


def test_equal_generators_give_equal_samples_and_the_source_is_untouched():
    source, before = scene(), scene()
    first = transformed(3, source, scale=(0.5, 2.0), colour=1.0, hue=18)
    again = transformed(3, source, scale=(0.5, 2.0), colour=1.0, hue=18)
    other = transformed(4, source, scale=(0.5, 2.0), colour=1.0, hue=18)
    assert torch.equal(first["image"], again["image"]) and torch.equal(first["labels"], again["labels"])
    assert not torch.equal(first["image"], other["image"])
    assert torch.equal(source["image"], before["image"]) and torch.equal(source["labels"], before["labels"])


def test_colour_changes_move_pictures_within_bounds_and_grey_stays_grey():
    grey = torch.arange(256, dtype=torch.uint8).expand(3, 4, -1)
    for seed in range(20):
        out = change_colours(grey, np.random.default_rng(seed), 1.0, hue=18)
        assert out.dtype == torch.uint8 and (out.int() - out[:1].int()).abs().max() <= 2
        low = ((torch.arange(256) - 32).clamp(min=0) * 0.5).floor() - 2
        high = ((torch.arange(256) + 32) * 1.5).ceil().clamp(max=255) + 2
        assert (out[0, 0] >= low).all() and (out[0, 0] <= high).all()
    assert torch.equal(change_colours(grey, np.random.default_rng(0), 0.0), grey)


def test_hue_turns_colours_but_keeps_their_value():
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8))
    still = change_colours(image, np.random.default_rng(1), 1.0)
    turned = change_colours(image, np.random.default_rng(1), 1.0, hue=90)
    assert not torch.equal(still, turned)
    assert (still.amax(0).int() - turned.amax(0).int()).abs().max() <= 2
