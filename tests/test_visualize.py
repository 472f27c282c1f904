"""Pictures of labels: sizes, colours, and files that read back as they were."""

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.files import read_image, read_labels
from datamodules.samples import default_palette
from zoo.visualize import (
    beside,
    caption,
    colourise,
    edges,
    fitted,
    font,
    heat,
    legend,
    overlay,
    panel,
    present,
    save_label_png,
    save_png,
    sheet,
    shrink,
    shrink_labels,
    stack,
    to_picture,
)

PALETTE = [(200, 30, 30), (30, 200, 30), (255, 255, 255)]
CLASSES = ["sky", "tree", "a very long name of a class"]


@pytest.fixture
def labels():
    labels = np.zeros((40, 60), np.uint8)
    labels[10:30, 20:50] = 1
    labels[:5, :5] = 255
    return labels


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def test_labels_take_their_colours_and_ignored_ones_black(labels):
    picture = colourise(labels, PALETTE)
    assert picture.shape == (40, 60, 3) and picture.dtype == np.uint8
    assert [tuple(picture[y, x]) for y, x in ((20, 30), (39, 0), (0, 0))] == [PALETTE[1], PALETTE[0], (0, 0, 0)]
    assert np.array_equal(colourise(np.where(labels == 255, -1, labels.astype(np.int32)), PALETTE, ignore=-1), picture)


def test_an_overlay_mixes_by_alpha_and_leaves_ignored_pixels(image, labels):
    mixed = overlay(image, labels, PALETTE, alpha=0.25)
    expected = 0.75 * image + 0.25 * colourise(labels, PALETTE)
    known = labels != 255
    assert np.abs(mixed[known] - expected[known]).max() <= 0.5
    assert np.array_equal(mixed[~known], image[~known])


def test_outlines_lie_between_the_classes(image, labels):
    assert edges(labels)[20, 19] and edges(labels)[20, 49] and not edges(labels)[20, 30]
    assert (overlay(image, labels, PALETTE, outline=True)[20, 19] == 255).all()


def test_large_pictures_shrink_with_their_labels_and_small_ones_stay(image, labels):
    assert shrink(image, 64) is image
    assert shrink(image, 30).shape == (20, 30, 3) and shrink_labels(labels, 30).shape == (20, 30)
    assert overlay(image, labels, PALETTE, max_side=30).shape == (20, 30, 3)
    assert set(np.unique(shrink_labels(labels, 30))) == {0, 1, 255}
    assert np.array_equal(shrink_labels(labels, 60), labels)


def test_a_label_beyond_the_palette_is_not_drawn_as_another(image):
    with pytest.raises(IndexError):
        colourise(np.full((4, 4), 9, np.uint8), PALETTE)
    with pytest.raises(ValueError, match="differ in size"):
        overlay(image, np.zeros((4, 4), np.uint8), PALETTE)


def test_the_legend_shows_only_the_classes_present(labels):
    assert present(labels) == [0, 1]
    found = legend(CLASSES, PALETTE, only=present(labels)).reshape(-1, 3).tolist()
    assert list(PALETTE[0]) in found and list(PALETTE[1]) in found
    only = legend(CLASSES, PALETTE, only=[1]).reshape(-1, 3).tolist()
    assert list(PALETTE[0]) not in only and list(PALETTE[1]) in only
    assert legend(CLASSES, PALETTE, only=[]).ndim == 3


def test_a_long_legend_goes_on_in_further_columns():
    names = [f"class {i}" for i in range(45)]
    one, many = legend(names, default_palette(45), rows=45), legend(names, default_palette(45), rows=15)
    assert many.shape[0] < one.shape[0] / 2 and many.shape[1] > 2 * one.shape[1]


def test_words_stay_within_their_width():
    text = fitted("x" * 500, 100, 16)
    assert text.endswith("...") and font(16).getlength(text) <= 100
    assert fitted("short", 100, 16) == "short"


def test_panels_and_sheets_hold_pictures_of_any_size(image):
    small = image[:20, :10]
    row = panel([image, small], ["picture", "a caption wider than its picture"])
    assert row.shape[0] == caption(image, "picture").shape[0] and row.shape[1] == 60 + 8 + 10
    assert stack([image, small]).shape == (40 + 8 + 20, 60, 3)
    grid = sheet([image, small, image], list("abc"), columns=2, cell=48)
    assert grid.shape[1] == 2 * 48 + 8 and grid.dtype == np.uint8
    assert np.array_equal(beside([image, small])[:20, 68:], small)


def test_heat_grows_brighter():
    ramp = heat(np.linspace(0, 1, 32)[None]).astype(int).sum(-1)[0]
    assert ramp[0] < 20 and ramp[-1] > 500 and (np.diff(ramp) >= 0).mean() > 0.9
    assert heat(np.array([[np.nan, -1.0, 2.0]])).shape == (1, 3, 3)


def test_saved_pictures_read_back_equal(tmp_path, image):
    save_png(tmp_path / "deep" / "a.png", image)
    read = read_image(tmp_path / "deep" / "a.png")
    assert np.array_equal(to_picture(read), image)
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["a.png"]


def test_saved_labels_read_back_equal_with_their_palette(tmp_path, labels):
    save_label_png(tmp_path / "a.png", labels, PALETTE)
    assert torch.equal(read_labels(tmp_path / "a.png"), torch.from_numpy(labels))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.array(picture.convert("RGB")), colourise(labels, PALETTE))
    save_label_png(tmp_path / "b.png", np.where(labels == 255, -1, labels.astype(np.int32)), PALETTE)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_more_than_255_classes_are_saved_in_16_bits(tmp_path):
    labels = np.array([[0, 255, 299], [-1, 256, 1]], np.int32)
    save_label_png(tmp_path / "a.png", labels, default_palette(300))
    assert read_labels(tmp_path / "a.png").tolist() == [[0, 255, 299], [65535, 256, 1]]
    with pytest.raises(ValueError, match="not one of 300 classes"):
        save_label_png(tmp_path / "b.png", labels + 1, default_palette(300))
