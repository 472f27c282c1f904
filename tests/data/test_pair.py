"""Pictures with the mask of one object and its word."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.errors import UserError
from datamodules.pair import PairData

MASK = np.zeros((12, 16), np.uint8)
MASK[3:9, 4:12] = 1
SIZE = {"crop": 8, "workers": 0, "batch_size": 2}


@pytest.fixture
def files(tmp_path):
    """a.png and b.png with masks a_mask.png and b_mask.png."""
    for number, name in enumerate("ab"):
        picture = np.random.default_rng(number).integers(0, 256, (12, 16, 3)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
        Image.fromarray(MASK * 255).save(tmp_path / f"{name}_mask.png")
    return tmp_path


def pair(files, array=None, **settings):
    if array is not None:
        Image.fromarray(array).save(files / "a_mask.png")
    given = {"image": str(files / "a.png"), "mask": str(files / "a_mask.png"), "word": "dog"} | settings
    return PairData(**given, **SIZE)


@pytest.mark.parametrize("mask", [MASK, MASK * 255, MASK * 7, MASK * 9 + 9, np.stack([MASK * 255] * 3, -1), MASK.astype(bool)])
def test_a_pair_is_a_scene_of_background_and_its_word(files, mask):
    data = pair(files, mask)
    scene = data.source("train").read(0)
    assert data.classes == ["background", "dog"] and data.name == "pair" and scene["size"] == (12, 16) and scene["name"] == "a"
    assert torch.equal(scene["labels"], torch.from_numpy(MASK)) and scene["labels"].dtype == torch.uint8
    assert torch.equal(data.source("val").read(0)["image"], scene["image"]) and len(data.source("val")) == 1


def test_lists_of_pairs_number_each_word_once_and_make_batches(files):
    both = {"image": [str(files / f"{n}.png") for n in "ab"], "mask": [str(files / f"{n}_mask.png") for n in "ab"]}
    data = pair(files, **both, word=["red kite", "dog"])
    assert data.classes == ["background", "red kite", "dog"] and data.pairs[1][2] == "dog"
    assert [data.source("val").read(i)["labels"].max().item() for i in (0, 1)] == [1, 2]
    assert pair(files, **both, word="dog").classes == ["background", "dog"]
    batch = next(iter(pair(files, **both, val_batch_size=2).val_dataloader()))
    assert batch["image"].shape == (2, 3, 12, 16) and batch["labels"].shape == (2, 12, 16)


def test_a_soft_mask_is_cut_at_a_threshold_only_when_asked(files):
    soft = MASK * 255
    soft[2, 4:12], soft[9, 4:12] = 100, 200
    with pytest.raises(UserError, match="a_mask.png: a mask of 4 values .0, 100, 200, 255.*or give data.threshold=128"):
        pair(files, soft).source("train")
    labels = pair(files, soft, threshold=128).source("train").read(0)["labels"]
    assert labels.sum() == MASK.sum() + 8 and labels[9, 4] == 1 and labels[2, 4] == 0


@pytest.mark.parametrize("settings, said", [
    ({"array": MASK * 0}, "a_mask.png: an empty mask"),
    ({"array": MASK * 0 + 255}, "a_mask.png: a full mask"),
    ({"array": MASK[:6]}, "a_mask.png: a mask of 16x6 for a picture of 16x12"),
    ({"array": np.stack([MASK * 255, MASK, MASK], -1)}, "a_mask.png: a coloured mask; save it as a grey picture"),
    ({"word": "  "}, "data.word: an empty word"),
    ({"word": "background"}, "'background' is not an object"),
    ({"word": ["a", "b"]}, "data.word: 2 for 1 pictures"),
    ({"threshold": 0}, "data.threshold: 0"),
    ({"image": []}, "data.image: no pictures"),
    ({"image": "none.png"}, "none.png: no such file"),
])  # fmt: skip
def test_a_mistake_is_one_line(files, settings, said):
    with pytest.raises(UserError, match=said) as caught:
        pair(files, **settings).source("train")
    assert "\n" not in str(caught.value)


def test_the_real_pairs_are_read_soft_ones_with_a_threshold(shared):
    root = shared / "data" / "aligndiff_examples"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    words = {row["category"] for row in json.loads((root / "dataset.json").read_text())["prompt_dataset"]}
    for word in sorted(words):
        images = sorted(str(path) for path in (root / word).glob("*.jpg"))
        masks = [path.replace(".jpg", ".png") for path in images]
        source = PairData(image=images, mask=masks, word=word, threshold=128, **SIZE).source("train")
        for index in range(len(source)):
            assert 0.001 < source.read(index)["labels"].float().mean() < 0.9
    with pytest.raises(UserError, match="kite/2.png: a mask of .* values"):
        PairData(image=str(root / "kite/2.jpg"), mask=str(root / "kite/2.png"), word="kite", **SIZE).source("train")
