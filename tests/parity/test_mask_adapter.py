"""The authors' numbers: Mask-Adapter's head and FC-CLIP's generator; sizes, widths and tolerances from the fixtures' JSON."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import nn

from tests.conftest import shared_folder
from tests.mask_adapter.trees import small_clip
from tests.parity.freeze_mask_adapter import PLACE, thaw
from zoo.mask_adapter.convert import generator_of, split
from zoo.mask_adapter.inference import Canvas, ensemble, instances, panoptic, semantic, semantic_rows
from zoo.mask_adapter.loss import classification, consistency
from zoo.mask_adapter.maft import ContentTransfer, scrambled_dense
from zoo.mask_adapter.matcher import mask_iou, match, resized
from zoo.mask_adapter.net import Features, MaskAdapterNet, weigh
from zoo.mask_adapter.text import Text, averaged, read_classes, seen_classes

PLACES = [PLACE, shared_folder() / "parity"]
CLIP = "backbone.clip_model."


def below(tensors: dict, prefix: str) -> dict:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def close(ours, theirs, absolute, relative=0.0):
    assert ours.shape == theirs.shape
    assert torch.allclose(ours.double(), theirs.double(), atol=absolute, rtol=relative), (ours - theirs).abs().max()


class Case:
    """The head alone: CLIP's trunk is replaced by the features the fixture holds, its projection is the fixture's."""

    def __init__(self, facts: dict, tensors: dict, place: Path, projection: str = "w."):
        self.json, self.tensors = facts, tensors
        t = tensors
        self.weights = below(t, "w.")
        self.clip = small_clip(place, self.json["embed_dim"])
        self.project_by(below(t, projection + CLIP + "visual."))
        self.clip.model.logit_scale.data = self.weights[CLIP + "logit_scale"]
        sizes = {"channels": "num_channels", "mask_channels": "mask_in_channels", "maps": "num_output_maps"}
        self.net = MaskAdapterNet(self.clip, **{ours: self.json[theirs] for ours, theirs in sizes.items()})
        self.net.mask_adapter.load_state_dict(below(self.weights, "mask_adapter."))
        self.net.void_embedding.load_state_dict(below(self.weights, "void_embedding."))
        self.net.eval()
        self.counts = self.json["num_templates_test"]
        self.masks, self.text = list(t["in.masks"]), t["in.text_classifier"]

    def project_by(self, tensors: dict) -> None:
        """Puts the fixture's norm and projection, of whatever width, in the CLIP."""
        visual, width = self.clip.model.visual, self.json["clip_channels"]
        visual.trunk.head.norm = LayerNorm2d(width, eps=1e-5)          # the fixture's stand-in for timm's, which has 1e-6
        names = [name.removeprefix("head.") for name in tensors if name.startswith("head.")]
        layers = {"mlp": _Mlp(width, tensors)} if any("mlp" in name for name in names) else {
            "proj": nn.Linear(width, self.json["embed_dim"], bias=False)}
        visual.head = nn.Sequential()
        for name, layer in layers.items():
            visual.head.add_module(name, layer)
        visual.head.load_state_dict(below(tensors, "head."))
        visual.trunk.head.norm.load_state_dict(below(tensors, "trunk.head.norm."))

    def dense(self):
        return self.clip.dense(self.tensors["in.clip_feature"])

    def maps(self, plain: bool):
        with torch.no_grad():
            return torch.stack(self.net.maps(self.dense(), self.masks, plain=plain))

    def embeddings(self, dense, plain: bool):
        with torch.no_grad():
            return torch.stack(self.net.embeddings(self.tensors["in.clip_feature"], dense, self.masks, plain=plain))


class _Mlp(nn.Module):
    """timm's, of the fixture's widths."""

    def __init__(self, width: int, tensors: dict):
        super().__init__()
        hidden, out = tensors["head.mlp.fc1.weight"].shape[0], tensors["head.mlp.fc2.weight"].shape[0]
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, out, bias=False)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


def places(name: str):
    return pytest.fixture(scope="module", params=PLACES, ids=["frozen", "outside"])(
        lambda request, tmp_path_factory: _open(request.param, name, tmp_path_factory))


