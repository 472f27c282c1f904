"""Mask-Adapter above its core: mixed masks, losses, classes of any kind, masks of any source, and what it says of bad input."""

import copy
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from datamodules.demo.things import WORDS, DemoThings
from datamodules.demo.world import NOVEL
from datamodules.errors import UserError
from tests.conftest import ROOT
from tests.mask_adapter.trees import clip_folder
from tests.parity.test_mask_adapter import close, places
from zoo import hub
from zoo.mask_adapter.bound import area_mean, crops, upper_bound
from zoo.mask_adapter.loss import classification, consistency
from zoo.mask_adapter.matcher import mask_iou, match
from zoo.mask_adapter.mixing import Mixing
from zoo.mask_adapter.module import MaskAdapter
from zoo.mask_adapter.net import Features
from zoo.mask_adapter.proposals import drawn, rough, segments_of, superpixels
from zoo.mask_adapter.text import Text, encode
from zoo.visualize import save_png

case = places("mask_adapter_tiny")
PICTURE = np.random.default_rng(0).integers(0, 256, (45, 71, 3), dtype=np.uint8)
HALVES = np.stack([np.arange(71) < 40, np.arange(71) >= 40])[:, None].repeat(45, 1)


@pytest.fixture(autouse=True)
def text_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", os.environ.get("ZOO_CACHE") or str(tmp_path_factory.getbasetemp() / "zoo"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return clip_folder(tmp_path_factory.mktemp("clip"), joint=16)


def config(folder, **changes) -> dict:
    settings = yaml.safe_load((ROOT / "zoo" / "mask_adapter" / "tiny.yaml").read_text())
    settings["net"]["clip"] |= {"name": f"local-dir:{folder}", "weights": None}
    return settings | changes


@pytest.fixture
def model(folder) -> MaskAdapter:
    torch.manual_seed(0)
    return hub.build(config(folder), ["ground", "thing", "sky"]).eval()


# -- against the released step -----------------------------------------------------------------------------------------
def test_ious_and_the_candidates_of_the_matcher_are_the_authors(case):
    t, j = case.tensors, case.json
    for b, known in enumerate(j["candidate_pairs"]):
        iou = mask_iou(t["stage2.in.pred_masks"][b].sigmoid(), t[f"stage2.in.gt_masks.{b}"])
        close(iou, t[f"stage2.out.iou.{b}"], 1e-5)
        assert sorted(match(iou, "described", j["iou_threshold"], 99).tolist()) == sorted(known)
        chosen = match(iou, "released", j["iou_threshold"], 99).tolist()
        assert [truth for _, truth in chosen] == sorted({truth for _, truth in known})
        assert all(pair in known for pair in chosen)


def released_pairs(case, b: int) -> torch.Tensor:
    """The released matcher's draw as pairs (prediction, true mask)."""
    known = dict(case.json["candidate_pairs"][b])
    return torch.tensor([(p, known[p]) for p in case.json["chosen_prediction_per_slot"][b] if p >= 0]).view(-1, 2)


def test_the_released_step_gives_the_authors_logits_losses_and_gradients(case, monkeypatch):
    t, j = case.tensors, case.json
    draws = iter([released_pairs(case, b) for b in range(len(j["candidate_pairs"]))])
    monkeypatch.setattr("zoo.mask_adapter.mixing.match", lambda *_: next(draws))
    mixing = Mixing(j["num_gt_masks"], j["num_pred_masks"], "rough", "released", j["iou_threshold"], j["mask_threshold"])
    model = MaskAdapter(copy.deepcopy(case.net), [name.split(",")[0] for name in j["train_classes"]], mixing=mixing)
    mixed = [
        mixing.mix(t[f"stage2.in.gt_masks.{b}"].float(), t[f"stage2.in.gt_classes.{b}"], t["stage2.in.pred_masks"][b].sigmoid())
        for b in range(len(j["candidate_pairs"]))
    ]
    seen = Features(t["stage2.in.clip_feature"], case.clip.dense(t["stage2.in.clip_feature"]), [])
    text = Text(t["stage2.in.text_classifier"], j["num_templates_train"])
    losses = model.losses(mixed, seen, text, None)
    tolerance = j["tolerance"]
    close(losses["loss_ce"], t["stage2.out.loss_ce_weighted"], 2e-4, 1e-4)
    close(losses["loss_cosine"], t["stage2.out.loss_cosine_weighted"], 1e-6, tolerance["cosine_losses_rel"])
    check_slots(case, model, mixed, seen, text)
    sum(losses.values()).backward()
    learning = {name.removeprefix("net."): p.grad for name, p in model.named_parameters() if p.requires_grad}
    wanted = {key.removeprefix("stage2.grad."): value for key, value in t.items() if key.startswith("stage2.grad.")}
    for key, value in wanted.items():
        close(learning[key], value, tolerance["gradients_rel_of_max"] * float(value.abs().max()))


