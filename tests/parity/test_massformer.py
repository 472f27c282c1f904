"""The authors' numbers: every tensor the fixture holds, sizes and widths from its own JSON."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import shared_folder
from zoo.massformer.convert import convert, official_names, settings
from zoo.massformer.loss import Criterion, Target, edge_loss, edge_target, edge_weight
from zoo.massformer.net import MaSSFormerNet

MEAN, STD = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
PLACES = [Path(__file__).parent / "massformer", shared_folder() / "parity"]


class Case:
    def __init__(self, folder: Path):
        self.json = json.loads((folder / "massformer_tiny.json").read_text())
        self.tensors = load_file(folder / "massformer_tiny.safetensors")
        self.weights = {k[2:]: v for k, v in self.tensors.items() if k.startswith("w.")}
        self.net = MaSSFormerNet(**settings(self.weights), heads=self.json["heads"])
        convert(self.weights, self.net)
        self.net.eval()
        self.image = normalise(self.tensors["image_u8"])
        self.seen = {}
        self.watch()
        with torch.no_grad():
            self.out = self.net(self.image, auxiliary=True)

    def watch(self):
        pixels = self.net.pixels

        def keep(name):
            return lambda module, inputs, output: self.seen.__setitem__(name, list(output) if name == "feat" else output)

        for module, name in [
            (self.net.encoder, "feat"), (pixels.gates[3], "seb32"), (pixels.cst.deform1, "dcn1_x"),
            (pixels.cst.up1, "dcn1_up"), (pixels.cst, "cst"), (pixels.rfb, "rfb"), (pixels.lse, "lse"), (pixels.egf, "egf"),
        ]:  # fmt: skip
            module.register_forward_hook(keep(name))
        pixels.cst.deform2.register_forward_pre_hook(lambda module, inputs: self.seen.__setitem__("cst_attn", inputs[0]))
        for i, module in enumerate(pixels.memories):
            module.register_forward_hook(keep(f"memory{i}"))

    def pixel_tensors(self):
        """Our tensor for each `feat.*` and `pd.*` name, without its thinning."""
        seen, out = self.seen, self.out
        ours = {f"feat.s{i + 1}": x for i, x in enumerate(seen["feat"])}
        ours |= {f"pd.{name}": seen[name] for name in ("seb32", "dcn1_x", "dcn1_up", "cst_attn", "lse", "egf")}
        ours |= dict(zip(("pd.cst_x32", "pd.cst_x16", "pd.cst_up"), seen["cst"]))
        ours |= dict(zip(("pd.rfb_x8", "pd.rfb_up"), seen["rfb"]))
        ours |= {f"pd.memory{i}": seen[f"memory{i}"] for i in range(3)}
        ours |= {"pd.mask_features": out.features, "pd.edge_logits": out.edge}
        return {name: x[0] for name, x in ours.items()}

    def mask_logits(self, layer):
        embeddings, features = self.out.masks(layer)
        return torch.einsum("qc,chw->qhw", embeddings[0], features[0])

    def scores(self, out):
        return self.net.semantic_rows(out, 0, out.size[0])[0]


def normalise(image):
    return ((image.float() - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))[None]


THIN = {"s2": (slice(1, None, 2), slice(None, None, 2)), "s4": (slice(1, None, 4), slice(2, None, 4)),
        "s8": (slice(3, None, 8), slice(5, None, 8))}  # fmt: skip


def close(ours, theirs, tolerance=1e-4):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.fixture(scope="module", params=PLACES, ids=["frozen", "outside"])
def case(request):
    if not (request.param / "massformer_tiny.safetensors").exists():
        pytest.skip(f"no massformer_tiny fixture in {request.param}")
    return Case(request.param)


def test_encoder_and_pixel_decoder_give_the_authors_maps(case):
    ours = case.pixel_tensors()
    compared = 0
    for name, theirs in case.tensors.items():
        if not name.startswith(("feat.", "pd.")):
            continue
        base, _, ending = name.rpartition(".") if name.endswith(("s2", "s4", "s8", "stat")) else (name, "", "")
        if base not in ours:  # `feat.s2` ends like a thinned map but is a name
            base, ending = name, ""
        x = ours[base]
        if ending == "stat":
            x = torch.stack([x.mean((-2, -1)), x.flatten(1).std(-1)])
        elif ending:
            x = x[(slice(None), *THIN[ending])]
        close(x, theirs)
        compared += 1
    assert compared == sum(name.startswith(("feat.", "pd.")) for name in case.tensors) > 0


def test_every_layers_classes_and_masks_are_the_authors(case):
    t = case.tensors
    close(torch.cat(case.out.logits), t["pred.cls"])
    masks = [case.mask_logits(layer) for layer in range(len(case.out.logits))]
    if "pred.masks.s4" in t:
        close(torch.stack([m[(slice(None), *THIN["s4"])] for m in masks[:-1]]), t["pred.masks.s4"])
    if "pred.mask_last.s8" in t:
        close(masks[-1][(slice(None), *THIN["s8"])], t["pred.mask_last.s8"])
    if "pred.masks.stat" in t:
        ours = torch.stack([torch.stack([m.mean((-2, -1)), m.flatten(1).std(-1)]) for m in masks])
        close(ours, t["pred.masks.stat"])


def labels_agree(scores, theirs):
    """Equal except where the two best scores differ by less than 1e-3."""
    best = scores.topk(2, 0).values
    return (scores.argmax(0) == theirs) | (best[0] - best[1] < 1e-3)


def test_the_semantic_map_is_the_authors(case):
    scores = case.scores(case.out)
    if "pred.scores.s4" in case.tensors:
        assert (scores[(slice(None), *THIN["s4"])] - case.tensors["pred.scores.s4"]).abs().max() <= 3e-4
    assert labels_agree(scores, case.tensors["pred.label"]).all()


def test_an_odd_size_is_padded_with_zeros_and_cropped(case):
    if "odd.scores.s4" not in case.tensors:
        pytest.skip("this fixture holds no odd size")
    h, w = case.json["odd_size"]
    with torch.no_grad():
        scores = case.scores(case.net(case.image[..., :h, :w]))
    assert scores.shape[-2:] == (h, w)
    assert (scores[(slice(None), *THIN["s4"])] - case.tensors["odd.scores.s4"]).abs().max() <= 1e-3
    assert labels_agree(scores, case.tensors["odd.label"]).all()


class LossCase:
    """Both pictures of the fixture, with 255 a negative of every mask as in the released losses."""

    def __init__(self, case: Case):
        t = case.tensors
        second = t["image_u8"].flip(-1).flip(0)
        self.labels = torch.stack([t["label"], t["label2"]]).long()
        self.out = case.net(torch.cat([case.image, normalise(second)]), auxiliary=True)
        self.criterion = Criterion(points=case.json["num_points"])
        self.targets = [Target.of(labels, 255) for labels in self.labels]
        for target in self.targets:
            target.ignored = torch.zeros_like(target.ignored)
        self.weights = [edge_weight(target.masks) for target in self.targets]
        self.extent = torch.ones(2)

    def pairs(self, case, layer):
        return [torch.where(m >= 0)[0] for m in case.tensors["loss.match"][layer]], [
            m[m >= 0].long() for m in case.tensors["loss.match"][layer]
        ]

    def by_name(self, case):
        """Losses at the stored points and stored pairs, in the fixture's names."""
        losses, last = {}, len(self.out.logits) - 1
        count = sum(len(target.classes) for target in self.targets)
        for layer in range(last + 1):
            embeddings, features = self.out.masks(layer)
            queries, masks = self.pairs(case, layer)
            points = case.tensors["loss.points"][layer].split([len(q) for q in queries])
            parts = [
                self.criterion.point_losses(
                    torch.einsum("nc,chw->nhw", embeddings[b, queries[b]], features[b]), points[b],
                    self.targets[b], masks[b], self.weights[b], self.extent,
                )
                for b in range(2)
            ]  # fmt: skip
            prefix = "" if layer == last else f"d{layer}."
            losses[prefix + "loss_cls"] = self.criterion.cls * self.criterion.class_loss(
                self.out.logits[layer], self.targets, list(zip(queries, masks))
            )
            losses[prefix + "loss_mask"] = self.criterion.mask * sum(p[0] for p in parts) / count
            losses[prefix + "loss_dice"] = self.criterion.dice * sum(p[1] for p in parts) / count
        edge = torch.nn.functional.interpolate(self.out.edge, self.labels.shape[-2:], mode="bilinear")
        losses["edge_loss"] = 10 * torch.nn.functional.softplus(-edge).mean()  # the released target is 1 everywhere
        return losses