def _open(folder: Path, name: str, factory):
    content = thaw(folder, name)
    if content is None:
        pytest.skip(f"no {name} fixture in {folder}")
    return (Case if name == "mask_adapter_tiny" else WholeCase)(*content, factory.mktemp(name))


case, whole = places("mask_adapter_tiny"), places("fcclip_head_tiny")


# -- the head ----------------------------------------------------------------------------------------------------------
def test_clips_features_are_projected_cell_by_cell(case):
    close(case.dense(), case.tensors["out.clip_dense"], 2e-4, 1e-4)


def test_the_masks_patches_are_the_authors(case):
    t, (H, W) = case.tensors, case.json["feature_size"]
    small = F.interpolate(t["in.masks"][0, :2, None].float(), (4 * H, 4 * W), mode="bilinear")
    with torch.no_grad():
        close(case.net.mask_adapter.mask_downscaling(small), t["out.mask_patch_first2"], 2e-4, 1e-4)


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "fast"])
def test_maps_embeddings_and_logits_are_the_authors(case, plain):
    t, tolerance = case.tensors, case.json["tolerance"]
    maps = case.maps(plain)
    close(maps.flatten(1, 2), t["out.maps"], tolerance["maps_abs"])
    close(torch.stack([weigh(own).flatten(0, 1) for own in maps]), t["out.maps_norm"], 2e-4, 1e-4)
    pooled = weigh(maps.flatten(0, 1)).unflatten(0, maps.shape[:2]) @ t["in.clip_feature"].flatten(2).transpose(1, 2)[:, None]
    close(pooled.flatten(1, 2), t["out.pooled"], 2e-4, 1e-4)
    close(case.clip.project(pooled).flatten(1, 2), t["out.embed_per_map"], tolerance["embeddings_and_logits_abs"])
    embeddings = case.embeddings(case.dense(), plain)
    close(embeddings, t["out.embed"], tolerance["embeddings_and_logits_abs"])
    logits = case.net.logits(embeddings, case.text, case.counts)
    close(logits, t["out.logits"], 2e-4, 1e-4)
    row = {what: int(number) for number, what in case.json["mask_rows"].items()}
    assert torch.equal(embeddings[0, row["copy of row 1"]], embeddings[0, 1])
    assert torch.equal(embeddings[1, row["empty in picture 1 only"]], embeddings[1, row["empty"]])


def test_the_large_models_projection_gives_the_authors_embeddings(case, tmp_path):
    t = case.tensors
    if not below(t, "w_mlp."):
        pytest.skip("this fixture holds no large projection")
    other = Case(case.json, t, tmp_path, "w_mlp.")
    embeddings = other.embeddings(other.dense(), plain=False)
    close(other.dense(), t["out_mlp.clip_dense"], 2e-4, 1e-4)
    close(embeddings, t["out_mlp.embed"], other.json["tolerance"]["embeddings_and_logits_abs"])
    close(other.net.logits(embeddings, other.text, other.counts), t["out_mlp.logits"], 2e-4, 1e-4)


def test_mask_pooling_is_fc_clips(case):
    t = case.tensors
    with torch.no_grad():
        embeddings = torch.stack(case.net.pooled(t["in.clip_feature"], case.masks))
    close(embeddings, t["out.maskpool_embed"], case.json["tolerance"]["embeddings_and_logits_abs"])
    close(case.net.logits(embeddings, case.text, case.counts), t["out.maskpool_logits"], 2e-4, 1e-4)


def test_fourteen_sentences_make_a_row(case):
    raw = case.tensors["in.text_raw"]
    rows = averaged(raw.view(-1, 14, raw.shape[-1]))
    close(rows, case.tensors["out.text_classifier_from_raw"], 1e-6)
    close(case.net.with_void(case.text[:-1]).detach(), case.text, 1e-6)