def check_slots(case, model, mixed, seen, text) -> None:
    """Labels, logits and embeddings where the fixture's slots (true | predicted | matched) are filled."""
    t, j = case.tensors, case.json
    G, P = j["num_gt_masks"], j["num_pred_masks"]
    with torch.no_grad():
        embeddings = model.net.embeddings(seen.feature, seen.dense, [m.masks for m in mixed])
    pairs = [m.paired(e) for m, e in zip(mixed, embeddings)]
    for b, (one, found) in enumerate(zip(mixed, embeddings)):
        true = len(one.labels) - 2 * one.pairs
        slots = [*range(true), *range(G, G + one.pairs), *range(G + P, G + P + one.pairs)]
        assert t["stage2.out.all_labels"][b, slots].tolist() == one.labels.tolist()
        logits = model.net.logits(found, model.net.text_of(text.rows, seen.dense)[b].detach(), text.counts)
        close(logits, t["stage2.out.class_logits"][b, slots], 2e-3, 1e-3)
        for ours, name in zip(pairs[b], ("embed_pred", "embed_gt")):
            close(ours, t[f"stage2.out.{name}"][b, : one.pairs], j["tolerance"]["embeddings_and_logits_abs"])
    said, meant = (torch.cat(side) for side in zip(*pairs))
    real = sum(m.pairs for m in mixed)
    relative = j["tolerance"]["cosine_losses_rel"]
    close(consistency(said, meant, real), t["stage2.out.cos_real_pairs_unweighted"], 1e-6, relative)
    close(consistency(said, meant, P * len(mixed)), t["stage2.out.cos_released_unweighted"], 1e-6, relative)


def test_cross_entropy_of_the_head_is_the_authors(case):
    t = case.tensors
    close(classification(t["out.logits"], t["in.labels"]), t["out.loss_ce_unweighted"], 2e-4, 1e-4)


# -- matcher and mixed masks -------------------------------------------------------------------------------------------
def test_ious_are_those_of_counting_cells():
    torch.manual_seed(0)
    said, truth = torch.rand(5, 6, 7), torch.rand(3, 6, 7) > 0.6
    for (q, a), (g, b) in itertools.product(enumerate(said >= 0.4), enumerate(truth)):
        assert mask_iou(said, truth)[q, g].item() == pytest.approx(float((a & b).sum() / (a | b).sum()), abs=1e-5)


def test_the_matcher_without_ious_finds_the_largest_sum():
    torch.manual_seed(0)
    iou = torch.rand(5, 3)
    pairs = match(iou, "hungarian", 0.7, 9)
    best = max(sum(iou[q, g] for g, q in enumerate(some)) for some in itertools.permutations(range(5), 3))
    assert iou[pairs[:, 0], pairs[:, 1]].sum() == pytest.approx(float(best))
    assert sorted(pairs[:, 1].tolist()) == [0, 1, 2]


@pytest.mark.parametrize("how", ["described", "released", "hungarian"])
def test_a_matcher_keeps_to_its_budget_and_stands_empty_pictures(how):
    assert len(match(torch.full((9, 6), 0.9), how, 0.7, 4)) == 4
    for shape in ((0, 3), (3, 0), (0, 0)):
        assert match(torch.zeros(shape), how, 0.7, 4).shape == (0, 2)


def test_one_true_mask_trains_many_predictions_as_described_and_one_as_released():
    iou = torch.tensor([[0.9], [0.8], [0.6]])
    assert match(iou, "described", 0.7, 8).tolist() == [[0, 0], [1, 0]]
    assert len(match(iou, "released", 0.7, 8)) == 1


def test_mixed_masks_carry_the_label_of_the_true_mask_they_match():
    masks = torch.zeros(2, 16, 16)
    masks[0, :8], masks[1, 8:] = 1, 1
    proposals = torch.zeros(3, 4, 4)
    proposals[0, 2:], proposals[1, :2], proposals[2, 1:3] = 0.9, 0.9, 0.9
    mixed = Mixing(truth=2, predicted=4).mix(masks, torch.tensor([7, 5]), proposals)
    assert mixed.pairs == 2 and mixed.labels.tolist() == [7, 5, 5, 7, 5, 7]
    assert torch.equal(mixed.masks[2:4] > 0.5, masks.flip(0) > 0.5)


