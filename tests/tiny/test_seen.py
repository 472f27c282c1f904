"""What the tiny models' trainings ask the generator for: read off the generator's calls, not off the README."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from datamodules.demo.world import RARE, WORLD_SEED, seed_range
from zoo.tiny import clip, pictures, sentences, train_autoencoder, train_clip, train_unet


class Blind:
    """A scene that fails when its masks or labels are touched."""

    def __init__(self, scene):
        self.image, self.things, self.ground, self.caption = scene.image, scene.things, scene.ground, scene.caption

    def __getattr__(self, name: str):
        raise AssertionError(f"a training looked at {name}")


@dataclass
class Calls:
    indices: list[int] = field(default_factory=list)
    words: set[str] = field(default_factory=set)


@pytest.fixture
def calls(monkeypatch) -> Calls:
    """Every call of the generator; scenes come back blind."""
    seen, real_objects, real_landscape = Calls(), pictures.objects, pictures.landscape

    def objects(seed: int, index: int, size, classes=None, **layout):
        assert seed == WORLD_SEED and classes is not None
        scene = real_objects(seed, index, size, classes=classes, **layout)
        seen.indices.append(index)
        seen.words |= set(classes) | {thing.kind.word for thing in scene.things}
        return Blind(scene)

    def landscape(seed: int, index: int, size):
        assert seed == WORLD_SEED
        seen.indices.append(index)
        return real_landscape(seed, index, size)

    monkeypatch.setattr(pictures, "objects", objects)
    monkeypatch.setattr(pictures, "landscape", landscape)
    return seen


def small_clip(monkeypatch) -> Callable:
    phases = [train_clip.Phase(p.pool, 2, 32, 4, p.lr, p.zoom, p.scenes) for p in train_clip.PHASES]
    monkeypatch.setattr(train_clip, "WHOLE", (64, 3))
    monkeypatch.setattr(train_clip, "POOLS", {name: (start, count, 64) for name, (start, count, _) in train_clip.POOLS.items()})
    return train_clip.Curriculum(0, phases).step


def small_autoencoder(monkeypatch) -> Callable:
    monkeypatch.setattr(train_autoencoder, "SIDE", 64)
    monkeypatch.setattr(train_autoencoder, "PCA_CROPS", 40)
    return train_autoencoder.Training(0, train_autoencoder.RECIPE | {"seed": 0, "steps": 8}).step


def small_unet(monkeypatch) -> Callable:
    phases = [train_unet.Phase(2 + i, p.side // 2, 3, p.mix) for i, p in enumerate(train_unet.PHASES)]
    monkeypatch.setattr(train_unet, "POOLS", {side // 2: pools for side, pools in train_unet.POOLS.items()})
    return train_unet.Training(0, phases, train_autoencoder.untrained().eval(), clip.untrained(["a"])).step


@pytest.mark.parametrize("build", [small_clip, small_autoencoder, small_unet])
def test_a_training_sees_no_rare_class_no_mask_and_no_scene_of_another_use(build, calls, monkeypatch):
    step = build(monkeypatch)
    for number in range(8):
        assert all(np.isfinite(value) for value in step(number, np.random.default_rng((0, number))).values())
    start, _ = seed_range("base")
    assert len(set(calls.indices)) > 10 and calls.words
    assert all(start <= index < pictures.indices("check", 0, 1)[0] for index in calls.indices)
    assert not calls.words & set(RARE)


def test_whole_pools_lie_in_their_own_part_of_the_base_range():
    spans = [("clip", *span[:2]) for span in train_clip.POOLS.values()]
    spans += [("autoencoder", *span) for span in [*train_autoencoder.POOLS.values(), train_autoencoder.LANDSCAPES]]
    spans += [("unet", *span) for pools in train_unet.POOLS.values() for span in pools.values()]
    ranges = sorted((pictures.indices(*span) for span in spans), key=lambda r: r.start)
    assert all(a.stop <= b.start for a, b in zip(ranges, ranges[1:]))
    start, stop = seed_range("base")
    assert start <= ranges[0].start and ranges[-1].stop <= pictures.indices("check", 0, 1)[0] < stop
    with pytest.raises(ValueError, match="beyond"):
        pictures.indices("check", 0, stop)


def test_no_sentence_of_the_training_holds_a_rare_word_or_a_token_of_one():
    said = sentences.all_words()
    assert not {word for sentence in said for word in sentence.strip(".").split()} & set(RARE)
    read = set(clip.tokens(said).unique().tolist())
    ends = {49406, 49407}
    assert all(not (set(clip.tokens([word]).unique().tolist()) - ends) & read for word in RARE)


def test_the_table_of_the_shipped_clip_is_empty_for_every_word_it_has_not_read():
    table = clip.load().token_embedding.weight
    read = clip.tokens(sentences.all_words()).unique()
    used = torch.zeros(len(table), dtype=torch.bool)
    used[read] = True
    assert (table[~used] == 0).all() and (table[used].abs().sum(1) > 0).all()


def test_prompts_say_what_is_in_the_picture():
    rng = np.random.default_rng(0)
    for index in pictures.indices("check", 0, 30):
        picture = pictures.look(index, "scene", 64)
        shown = {word for thing in picture.things for group in thing.words.values() for word in group}
        said = sentences.prompt(picture, rng).strip(".").split()
        assert set(said) <= shown | {"and", "on", "a", "photo", "of", picture.ground}
        assert len([w for w in said if w in shown]) >= len(picture.things)


def test_a_view_names_what_lies_inside_and_leaves_out_what_is_cut():
    thing = lambda x, y: pictures.Seen({"class": ["ball"]}, x, y, 0.1)
    inside, cut, outside = (train_clip.share_inside(thing(x, 0.5), 0.2, 0.2, 0.5) for x in (0.4, 0.7, 0.9))
    assert (inside, cut, outside) == pytest.approx((1.0, 0.5, 0.0))
    rng = np.random.default_rng(0)
    picture = pictures.look(pictures.indices("check", 3, 1)[0], "scene", 128)
    for _ in range(20):
        image, named, unsure = train_clip.view(picture, (2.0, 4.5), 32, rng)
        assert image.shape == (32, 32, 3) and named and not any(t in named for t in unsure)


def test_targets_share_the_weight_and_half_seen_objects_count_for_nothing():
    thing = lambda word: pictures.Seen({"class": [word]}, 0.5, 0.5, 0.1)
    weights, counts = train_clip.target("class", [thing("ball"), thing("rose")], [thing("corn"), thing("ball")], "sand")
    at = sentences.GROUPS["class"].index
    assert weights[at("ball")] == weights[at("rose")] == 0.5 and weights.sum() == 1
    assert not counts[at("corn")] and counts[at("ball")] and counts.sum() == len(counts) - 1


def test_recipes_are_plain_text():
    assert json.loads(json.dumps(train_autoencoder.RECIPE)) == train_autoencoder.RECIPE