def test_mafts_scrambled_features_and_both_forms_of_its_transfer_are_the_authors(case):
    t = case.tensors
    dense = scrambled_dense(case.clip, t["in.clip_feature"])
    close(dense, t["out.maft_dense_scrambled"], 2e-4, 1e-4)
    embeddings = case.embeddings(dense, plain=False)
    close(embeddings, t["out.maft_embed"], case.json["tolerance"]["embeddings_and_logits_abs"])
    for form, norm_last in (("off", True), ("on", False)):
        transfer = ContentTransfer(case.json["embed_dim"], case.json["nhead_cdt"], norm_last)
        transfer.load_state_dict(below(case.weights, "cdt."))
        case.net.transfer = transfer.eval()
        with torch.no_grad():
            text = case.net.text_of(case.text[:-1], dense)
        case.net.transfer = None
        close(text, t[f"out.maft_text_panoptic_{form}"], 2e-4, 1e-4)
        logits = [case.net.logits(e, own, case.counts) for e, own in zip(embeddings, text)]
        close(torch.stack(logits), t[f"out.maft_logits_panoptic_{form}"], 2e-3, 1e-4)


# -- a training step ---------------------------------------------------------------------------------------------------
class Stage2:
    """The released step: 16 true masks, 8 predicted ones that matched, the 8 true ones they matched; empty ones fill up."""

    def __init__(self, case: Case):
        self.t = t = below(case.tensors, "stage2.")
        j = case.json
        self.budget, self.pictures = j["num_pred_masks"], len(t["in.clip_feature"])
        self.masks = [self._masks(j, b) for b in range(self.pictures)]
        case.net.zero_grad()
        text = case.net.with_void(t["in.text_classifier"])
        counts = j["num_templates_train"]
        with torch.enable_grad():
            feature = t["in.clip_feature"]
            self.embeddings = torch.stack(case.net.embeddings(feature, case.clip.dense(feature), self.masks))
            self.logits = torch.stack([case.net.logits(own, text, counts) for own in self.embeddings])
        self.predicted, self.truth = self.embeddings[:, -2 * self.budget :].chunk(2, 1)

    def _masks(self, j: dict, b: int) -> torch.Tensor:
        """The masks of a picture, in the released order."""
        truth, predicted, size = self.t[f"in.gt_masks.{b}"].float(), self.t["in.pred_masks"][b], j["image_size_stage2"]
        coarse = resized(truth, predicted.shape[-2:])
        owner = dict(map(tuple, j["candidate_pairs"][b]))
        chosen = [q for q in j["chosen_prediction_per_slot"][b] if q >= 0]
        slots = [(predicted[q].sigmoid() > j["mask_threshold"], coarse[owner[q]]) for q in chosen]
        said, meant = (_filled([resized(m[None], size)[0] for m in side], self.budget, size) for side in zip(*slots))
        return torch.cat([_filled(list(truth), j["num_gt_masks"], size), said, meant])


def _filled(masks: list, count: int, size: list[int]) -> torch.Tensor:
    return torch.stack([*masks, *[torch.zeros(*size)] * (count - len(masks))])


def test_a_prediction_matches_what_it_overlaps_as_in_the_authors_code(case):
    j = case.json
    for b, pairs in enumerate(j["candidate_pairs"]):
        t = below(case.tensors, "stage2.")
        iou = mask_iou(t["in.pred_masks"][b].sigmoid(), t[f"in.gt_masks.{b}"])
        close(iou, t[f"out.iou.{b}"], 2e-4, 1e-4)
        assert match(iou, "described", j["iou_threshold"], 99).tolist() == pairs
        released = match(iou, "released", j["iou_threshold"], 99).tolist()
        assert all(pair in pairs for pair in released)
        assert [g for _, g in released] == sorted({g for _, g in pairs})