@pytest.fixture(scope="module")
def losses(case):
    if "loss.values" not in case.tensors:
        pytest.skip("this fixture holds no losses")
    return LossCase(case)


def test_matching_is_the_authors(case, losses):
    for b, target in enumerate(losses.targets):
        assert target.classes.tolist() == case.tensors[f"loss.gt_classes{b}"].tolist()
    for layer in range(len(losses.out.logits)):
        embeddings, features = losses.out.masks(layer)
        for b, target in enumerate(losses.targets):
            queries, masks = losses.criterion.match(
                losses.out.logits[layer][b], embeddings[b], features[b], target, losses.extent,
                case.tensors["loss.match_points"][layer, b][None],
            )  # fmt: skip
            ours = torch.full(case.tensors["loss.match"].shape[-1:], -1)
            ours[queries] = masks
            assert ours.tolist() == case.tensors["loss.match"][layer, b].tolist()


def test_losses_and_gradients_at_the_stored_points_are_the_authors(case, losses):
    by_name = losses.by_name(case)
    for name, theirs in zip(case.json["loss_names"], case.tensors["loss.values"]):
        assert abs(by_name[name] - theirs) <= 1e-4 * abs(theirs), name
    total = sum(by_name.values())
    assert abs(total - case.tensors["loss.total"]) <= 1e-4 * total
    case.net.zero_grad()
    total.backward()
    theirs_of = official_names(case.net)
    parameters = {theirs_of[name]: p for name, p in case.net.named_parameters()}
    for name, norm in case.json["grad_norm"].items():
        ours = parameters[name].grad
        if f"grad.{name}" in case.tensors:
            theirs = case.tensors[f"grad.{name}"]
            assert (ours - theirs).norm() <= 1e-2 * theirs.norm() + 1e-6, name
        assert abs(ours.norm() - norm) <= 1e-2 * norm + 1e-6, name