def test_a_picture_without_masks_trains_with_one_that_has_no_label():
    mixed = Mixing(predicted=4).mix(torch.zeros(0, 16, 16), torch.zeros(0).long(), torch.rand(3, 4, 4))
    assert mixed.labels.tolist() == [-1] and mixed.pairs == 0 and not mixed.masks.any()
    logits = torch.randn(1, 4, requires_grad=True)
    loss = classification(logits, mixed.labels)
    loss.backward()
    assert loss == 0 and not logits.grad.any()


def test_rough_copies_miss_the_mask_and_come_back_with_the_seed():
    masks = torch.zeros(2, 40, 40, dtype=torch.bool)
    masks[0, 5:20, 5:20], masks[1, 22:38, 20:35] = True, True
    first, again = (torch.random.manual_seed(3) and rough(masks, 20) for _ in range(2))
    assert torch.equal(first, again) and first.shape == (40, 40, 40)
    own = masks.repeat_interleave(20, 0)
    iou = (first & own).sum((1, 2)) / (first | own).sum((1, 2))
    assert (iou < 1).float().mean() > 0.8 and (iou > 0.7).float().mean() > 0.1 and iou.min() < 0.6


# -- classes -----------------------------------------------------------------------------------------------------------
def test_unseen_classes_are_neither_masks_nor_names_of_the_training(model):
    assert [own[0] for own in model.learnt] == ["ground", "thing"]
    labels = torch.zeros(1, 64, 64, dtype=torch.uint8)
    labels[:, 32:], labels[:, :, 40:] = 1, 2
    (sample,) = ({"image": torch.zeros(3, 64, 64), "labels": labels[0]},)
    masks, places_ = model._learnt_segments(sample)
    assert places_.tolist() == [0, 1] and not masks[:, :, 40:].any()
    assert model.seen.tolist() == [True, True, False]


def test_a_class_is_seen_if_it_shares_a_name_with_one_of_the_training(folder):
    model = hub.build(config(folder, unseen=[]), ["cat,kitten", "sky"]).eval()
    with model.asked(["lion, kitten", "cloud", "sky,heaven"]):
        assert model.seen.tolist() == [True, False, True]
    assert model.classes == ["cat", "sky"]


def test_a_list_file_replaces_the_rule_in_the_figures(folder, tmp_path):
    (tmp_path / "seen.txt").write_text("sky\n")
    model = hub.build(config(folder, unseen=[], seen_list=str(tmp_path / "seen.txt")), ["cat", "sky"])
    assert model.evaluator("val").seen.tolist() == [False, True]
    assert model.seen.tolist() == [True, True]


def test_other_classes_are_taken_for_judging_with_their_synonyms(model):
    class Data:
        samples, classes, synonyms = "scenes", ["cat", "pot", "pot"], [["cat", "kitten"], ["pot"], ["pot", "pan"]]

    model.check_data(Data())
    model.take_classes(Data.classes, None, "weights")
    assert model.names == Data.synonyms and model.classes == Data.classes and len(model.palette) == 3
    assert [own[0] for own in model.learnt] == ["ground", "thing"]
    assert {"IoU/cat", "IoU/pot (1)", "IoU/pot (2)"} <= model.evaluator("val").compute().keys()


def test_synonyms_of_the_training_data_are_kept_in_the_export(folder, tmp_path):
    class Data:
        samples, classes, synonyms = "segments", ["cat", "sky"], [["cat", "kitten"], ["sky"]]

    model = hub.build(config(folder, unseen=[]), Data.classes)
    model.check_data(Data())
    hub.export(model, tmp_path / "export", {})
    assert hub.load(tmp_path / "export").learnt == Data.synonyms


def test_three_hundred_classes_are_answered_with_wide_labels(model):
    answer = model.predict(PICTURE, classes=[f"thing {i}" for i in range(300)], masks=HALVES)
    assert answer.labels.dtype == np.int32 and answer.ignore == -1 and len(answer.palette) == 300
    metric = model.evaluator("val")
    assert metric.ignore == 255


