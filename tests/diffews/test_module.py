"""DiffewS above its net: figures, baselines, kept latents, examples from pictures and files, what is refused."""

import copy
import json
import time

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch.nn import functional as F

from datamodules.errors import UserError
from datamodules.samples import collate_episodes
from tests.conftest import ROOT
from tests.contract import CLASSES, SquareEpisodes, Squares, trainer
from zoo import hub
from zoo.diffews.episodes import batch_moments, kept, same_supports, seeds_of, with_moments
from zoo.diffews.novel import ALL, OURS, PROTOTYPES, Matcher
from zoo.metrics import EpisodeIoU
from zoo.nn.prototypes import masked_average, prototypes, similarity

SIDE = 32


def build(**settings):
    seed_everything(0, verbose=False)
    config = yaml.safe_load((ROOT / "zoo" / "diffews" / "tiny.yaml").read_text())
    return hub.build(config | {"size": SIDE} | settings, CLASSES)


@pytest.fixture(scope="module")
def model():
    return build().eval()


def episodes(**settings):
    return SquareEpisodes(**{"size": SIDE} | settings)


def scene(number, size=None):
    """A picture 3 H W and the mask H W of its first class, at a size of its own."""
    shown = Squares().read(number)
    picture, mask = shown["image"], (shown["labels"] == 0).to(torch.uint8)
    if size:
        picture = F.interpolate(picture[None], size, mode="bilinear")[0]
        mask = F.interpolate(mask[None, None], size, mode="nearest")[0, 0]
    return picture, mask


# -- figures -----------------------------------------------------------------------------------------------------------
def test_figures_are_those_of_pixels_counted_one_by_one():
    rng = np.random.default_rng(0)
    metric, ids = EpisodeIoU(list("abcd"), [0, 2, 3]), [0, 2, 2, 0]              # of class 3 nothing is drawn
    seen = []
    for class_id in ids:
        prediction, truth = rng.integers(0, 2, (5, 7)), rng.choice([0, 1, 255], (5, 7))
        metric.update(torch.tensor(prediction), torch.tensor(truth), class_id)
        seen += [(class_id, p, t) for p, t in zip(prediction.ravel(), truth.ravel()) if t != 255]

    def iou(label, classes):
        both = sum(p == t == label for c, p, t in seen if c in classes)
        either = sum(label in (p, t) for c, p, t in seen if c in classes)
        return both / max(either, 1)

    found = metric.compute()
    assert found["mIoU"] == pytest.approx(np.mean([iou(1, [c]) for c in (0, 2, 3)]))
    assert found["FB-IoU"] == pytest.approx(np.mean([iou(0, [0, 2, 3]), iou(1, [0, 2, 3])]))
    assert found["IoU/d"] == 0 and "IoU/b" not in found


def test_validation_tells_both_protocols_of_the_classes_that_are_judged(model, tmp_path):
    class Some(SquareEpisodes):
        def names_by_class(self, split):
            return dict.fromkeys((0,) if split == "train" else (1, 2), Squares.names[1:])

    data = Some(size=SIDE, episodes=5, val_batch_size=2)
    found = trainer(tmp_path, 1, limit_val_batches=1.0).validate(model, data, verbose=False)[0]
    assert {"val/mIoU", "val/FB-IoU", "val/mIoU_original", "val/FB-IoU_original", "val/IoU/thing", "val/IoU/sky"} <= set(found)
    assert "val/IoU/ground" not in found
    alone, source = EpisodeIoU(CLASSES, [1, 2]), data.source("val")              # one by one, at the pictures' own 64 x 64
    for number in range(len(source)):
        one = source.read(number)
        with torch.inference_mode():
            memories = model.remember(one["supports"][None], one["support_masks"][None])
            output = model.answer(one["query"][None], memories, [0])[0]
        alone.update(model.marked(output, (64, 64)), one["query_truth"], one["class_id"])
    assert found["val/mIoU_original"] == pytest.approx(alone.compute()["mIoU"], abs=1e-3)