def test_chosen_points_are_the_authors_but_for_ties(case, losses):
    """Candidates are the stored ones; a few at the threshold may swap by rounding."""
    if "loss.cand_points" not in case.tensors:
        pytest.skip("this fixture holds no candidate points")
    different = total = 0
    for layer in range(len(losses.out.logits)):
        embeddings, features = losses.out.masks(layer)
        queries, masks = losses.pairs(case, layer)
        starts = [0, len(queries[0])]
        for b in range(2):
            rows = slice(starts[b], starts[b] + len(queries[b]))
            replay = iter([case.tensors["loss.cand_points"][layer, rows], case.tensors["loss.rand_points"][layer, rows]])
            logits = torch.einsum("nc,chw->nhw", embeddings[b, queries[b]], features[b])
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(torch, "rand", lambda *size, device=None: next(replay))  # noqa: B023
                ours = losses.criterion.choose(logits, losses.targets[b], masks[b], losses.weights[b], losses.extent)
            for mine, theirs in zip(ours, case.tensors["loss.points"][layer, rows]):
                mine, theirs = set(map(tuple, mine.tolist())), set(map(tuple, theirs.tolist()))
                different += len(mine - theirs)
                total += len(theirs)
    assert different <= 0.01 * total


def test_edge_target_and_right_edge_loss(case, losses):
    theirs = case.tensors["edge_target_bits"].numpy()
    ours = edge_target(losses.labels, 255).bool().numpy()
    assert np.array_equal(np.packbits(ours, axis=-1), theirs)
    right = 10 * edge_loss(losses.out.edge, losses.labels, 255)
    assert abs(right - case.tensors["loss.edge_right_x10"]) <= 1e-4 * abs(right)