def test_text_is_made_in_fp32_and_can_be_trained_with_after_validation(model):
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        rows = model.text(model.learnt).rows
    assert rows.dtype == torch.float32 and not rows.is_inference()
    assert torch.allclose(rows, encode(model.net.clip, model.learnt, None).rows, atol=1e-6)


# -- masks of any source -----------------------------------------------------------------------------------------------
def test_pixels_of_no_mask_are_ignored_and_others_have_a_class(model):
    masks = HALVES.copy()
    masks[0, :, :10] = False
    answer = model.predict(PICTURE, masks=masks)
    assert (answer.labels[:, :10] == answer.ignore).all() and (answer.labels[:, 10:] != answer.ignore).all()
    assert answer.classes == ["ground", "thing", "sky"]


def test_a_folder_holds_a_file_for_each_mask_or_one_of_numbers(model, tmp_path):
    save_png(tmp_path / "photo.png", PICTURE)
    for number, mask in enumerate(HALVES):
        save_png(tmp_path / "many" / "photo" / f"{number}.png", 255 * mask.astype(np.uint8))
    save_png(tmp_path / "one" / "photo.png", (HALVES * np.array([3, 9])[:, None, None]).sum(0).astype(np.uint8))
    answers = [model.predict(tmp_path / "photo.png", masks=str(tmp_path / kind)).labels for kind in ("many", "one")]
    given = model.predict(PICTURE, masks=HALVES).labels
    assert all(np.array_equal(answer, given) for answer in answers)


@pytest.mark.parametrize("size", [(45, 71), (200, 33), (3, 5), (1, 1), (600, 500)])
def test_superpixels_share_out_a_picture_of_any_size(size):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    found = superpixels(image)
    assert (found.sum(0) == 1).all() and found.flatten(1).any(1).all() and len(found) <= 144
    assert max(found.shape[1:]) <= max(384, 3)


def test_without_masks_a_picture_is_shared_out_and_labelled(model):
    answer = model.predict(PICTURE, classes=["cat, kitten", "dog"])
    assert answer.labels.shape == (45, 71) and set(np.unique(answer.labels)) <= {0, 1} and answer.classes == ["cat", "dog"]
    numbers, segments = model.panoptic(PICTURE, classes=["cat", "dog"], things=["cat"])
    assert numbers.shape == (45, 71) and {s["isthing"] for s in segments if s["category_id"] == 1} <= {False}
    assert len(model.instances(PICTURE, top=5).scores) == 5


@pytest.fixture
def generating(folder, tmp_path) -> MaskAdapter:
    """With a small generator of random weights."""
    from zoo.mask_adapter.clip import FrozenCLIP
    from zoo.mask_adapter.generator import MaskGenerator
    from zoo.mask_adapter.parts import packed

    clip = FrozenCLIP(f"local-dir:{folder}")
    torch.manual_seed(1)
    sizes = {"channels": clip.channels, "joint": clip.width, "queries": 6, "width": 32, "heads": 2, "encoder_layers": 1,
             "encoder_hidden": 16, "decoder_layers": 1, "decoder_hidden": 16, "strides": clip.strides}  # fmt: skip
    file = tmp_path / "generator.safetensors"
    file.write_bytes(packed(MaskGenerator(**sizes), sizes))
    mixing = {"_target_": "zoo.mask_adapter.mixing.Mixing", "predicted": 4, "source": "generator", "least_iou": 0.0}
    judging = {"_target_": "zoo.mask_adapter.asking.Judging", "masks": "generator"}
    settings = config(folder, mixing=mixing, judging=judging, generator=str(file), things=["thing"])
    return hub.build(settings, ["ground", "thing", "sky"]).eval()


def test_a_generators_masks_are_judged_with_pq_and_train_the_adapter(generating, monkeypatch):
    monkeypatch.setattr(generating, "log_dict", lambda *args, **kwargs: None)
    monkeypatch.setattr(generating, "log", lambda *args, **kwargs: None)
    monkeypatch.setattr(MaskAdapter, "global_step", 0)
    labels = torch.zeros(1, 64, 64, dtype=torch.uint8)
    labels[:, 32:] = 1
    batch = {"image": torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8), "labels": labels}
    generating._start("val")
    with torch.inference_mode():
        generating._judge("val", batch)
    figures = generating.metrics["val"].compute()
    assert 0 <= figures["PQ"] <= 1 and figures["mIoU"] == figures["mIoU"] and figures["mask_acc"] != figures["mask_acc"]
    generating.on_train_start()
    assert torch.equal(generating.net.void_embedding.weight, generating.net.generator.void)
    generating.train()
    generating.training_step(batch, 0).backward()
    assert all(p.grad is not None for p in generating.net.mask_adapter.parameters())
    assert not any(part.training for part in generating.bases_by_name.values() if part is not None)
    assert {"clip", "generator"} == generating.bases().keys()
    assert {name.split(".")[1] for name in generating.state_dict()} == {"mask_adapter", "void_embedding"}