def test_neighbours_with_the_same_supports_are_answered_as_if_each_had_its_own(model, monkeypatch):
    source = episodes(episodes=4).source("test")
    one, two, three, four = (source.read(number) for number in range(4))
    shown = {name: one[name] for name in ("supports", "support_masks")}
    other = {name: part.flip(-1) for name, part in shown.items()}
    batch = collate_episodes([one, two | shown, three | shown, four | other])
    spans = same_supports({name: batch[name] for name in shown})
    assert spans == [slice(0, 3), slice(3, 4)]
    with torch.inference_mode():
        separate = model.answer(batch["query"], model.remember(*(batch[name] for name in shown)), seeds_of(batch))
        written, remember = [], model.remember
        monkeypatch.setattr(model, "remember", lambda *given: written.append(len(given[0])) or remember(*given))
        assert torch.allclose(model.outputs(batch), separate, atol=1e-5) and written == [1, 1]


# -- prototypes --------------------------------------------------------------------------------------------------------
def test_prototypes_are_mean_features_under_the_mask_and_outside_it():
    torch.manual_seed(0)
    features, masks = torch.randn(3, 5, 4, 6), (torch.rand(3, 8, 12) > 0.6).to(torch.uint8)
    masks[2] = 0                                                                 # a shot that shows nothing of the object
    cell = lambda mask, y, x: mask[2 * y:2 * y + 2, 2 * x:2 * x + 2].float().mean()
    shares = torch.tensor([[[cell(mask, y, x) for x in range(6)] for y in range(4)] for mask in masks])
    means = lambda weights: torch.stack([(f * w).sum((1, 2)) / w.sum() for f, w in zip(features, weights) if w.sum() > 0]).mean(0)
    found = prototypes(features, masks)
    assert torch.allclose(found[0], means(shares), atol=1e-6) and torch.allclose(found[1], means(1 - shares), atol=1e-6)
    assert torch.equal(masked_average(features, torch.zeros(3, 4, 6)), torch.zeros(3, 5))


def test_similarity_is_the_cosine_of_every_cell_with_every_prototype():
    torch.manual_seed(0)
    features, kinds = torch.randn(2, 5, 3, 4), torch.randn(3, 5)
    found = similarity(features, kinds)
    for b, k, y, x in ((0, 0, 0, 0), (1, 2, 2, 3), (0, 1, 1, 2)):
        assert found[b, k, y, x] == pytest.approx(float(F.cosine_similarity(features[b, :, y, x], kinds[k], dim=0)), abs=1e-6)
    assert similarity(features, torch.zeros(1, 5)).abs().max() == 0


# -- training ----------------------------------------------------------------------------------------------------------
def test_kept_latents_are_those_of_every_step_mirrored_pictures_and_several_shots_too(tmp_path):
    model = build()
    data = episodes(flip=0.5, train_shots=(2, 2))
    plain = data.training()
    wrapped = with_moments(plain, model.vae, model.sha256, str(tmp_path), 0, 1, lambda: None)
    model.log_dict = model.log = lambda *args, **kwargs: None
    for visit in (0, 2):
        batches = [data.collate([dataset[visit + i, 0] for i in range(2)]) for dataset in (plain, wrapped)]
        assert kept("supports") in batches[1] and kept("supports") not in batches[0]
        for name in ("query", "query_mask", "supports", "support_masks"):
            made, read = (batch_moments(model.vae, name, batch) for batch in batches)
            assert made.shape == read.shape and torch.allclose(made, read, rtol=2e-3, atol=2e-3), name    # kept in 16 bit
        losses = []
        for batch in batches:
            torch.manual_seed(visit)
            losses.append(model.training_step(batch, 0).item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-2)
        torch.manual_seed(visit + 100)                                           # drawn anew: another step, another loss
        assert model.training_step(batches[1], 0).item() != losses[1]