def test_losses_and_gradients_of_a_step_are_the_authors(case):
    step, j = Stage2(case), case.json
    t, tolerance, weights = step.t, case.json["tolerance"], case.json["loss_weights"]
    close(step.predicted, t["out.embed_pred"], tolerance["embeddings_and_logits_abs"])
    close(step.truth, t["out.embed_gt"], tolerance["embeddings_and_logits_abs"])
    close(step.logits, t["out.class_logits"], 2e-4, 1e-4)
    real = torch.tensor(j["chosen_prediction_per_slot"]) >= 0
    pairs = step.predicted[real], step.truth[real]
    released = consistency(*pairs, real.numel())
    close(released, t["out.cos_released_unweighted"], 1e-6, tolerance["cosine_losses_rel"])
    close(consistency(*pairs, int(real.sum())), t["out.cos_real_pairs_unweighted"], 1e-6, tolerance["cosine_losses_rel"])
    named = classification(step.logits.flatten(0, 1), t["out.all_labels"].flatten())
    close(weights["loss_ce"] * named, t["out.loss_ce_weighted"], 2e-4, 1e-4)
    close(weights["loss_cosine"] * released, t["out.loss_cosine_weighted"], 1e-6, tolerance["cosine_losses_rel"])
    close(classification(case.tensors["out.logits"].flatten(0, 1), case.tensors["in.labels"].flatten()),
          case.tensors["out.loss_ce_unweighted"], 2e-4, 1e-4)  # fmt: skip
    (weights["loss_ce"] * named + weights["loss_cosine"] * released).backward()
    for name, theirs in below(t, "grad.").items():
        ours = case.net.get_parameter(name).grad
        assert (ours - theirs).abs().max() <= tolerance["gradients_rel_of_max"] * theirs.abs().max(), name


# -- generator, ensemble, outputs --------------------------------------------------------------------------------------
class WholeCase:
    """The whole way of one picture."""

    def __init__(self, facts: dict, tensors: dict, place: Path):
        self.json, self.tensors = facts, tensors
        j, t = facts, tensors
        official = split(below(t, "w."), "fixture")
        self.clip = small_clip(place, j["embed_dim"], j["timm_vision"], j["clip_proj"], official.clip)
        generator, _ = generator_of(official, self.clip.strides, "fixture")
        sizes = {"channels": "num_channels", "mask_channels": "mask_in_channels", "maps": "num_output_maps"}
        self.net = MaskAdapterNet(self.clip, generator=generator, **{ours: j[theirs] for ours, theirs in sizes.items()})
        self.net.mask_adapter.load_state_dict(official.adapter)
        self.net.void_embedding.weight.data = official.void
        self.net.eval()
        mean, std = (torch.tensor(j[name]).view(3, 1, 1) for name in ("pixel_mean", "pixel_std"))
        h, w = (padded - size for padded, size in zip(j["padded_to"], j["image"]))
        self.image = F.pad((t["in.image"].float() - mean) / std, (0, w, 0, h))[None]
        self.counts, self.text = j["num_templates"], t["in.text_classifier"]
        self.classes = [read_classes(j[name]) for name in ("test_classes", "train_classes")]

    def close(self, ours, name: str) -> None:
        """The small copy lacks some large tensors."""
        if name in self.tensors or "out.sem_seg" in self.tensors:
            close(ours, self.tensors[name], self.json["tolerance"]["abs"], self.json["tolerance"]["rel"])

    def canvas(self) -> Canvas:
        return Canvas(self.tensors["out.pred_masks"][0], *(tuple(self.json[name]) for name in ("padded_to", "image", "output")))


def test_the_trunks_stages_are_the_authors(whole):
    if not any(".trunk.stages." in name for name in whole.tensors):
        pytest.skip("the small copy holds no trunk")
    feature, stages = whole.clip.features(whole.image)
    for level, stage in enumerate(stages, 2):
        whole.close(stage, f"out.feat.res{level}")
    whole.close(feature, "out.feat.clip_vis_dense")


@torch.no_grad()
def test_the_generators_masks_and_classes_are_the_authors_after_every_layer(whole):
    t, generator = whole.tensors, whole.net.generator
    stages = [t[f"out.feat.res{level}"] for level in (2, 3, 4, 5)]
    features, masks, queries = generator.decode(stages)
    whole.close(features, "out.mask_features")
    for i, scale in enumerate(generator.pixel_decoder(stages).multi_scale_features):
        whole.close(scale, f"out.multi_scale.{i}")
    assert len(masks) == whole.json["decoder_layers"] + 1
    for i, (m, q) in enumerate(zip(masks[:-1], queries)):
        whole.close(m, f"out.aux_masks.{i}")
        whole.close(generator.naming(q, m, features, whole.text, whole.counts), f"out.aux_logits.{i}")
    out = generator(stages, whole.text, whole.counts)
    whole.close(out.masks, "out.pred_masks")
    whole.close(out.logits, "out.pred_logits")