def test_a_generators_masks_are_named_by_both_and_may_be_pruned(generating):
    model = generating
    image = torch.from_numpy(PICTURE).permute(2, 0, 1)
    with torch.inference_mode():
        log_probs, canvas = model.found(image)
        assert log_probs.shape == (6, 4) and torch.allclose(log_probs.exp().sum(-1), torch.ones(6), atol=1e-5)
        model.judging.prune = 0.0
        assert len(model.found(image)[0]) == 0
    model.judging.prune, model.judging.side = None, 96
    assert model.predict(PICTURE).labels.shape == (45, 71)


def test_padding_does_not_change_what_a_true_mask_is_called(model):
    image, masks = torch.from_numpy(PICTURE).permute(2, 0, 1), torch.from_numpy(HALVES)
    look = model.asker.look(image)
    placed = model.asker.place(masks, look)
    assert look.padded == (64, 96) and placed.shape == (2, 64, 96)
    assert torch.equal(placed[:, :45, :71], masks) and not placed[:, 45:].any() and not placed[:, :, 71:].any()


def test_segments_of_a_scene_are_its_instances_or_its_classes():
    labels = torch.tensor([[4, 4, 255], [7, 4, 7]], dtype=torch.uint8)
    masks, classes = segments_of({"labels": labels}, 255)
    assert classes.tolist() == [4, 7] and masks.sum((1, 2)).tolist() == [3, 2]
    masks, classes = segments_of({"labels": labels, "instances": torch.tensor([[0, 0, 1], [5, 3, 5]])}, 255)
    assert classes.tolist() == [4, 4, 7] and masks.sum((1, 2)).tolist() == [2, 1, 2]
    assert torch.equal(drawn(masks, classes, 255), labels.int())