def test_a_filled_cache_is_not_gone_through_again_and_colours_are_refused(tmp_path, model, monkeypatch):
    data = episodes()
    with_moments(data.training(), model.vae, model.sha256, str(tmp_path), 0, 1, lambda: None)

    again, read = episodes().training(), []
    monkeypatch.setattr("zoo.diffews.episodes.GLANCE", 2)
    monkeypatch.setattr(again.pool, "views", lambda views=again.pool.views: (read.append(view) or view for view in views()))
    with_moments(again, model.vae, model.sha256, str(tmp_path), 0, 1, lambda: None)
    assert len(read) == 2 < again.view_count()
    model.check_data(episodes(colour=0.5))
    with pytest.raises(UserError, match="data.colour=0.5: .*model.latents=null"):
        build(latents=str(tmp_path)).check_data(episodes(colour=0.5))


class Noting(Callback):
    """Each process writes down what it is given, and its weights at the end."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_start(self, trainer, module, batch, index):
        rows = zip(batch["class_id"].tolist(), batch["name"], batch["support_names"])
        with (self.folder / f"rank{trainer.global_rank}.txt").open("a") as file:
            file.write("".join(f"{class_id} {name} {names}\n" for class_id, name, names in rows))

    def on_train_end(self, trainer, module):
        sums = [parameter.double().sum().item() for parameter in module.net.parameters()]
        (self.folder / f"weights{trainer.global_rank}.txt").write_text(repr(sums))


NET = {"_target_": "zoo.diffews.net.DiffewSNet", "_partial_": True}
VARIANTS = {
    "the support's mask hides its cells": {"net": NET | {"injection": "mask"}},
    "several steps": {"process": {"_target_": "zoo.diffews.process.Process", "betas": [0.0272, 0.384], "steps": 3}},
    "an absolute threshold": {"threshold": 0.1, "relative": False},
    "sampled tokens": {"sampling": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_train_and_answer(variant, tmp_path):
    model, data = build(**VARIANTS[variant]), episodes(shots=2, train_shots=(1, 3), episodes=3)
    fitted = trainer(tmp_path, 2, limit_val_batches=1.0, val_check_interval=2, check_val_every_n_epoch=None)
    fitted.fit(model, data)
    assert np.isfinite(float(fitted.callback_metrics["train/loss"])) and 0 <= fitted.callback_metrics["val/mIoU"] <= 1
    file = tmp_path / "memory.safetensors"
    prompt = model.prepare(support=[scene(1), scene(2)], memory=file)
    assert np.array_equal(model.predict(scene(4)[0], **prompt).labels, model.predict(scene(4)[0], memory=file).labels)


def test_two_processes_train_on_different_episodes_and_keep_equal_weights(tmp_path):
    torch.set_num_threads(1)
    model, data = build(latents=str(tmp_path / "latents")), episodes(flip=0.5, batch_size=2)
    data.wrap = model.wrap
    trainer(tmp_path, 4, devices=2, strategy="ddp_fork", callbacks=[Noting(tmp_path)]).fit(model, data)
    drawn = episodes(flip=0.5, batch_size=2).training()
    visits = [[f"{one['class_id']} {one['name']} {one['support_names']}" for one in (drawn[v, 0] for v in range(rank, 16, 2))]
              for rank in range(2)]
    assert [(tmp_path / f"rank{rank}.txt").read_text().splitlines() for rank in range(2)] == visits
    assert visits[0] != visits[1]
    assert (tmp_path / "weights0.txt").read_text() == (tmp_path / "weights1.txt").read_text()


def test_an_export_needs_of_its_base_only_the_vae_and_refuses_another(tmp_path):
    model = build()
    hub.export(model, tmp_path, {"seed": 0})
    again = hub.load(tmp_path)
    assert again.recipe["model"]["start"] == "weights"
    assert torch.equal(again.net.text, model.net.text) and not any(key.startswith("vae") for key in again.state_dict())
    changed = copy.deepcopy(model.recipe["model"]["base"])
    changed["vae"]["block_out_channels"] = [8, 8, 16]
    with pytest.raises(UserError, match="made for another vae"):
        hub.load(tmp_path, {"base": changed})


def test_the_shots_of_a_batch_may_be_any_and_sampled_tokens_depend_on_the_episode_alone(model):
    data = episodes(shots=3, episodes=4)
    samples = [data.source("val").read(i) for i in range(4)]
    model.sampling = True
    try:
        with torch.inference_mode():
            batch = data.collate(samples)
            together = model.answer(batch["query"], model.remember(batch["supports"], batch["support_masks"]), seeds_of(batch))
            for number in (3, 1):
                one = data.collate([samples[number]])
                alone = model.answer(one["query"], model.remember(one["supports"], one["support_masks"]), seeds_of(one))
                assert torch.allclose(together[number], alone[0], atol=1e-4)
            other = model.answer(batch["query"], model.remember(batch["supports"], batch["support_masks"]), [5, 6, 7, 8])
            assert not torch.allclose(together, other, atol=1e-4)
    finally:
        model.sampling = False


# -- the end of a run --------------------------------------------------------------------------------------------------
def test_a_run_ends_with_figures_beside_two_baselines_on_the_same_episodes(tmp_path):
    model, data = build(), episodes(episodes=6)
    model.trainer = trainer(tmp_path, 1)
    lines = model.closing(data, tmp_path)
    results = json.loads((tmp_path / "novel.json").read_text())["results"]
    assert set(results) == {OURS, ALL, PROTOTYPES}
    truths = [data.source("test").read(i) for i in range(6)]
    shares = [np.mean([(one["query_mask"] == 1).float().mean() for one in truths if one["class_id"] == c]) for c in range(3)]
    assert results[ALL]["mIoU"] == pytest.approx(np.mean(shares))
    assert sum("mIoU" in line for line in lines) == 3 and str(tmp_path / "novel.png") in lines[-2]
    with Image.open(tmp_path / "novel.png") as sheet:
        assert sheet.width > 5 * 128


def test_matching_finds_what_has_the_supports_features():
    labels = torch.stack([Squares().read(i)["labels"][::4, ::4] for i in (1, 2, 3)])
    features = F.one_hot(labels.long(), 3).permute(0, 3, 1, 2).float()
    found = Matcher.match(features[:1], features[1:], (labels[1:] == 2).to(torch.uint8), (16, 16))
    assert torch.equal(found, (labels[0] == 2).to(torch.uint8))


def test_a_panel_shows_query_supports_truth_and_prediction(model):
    shown = model.panel(episodes(shots=2).source("val").read(0))
    assert list(shown) == ["query", "support 1", "support 2", "truth", "prediction"]
    assert {picture.shape for picture in shown.values()} == {(128, 128, 3)}


# -- use ---------------------------------------------------------------------------------------------------------------
def test_a_square_picture_gets_the_answer_of_evaluation(model):
    episode = episodes(shots=2).source("val").read(1)
    pairs = list(zip(episode["supports"], episode["support_masks"]))
    assert np.array_equal(model.predict(episode["query"], support=pairs).labels == 1, model.found_in(episode).numpy())


def test_pictures_and_examples_of_any_size_and_several_classes_at_once(model, tmp_path):
    support = {"ground": [scene(1, (40, 56)), scene(2, (21, 90))], "sky": [scene(3, (33, 17))]}
    answer = model.predict(scene(4, (45, 71))[0], support=support)
    assert answer.labels.shape == (45, 71) and answer.classes == ["background", "ground", "sky"]
    assert set(np.unique(answer.labels)) <= {0, 1, 2}
    apart = [model.predict(scene(4, (45, 71))[0], support={word: pairs}).labels == 1 for word, pairs in support.items()]
    assert np.array_equal(answer.labels > 0, apart[0] | apart[1])
    assert np.array_equal(answer.labels[apart[0] & ~apart[1]], np.ones((apart[0] & ~apart[1]).sum()))


def test_a_memory_in_a_file_answers_as_the_pictures_do_and_belongs_to_its_weights(model, tmp_path):
    support, file = {"a": [scene(1)], "b": [scene(2, (30, 50))]}, tmp_path / "memory.safetensors"
    expected = model.predict(scene(4)[0], **model.prepare(support=support, memory=file))
    assert np.array_equal(model.predict(scene(4)[0], memory=file).labels, expected.labels)
    again = model.predict(scene(5)[0], **model.prepare(memory=str(file)))
    assert again.classes == ["background", "a", "b"]
    other = build(start="random")
    with pytest.raises(UserError, match="other weights"):
        other.predict(scene(4)[0], memory=file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="memory.safetensors: no saved memory"):
        model.prepare(memory=file)


def test_support_as_the_command_line_gives_it(model, tmp_path):
    picture, mask = scene(1, (30, 40))
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    for white in (1, 255):
        Image.fromarray(mask.numpy() * np.uint8(white)).save(tmp_path / "a_mask.png")
        answer = model.predict(tmp_path / "a.png", support=[[str(tmp_path / "a.png"), str(tmp_path / "a_mask.png")]])
        assert np.array_equal(answer.labels, model.predict(picture, support=[(picture, mask)]).labels)


picture, mask = scene(1, (24, 30))
BAD = {
    "empty": ([(picture, mask * 0)], "an empty mask"),
    "tiny": ([(*scene(1, (640, 640))[:1], torch.zeros(640, 640, dtype=torch.uint8).index_fill(0, torch.tensor([1]), 1))],
             "nothing of the object is left at 32x32"),
    "sizes": ([(picture, mask[:-1])], "a picture of 30x24 with a mask of 30x23"),
    "no shots": ([], "0 shots"),
    "no shots of a class": ({"cat": []}, "support of cat: 0 shots"),
    "values": ([(picture, mask + mask.roll(3) * 2)], "a mask with the values 1, 2, 3 beside 0"),
    "a pair alone": ([picture, mask], "no list of pairs"),
    "a word": ("a.jpg", "no list of pairs"),
    "colours": ([(picture, picture)], "a mask of shape"),
    "no such file": ([["nowhere.jpg", "nowhere.png"]], "nowhere"),
    "background": ({"background": [(picture, mask)]}, "'background' is what no class is"),
    "nothing": ({}, "no classes"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_support_is_one_line(model, case):
    support, said = BAD[case]
    with pytest.raises(UserError, match=said) as caught:
        model.predict(picture, support=support)
    assert "\n" not in str(caught.value)


def test_without_examples_or_with_windows_one_line_is_said(model):
    with pytest.raises(UserError, match="asked by example"):
        model.predict(picture)
    model.inference.mode = "slide"
    try:
        with pytest.raises(UserError, match="about a whole picture at once"):
            model.predict(picture, support=[(picture, mask)])
    finally:
        model.inference.mode = "bands"


@pytest.mark.parametrize("place", ["nobody/no-such-base", "no_such_folder"])
def test_a_missing_base_is_one_line_at_once(place):
    start = time.perf_counter()
    with pytest.raises(UserError, match=place):
        build(base=place)
    assert time.perf_counter() - start < 5


def test_a_set_of_scenes_is_refused_and_any_classes_are_taken(model):
    from datamodules.demo.data import DemoScenes

    with pytest.raises(UserError, match="DiffewS needs episodes"):
        model.check_data(DemoScenes(family="landscape", size=32, n_train=1, n_val=1, n_test=1, crop=32))
    model.take_classes(["x", "y"], None, "somewhere")
    assert model.classes == ["x", "y"] and len(model.palette) == 2
    model.take_classes(CLASSES, None, "somewhere")
