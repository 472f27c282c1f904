"""The demo world keeps its promises: the same scene at any time and size, labels that agree with the picture."""

import numpy as np
import pytest

from datamodules.demo import landscape, objects
from datamodules.demo.world import (
    FAMILIES,
    FOLDS,
    LANDSCAPE_CLASSES,
    LANDSCAPE_PALETTE,
    NOVEL,
    OBJECT_WORDS,
    OBJECTS,
    PATTERNS,
    RARE,
    SEEDS,
    class_id,
    fold_classes,
    seed_range,
    vocabulary,
)


@pytest.fixture(scope="module")
def small_scenes() -> list[np.ndarray]:
    return [landscape(0, index, (64, 64))[1] for index in range(200)]


@pytest.fixture(scope="module")
def object_scenes() -> list:
    return [objects(0, index, (64, 64), family=family) for index in range(100) for family in FAMILIES]


def test_a_scene_is_the_same_whenever_it_is_drawn():
    first, between, again = landscape(3, 5, (96, 128)), landscape(3, 6, (96, 128)), landscape(3, 5, (96, 128))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not np.array_equal(first[0], between[0]) and not np.array_equal(first[0], landscape(4, 5, (96, 128))[0])
    one, two = objects(3, 5), objects(3, 5)
    assert np.array_equal(one.image, two.image) and np.array_equal(one.masks, two.masks) and one.caption == two.caption


@pytest.mark.parametrize("size", [(33, 47), (64, 64), (96, 128), (401, 300)])
def test_any_size_is_drawn_with_labels_in_range(size):
    image, labels = landscape(0, 1, size)
    assert image.shape == (*size, 3) and image.dtype == labels.dtype == np.uint8 and labels.shape == size
    assert labels.max() < len(LANDSCAPE_CLASSES) == len(LANDSCAPE_PALETTE)
    scene = objects(0, 1, size)
    assert scene.image.shape == (*size, 3) and scene.labels.shape == size and scene.labels.max() <= len(OBJECT_WORDS)


def test_a_small_scene_is_the_large_one_seen_small():
    agree = [(landscape(0, i, (512, 512))[1][1::2, 1::2] == landscape(0, i, (256, 256))[1]).mean() for i in range(8)]
    assert min(agree) > 0.9
    for i in range(8):
        large, small = objects(0, i, (256, 256)), objects(0, i, (128, 128))
        assert (large.labels[1::2, 1::2] == small.labels).mean() > 0.97 and large.caption == small.caption


@pytest.mark.slow
def test_every_landscape_class_is_common(small_scenes):
    pixels = np.bincount(np.concatenate([labels.ravel() for labels in small_scenes]), minlength=7)
    scenes = np.sum([np.bincount(np.unique(labels), minlength=7) for labels in small_scenes], 0)
    assert (pixels / pixels.sum() > 0.02).all(), pixels / pixels.sum()
    assert (scenes > 40).all(), scenes


@pytest.mark.slow
def test_colour_alone_does_not_give_the_class_away():
    pairs = [landscape(0, index, (64, 64)) for index in range(120)]
    colours = np.concatenate([image[::2, ::2].reshape(-1, 3) // 32 for image, _ in pairs]).astype(int) @ (64, 8, 1)
    labels = np.concatenate([labels[::2, ::2].ravel() for _, labels in pairs])
    counts = np.zeros((512, 7))
    half = len(labels) // 2
    np.add.at(counts, (colours[:half], labels[:half]), 1)
    guess = counts.argmax(1)[colours[half:]]
    truth = labels[half:]
    iou = [((guess == c) & (truth == c)).sum() / ((guess == c) | (truth == c)).sum() for c in range(7)]
    assert np.mean(iou) < 0.4


def test_masks_are_the_visible_objects_of_the_label_map(object_scenes):
    for scene in object_scenes:
        assert scene.masks.sum(0).max() <= 1 and len(scene.masks) == len(scene.classes) == len(scene.things) > 0
        drawn = (scene.masks * scene.classes[:, None, None]).sum(0)
        assert np.array_equal(drawn, scene.labels) and scene.masks.any((1, 2)).all()
        assert [class_id(thing.kind.word) for thing in scene.things] == list(scene.classes)


def test_every_object_class_occurs(object_scenes):
    scenes = [objects(1, index, (64, 64), count=(3, 5)) for index in range(200)] + object_scenes
    seen = np.bincount(np.concatenate([scene.classes for scene in scenes]), minlength=len(OBJECT_WORDS) + 1)[1:]
    assert seen.min() >= 3


def test_a_solo_object_fills_the_picture():
    for index in range(30):
        scene = objects(0, index, (64, 64), solo=True)
        rows, columns = np.nonzero(scene.masks[0])
        assert len(scene.things) == 1 and max(np.ptp(rows), np.ptp(columns)) > 40


def test_captions_use_known_words_and_only_classes_asked_for(object_scenes):
    known = [word for word in OBJECT_WORDS if word not in RARE]
    for scene in [objects(0, index, (64, 64), classes=known) for index in range(100)]:
        assert not set(scene.caption) & set(RARE) and set(scene.caption) <= set(vocabulary())
    for scene in object_scenes:
        assert scene.ground in FAMILIES[scene.family] and scene.caption[-1] == scene.ground
        assert {thing.kind.word for thing in scene.things} <= set(scene.caption)


def test_uses_share_no_scene():
    spans = sorted(seed_range(name) for name in SEEDS)
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:])) and all(start < stop for start, stop in spans)


def test_rare_novel_and_folds_are_disjoint():
    assert len(OBJECT_WORDS) == len(set(OBJECT_WORDS)) >= 48
    assert not set(RARE) & set(NOVEL) and set(RARE + NOVEL) < set(OBJECT_WORDS)
    folded = [word for fold in FOLDS for word in fold]
    assert len(folded) == len(set(folded)) and set(folded) == set(OBJECT_WORDS) - set(RARE)
    for fold in range(4):
        train, test = fold_classes(fold)
        assert not set(train) & {*test, *RARE, *NOVEL}
    assert not set(FAMILIES["meadow"]) & set(FAMILIES["table"])


def test_no_word_is_a_part_of_a_rare_word():
    words = vocabulary()
    assert len(words) == len(set(words))
    assert not [(word, rare) for word in words for rare in RARE if word != rare and word in rare]


def test_every_class_is_a_form_with_a_pattern_and_rare_ones_are_new_pairs_of_known_parts():
    assert len({(c.form, c.pattern) for c in OBJECTS}) == len(OBJECTS) and {c.pattern for c in OBJECTS} == set(PATTERNS)
    known = [c for c in OBJECTS if c.word not in RARE]
    for c in OBJECTS:
        if c.word in RARE:
            assert c.form in {k.form for k in known} and c.pattern in {k.pattern for k in known}
