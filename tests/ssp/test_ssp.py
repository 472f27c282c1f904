"""SSP against five plain lines each, examples in and out of files, the weights of supports; DiffewS's, too."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch import seed_everything

import evaluate
from datamodules.demo.world import FOLDS, RARE
from datamodules.errors import UserError
from tests.aligndiff.trees import config
from tests.conftest import ROOT
from tests.contract import CLASSES, Squares
from zoo import hub
from zoo.nn.prototypes import prototypes
from zoo.ssp.net import SSPNet, self_support, sure


def build(method, **settings):
    seed_everything(0, verbose=False)
    return hub.build(yaml.safe_load((ROOT / "zoo" / method / "tiny.yaml").read_text()) | settings, CLASSES).eval()


@pytest.fixture(scope="module")
def model():
    return build("ssp")


def pair(number):
    shown = Squares().read(number)
    return shown["image"], (shown["labels"] == 0).to(torch.uint8)


def test_self_support_is_what_a_loop_over_cells_says():
    torch.manual_seed(0)
    features, logits = torch.randn(1, 5, 3, 4), 3 * torch.randn(1, 2, 3, 4)
    own, around, local = self_support(features, logits)
    cells = [(y, x) for y in range(3) for x in range(4)]
    p = logits.softmax(1)[0]
    things, grounds = [c for c in cells if p[1][c] > 0.7], [c for c in cells if p[0][c] > 0.6]
    assert things and grounds
    at = lambda c: features[0][:, c[0], c[1]]
    assert torch.allclose(own, torch.stack([at(c) for c in things]).mean(0), atol=1e-6)
    assert torch.allclose(around, torch.stack([at(c) for c in grounds]).mean(0), atol=1e-6)
    for c in cells:
        w = torch.stack([2 * F.cosine_similarity(at(c), at(g), dim=0) for g in grounds]).softmax(0)
        assert torch.allclose(local[:, c[0], c[1]], sum(a * at(g) for a, g in zip(w, grounds)), atol=1e-5)
    assert sure(torch.full((20,), 0.1).index_fill(0, torch.tensor([7]), 0.2), 0.7)[0] == 7


def test_two_rounds_are_the_papers_mixtures():
    torch.manual_seed(1)
    features, kinds = torch.randn(1, 6, 4, 4), torch.randn(2, 6)
    map_of = lambda kind: (kind if kind.ndim == 3 else kind[:, None, None])[None].expand_as(features)
    both = lambda ground, thing: 10 * torch.stack([F.cosine_similarity(features, map_of(k), dim=1) for k in (ground, thing)], 1)
    own, around, local = self_support(features, both(*kinds))
    ground_1, thing_1 = 0.3 * around[:, None, None] + 0.7 * local, 0.5 * kinds[1] + 0.5 * own
    first = both(ground_1, thing_1)
    own, around, local = self_support(features, first)
    ground_2 = 0.5 * kinds[0][:, None, None] + 0.2 * ground_1 + 0.3 * (0.3 * around[:, None, None] + 0.7 * local)
    second = both(ground_2, 0.5 * kinds[1] + 0.2 * thing_1 + 0.3 * (0.5 * kinds[1] + 0.5 * own))
    found = SSPNet.two_rounds(features, kinds)
    assert torch.allclose(found[0], first, atol=1e-5) and torch.allclose(found[1], second, atol=1e-5)


def test_a_support_of_weight_0_is_none_and_of_weight_2_is_two():
    torch.manual_seed(0)
    features, masks = torch.randn(3, 5, 4, 4), (torch.rand(3, 8, 8) > 0.5).to(torch.uint8)
    for ours, same in (([1.0, 1.0, 0.0], [0, 1]), ([1.0, 2.0, 0.0], [0, 1, 1])):
        found, wanted = prototypes(features, masks, torch.tensor(ours)), prototypes(features[same], masks[same])
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, wanted))


@torch.no_grad()
def test_diffews_supports_of_weight_0_are_none_and_of_weight_2_are_two():
    model = build("diffews")
    query, supports, masks = pair(1)[0][None], *(torch.stack(part)[None] for part in zip(pair(2), pair(3)))

    def answer(numbers, weights):
        given = None if weights is None else torch.tensor([weights])
        return model.answer(query, model.remember(supports[:, numbers], masks[:, numbers], given), [0])

    for numbers, weights, same in (([0, 1], [1.0, 0.0], [0]), ([0, 1], [1.0, 2.0], [0, 1, 1]), ([0, 1], [1.0, 1.0], [0, 1])):
        assert torch.allclose(answer(numbers, weights), answer(same, None), atol=1e-4)


def test_examples_label_a_picture_from_arrays_and_from_a_file(model, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (45, 71, 3), dtype=np.uint8)
    support = {"red": [list(pair(1)), list(pair(2))], "blue": [list(pair(3))]}
    now = model.predict(picture, **model.prepare(support, tmp_path / "memory.safetensors"))
    assert now.classes == ["background", "red", "blue"] and now.labels.shape == (45, 71)
    assert np.array_equal(now.labels, model.predict(picture, memory=tmp_path / "memory.safetensors").labels)
    everything = model.predict(picture, support=support, threshold=0.0).labels
    assert (everything > 0).all() and not (model.predict(picture, support=support, threshold=1.0).labels > 0).any()


def test_what_cannot_be_an_example_is_one_line(model, tmp_path):
    image, mask = pair(1)
    for support, line in (([[image, mask[:5]]], "mask of shape"), ([[image, 0 * mask]], "an empty mask"), ([], "0 shots"),
                          ([image], "no pair")):
        with pytest.raises(UserError, match=line):
            model.condition(support)
    with pytest.raises(UserError, match="asked by example"):
        model.predict(image)
    with pytest.raises(UserError, match="model.threshold: 50 is no probability"):
        build("ssp", threshold=50)
    (tmp_path / "torn").write_bytes(b"x")
    with pytest.raises(UserError, match="no saved examples"):
        model.predict(image, memory=tmp_path / "torn")


def test_what_needs_no_training_is_judged_without_weights_with_the_means_of_groups(tmp_path):
    small = ["model=ssp", "model.net.encoder=resnet10t", "model.net.level=3", "+model.net.encoder_options.channels=[8,8,16,16]"]
    few = ["data=demo_episodes", "data.size=32", "data.rare=true", "data.fixed=true", "data.episodes=40", "data.augmented=2"]
    few += ["data.pictures_per_class=3", "split=test", f"out={tmp_path}"]
    found = evaluate.run(config("evaluate", *small, *few))
    each = {name.removeprefix("IoU/"): value for name, value in found.items() if name.startswith("IoU/")}
    assert len(each) == 20
    assert found["mIoU_rare"] == pytest.approx(np.mean([each[word] for word in RARE]))
    assert found["mIoU_known"] == pytest.approx(np.mean([each[word] for word in FOLDS[0]]))
    with pytest.raises(UserError, match="no weights to judge"):
        evaluate.run(config("evaluate", "data=demo_episodes"))