# -- the upper bound ---------------------------------------------------------------------------------------------------
def test_a_crop_is_the_masks_box_with_the_mean_colour_outside(model):
    image = torch.full((3, 40, 40), 200, dtype=torch.uint8)
    mask = torch.zeros(1, 40, 40, dtype=torch.bool)
    mask[0, 10:20, 8:28], mask[0, 10:15, 8:18] = True, False
    (crop,) = crops(model, image, mask)
    side = model.net.clip.side
    assert crop.shape == (3, side, side)
    assert torch.allclose(crop[:, : side // 2 - 4, : side // 2 - 4], torch.zeros(()), atol=1e-5)
    colour = model.normalise(image[None])[0, :, :1, :1]
    assert torch.allclose(crop[:, side // 2 + 4 :], colour.expand(3, side // 2 - 4, side), atol=1e-4)
    assert torch.isfinite(crops(model, image, torch.zeros_like(mask))).all()


def test_pooling_weighs_cells_by_how_much_of_them_the_mask_covers():
    feature = torch.arange(8.0).view(2, 2, 2)
    mask = torch.zeros(1, 8, 8)
    mask[0, :4, :4], mask[0, :4, 4:6] = 1, 1
    assert torch.allclose(area_mean(feature, mask), (feature[:, 0, 0] + 0.5 * feature[:, 0, 1])[None] / 1.5)


def test_the_upper_bounds_figures_are_counts_of_rightly_named_masks(model, monkeypatch):
    logits = torch.tensor([[5.0, 1, 4], [1, 2, 5], [6, 2, 3]])
    monkeypatch.setattr("zoo.mask_adapter.bound.named", lambda *_: ((way, logits) for way in ("cropping", "mask pooling",
                        "mask pooling, FC-CLIP's", "Mask-Adapter")))  # fmt: skip
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[0, 0], masks[1, 1], masks[2, 2] = True, True, True
    sample = {"image": torch.zeros(3, 4, 4, dtype=torch.uint8), "masks": masks, "classes": torch.tensor([0, 1, 2])}
    figures, count = upper_bound(model, [sample])                     # of the three classes, sky is unseen
    row = figures["Mask-Adapter"]
    assert count == {"seen": 2, "unseen": 1}
    assert (row["accuracy"], row["accuracy_seen"], row["accuracy_unseen"]) == pytest.approx((1 / 3, 1 / 2, 0))
    assert row["accuracy_unseen_among"] == 1
    assert row["mIoU_seen"] == pytest.approx((4 / 8 + 0) / 2) and row["mIoU_unseen_among"] == 1


# -- the demo data -----------------------------------------------------------------------------------------------------
def test_training_scenes_show_no_class_that_is_to_be_unseen():
    data = DemoThings(n_train=60, n_val=60, size=64, crop=64)
    shown = {split: {WORDS[c] for i in range(60) for c in segments_of(data.source(split).read(i), 255)[1].tolist()}
             for split in ("train", "val")}  # fmt: skip
    assert not shown["train"] & set(NOVEL) and len(shown["train"]) > 30
    assert len(shown["val"] & set(NOVEL)) > 6
    small = yaml.safe_load((ROOT / "configs" / "model" / "mask_adapter.yaml").read_text())
    assert sorted(small["model"]["unseen"]) == sorted(NOVEL)


# -- bad input ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("classes", [[], ["cat", ""], ["a,,b"], "nowhere.txt", [3]])
def test_a_list_that_names_no_classes_is_said_in_one_line(model, classes):
    with pytest.raises(UserError) as error:
        model.predict(PICTURE, classes=classes, masks=HALVES)
    assert "\n" not in str(error.value)
    assert model.classes == ["ground", "thing", "sky"]


def test_a_name_given_twice_works_and_is_said(model, capsys):
    prompt = model.prepare(classes=["cat", "dog", "cat"])
    assert "'cat' names class 1 and class 3" in capsys.readouterr().out
    answer = model.predict(PICTURE, masks=HALVES, classes=prompt["classes"])
    assert answer.classes == ["cat", "dog", "cat"] and (answer.labels != 2).all()


def test_a_name_longer_than_clip_reads_works_and_is_said(model, capsys):
    prompt = model.prepare(classes=["very " * 90 + "long", "cat"])
    assert "too long for CLIP" in capsys.readouterr().out
    assert set(np.unique(model.predict(PICTURE, masks=HALVES, classes=prompt["classes"]).labels)) <= {0, 1}


def test_no_mask_at_all_labels_nothing(model):
    answer = model.predict(PICTURE, masks=np.zeros((0, 45, 71), bool))
    assert (answer.labels == answer.ignore).all() and answer.shares() == {}


@pytest.mark.parametrize(
    "masks, what", [(np.zeros((2, 45, 70), bool), "45 x 71"), (np.zeros((45, 71), bool), "N H W"), ("nowhere", "no such folder")]
)
def test_masks_of_another_size_or_place_are_said_in_one_line(model, tmp_path, masks, what):
    save_png(tmp_path / "photo.png", PICTURE)
    with pytest.raises(UserError, match=what):
        model.predict(tmp_path / "photo.png", masks=masks)


def test_a_folder_without_the_pictures_masks_or_with_others_is_said_in_one_line(model, tmp_path):
    save_png(tmp_path / "photo.png", PICTURE)
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no masks of photo"):
        model.predict(tmp_path / "photo.png", masks=str(tmp_path / "none"))
    save_png(tmp_path / "wrong" / "photo" / "0.png", np.zeros((9, 9), np.uint8))
    with pytest.raises(UserError, match="a mask of 9x9 for a picture of 71x45"):
        model.predict(tmp_path / "photo.png", masks=str(tmp_path / "wrong"))


def test_weights_of_another_clip_are_refused_in_one_line(folder, model, tmp_path):
    hub.export(model, tmp_path / "export", {})
    other = clip_folder(tmp_path / "clip", joint=16, seed=5)
    with pytest.raises(UserError, match="made for another clip"):
        hub.load(tmp_path / "export", {"net": config(other)["net"]})


def test_a_generator_that_is_not_there_and_a_class_that_is_not_are_said_in_one_line(folder):
    judging = {"_target_": "zoo.mask_adapter.asking.Judging", "masks": "generator"}
    with pytest.raises(UserError, match="no mask generator"):
        hub.build(config(folder, judging=judging), ["ground", "thing", "sky"])
    with pytest.raises(UserError, match="no class castle"):
        hub.build(config(folder, unseen=["castle"]), ["ground", "thing", "sky"])
    with pytest.raises(UserError, match="no such file"):
        hub.build(config(folder, generator="nowhere.safetensors"), ["ground", "thing", "sky"])