@torch.no_grad()
def test_a_picture_gets_the_authors_probabilities(whole):
    t, j = whole.tensors, whole.json
    feature = t["out.feat.clip_vis_dense"]
    features = Features(feature, whole.clip.dense(feature), [])
    masks = [t["out.pred_masks"][0].sigmoid() > j["mask_threshold"]]
    maps = whole.net.maps(features.dense, masks)[0]
    whole.close(maps.flatten(0, 1)[None], "out.adapter_maps")
    embeddings = whole.net.embeddings(features.feature, features.dense, masks)
    whole.close(embeddings[0][None], "out.mask_embed")
    text = whole.net.text_of(t["in.text_classifier_without_void"], features.dense)[0]
    outside = whole.net.logits(embeddings[0], text, whole.counts)
    whole.close(outside[None], "out.out_vocab_logits")
    seen = seen_classes(*whole.classes)
    assert seen.tolist() == [bool(flag) for flag in j["category_overlapping_mask"]]
    whole.close(ensemble(t["out.pred_logits"], outside[None], seen, j["alpha"], j["beta"]), "out.final_log_probs")
    pooled = whole.net.logits(whole.net.pooled(features.feature, [t["out.pred_masks"][0]], level=0)[0], whole.text, whole.counts)
    whole.close(pooled[None], "out.fcclip_pool_logits")
    whole.close(ensemble(t["out.pred_logits"], pooled[None], seen, 0.4, 0.8), "out.fcclip_final_log_probs_a0.4_b0.8")


def test_the_ensemble_does_not_underflow(whole):
    t, j, seen = whole.tensors, whole.json, seen_classes(*whole.classes)
    ours = ensemble(t["underflow.in_vocab_logits"], t["underflow.out_vocab_logits"], seen, j["alpha"], j["beta"])
    assert ours.isfinite().all()
    whole.close(ours, "underflow.log_probs_exact")
    floored = (ours.double().exp() + 1e-8).log()
    whole.close(floored, "underflow.log_probs_exact_floor1e-8")
    released = t["underflow.released"]
    whole_rows = (released != j["nan_replaced_by"]).all(-1)[0]
    assert (~whole_rows).nonzero().flatten().tolist() == j["underflow_rows_with_nan"]
    close(floored[:, whole_rows], released[:, whole_rows], 2e-4, 1e-3)


def test_the_three_outputs_are_the_authors(whole, monkeypatch):
    t, j, canvas = whole.tensors, whole.json, whole.canvas()
    log_probs = t["out.final_log_probs"][0].log_softmax(-1)
    things = set(j["thing_indices"])
    scores = semantic_rows(log_probs, canvas, 0, canvas.size[0])
    whole.close(scores, "out.sem_seg")
    monkeypatch.setattr("zoo.mask_adapter.inference.BUDGET", 2**19)                     # several bands
    assert (semantic(log_probs, canvas) == t["out.sem_argmax"]).float().mean() >= 0.999
    ids, segments = panoptic(log_probs, canvas, things, j["object_mask_threshold"], j["overlap_threshold"])
    assert segments == j["segments_info"]
    assert (ids == t["out.panoptic_seg"]).float().mean() >= 0.999
    found = instances(log_probs, canvas, things, j["topk"])
    order = t["out.inst_scores"].argsort(descending=True)
    close(found.scores, t["out.inst_scores"][order], 2e-4, 1e-3)
    ours = sorted(zip(found.classes.tolist(), found.masks[found.which].sum((1, 2)).tolist()))
    theirs = sorted(zip(t["out.inst_classes"].tolist(), t["out.inst_masks_area"].tolist()))
    assert [c for c, _ in ours] == [c for c, _ in theirs]
    assert all(abs(a - b) <= 0.01 * b + 2 for (_, a), (_, b) in zip(ours, theirs))


def test_text_is_a_class_for_each_line_with_its_synonyms(whole):
    names, _ = whole.classes
    assert [len(synonyms) for synonyms in names] == whole.counts
    assert Text(whole.text[:-1], whole.counts).rows.shape[0] == sum(whole.counts)
