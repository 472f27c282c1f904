"""The core against plain twins, its files, and what users get wrong."""


import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import zoo.mask_adapter.inference as outputs
from datamodules.errors import UserError
from tests.mask_adapter.trees import clip_folder, small_clip
from zoo.mask_adapter import convert as converter
from zoo.mask_adapter import fast, text
from zoo.mask_adapter.clip import FrozenCLIP, pad
from zoo.mask_adapter.generator import MaskGenerator, load_generator
from zoo.mask_adapter.inference import Canvas, adapter_only, ensemble, instances, paint, panoptic, semantic, worth_naming
from zoo.mask_adapter.maft import ContentTransfer, load_transfer
from zoo.mask_adapter.net import MaskAdapterNet
from zoo.mask_adapter.parts import packed, sha256_of_tensors
from zoo.mask_adapter.similarity import best_of_synonyms


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(place):
    return FrozenCLIP(f"local-dir:{place}")


@pytest.fixture
def net(clip):
    torch.manual_seed(0)
    return live(MaskAdapterNet(clip, channels=24, mask_channels=8, maps=4))


def live(net: MaskAdapterNet) -> MaskAdapterNet:
    """Its blocks matter: they begin with a layer scale of 1e-6."""
    for block in net.mask_adapter.blocks:
        torch.nn.init.normal_(block.gamma)
    return net.eval()


# -- the fast form of the head -----------------------------------------------------------------------------------------
def some_masks(H: int, W: int) -> dict[str, torch.Tensor]:
    """Pictures of 8 x 8 pixels a cell."""
    empty = torch.zeros(8 * H, 8 * W)
    square, corner, far = empty.clone(), empty.clone(), empty.clone()
    square[30:60, 40:70], corner[:20, :9], far[-1, -1] = 1, 1, 1
    ragged = (torch.rand(8 * H, 8 * W) > 0.7).float() * square
    large = 1 - square
    masks = {"empty": empty, "full": 1 - empty, "square": square, "its copy": square, "corner": corner, "one pixel": far,
             "ragged": ragged, "large": large, "soft": 0.5 * square, "noise": torch.rand(8 * H, 8 * W)}
    return masks | {"empty again": empty}


@pytest.mark.parametrize("grid", [(20, 24), (13, 9), (1, 2)])
@torch.no_grad()
def test_the_fast_form_gives_the_plain_maps(net, grid):
    masks, dense = torch.stack([*some_masks(*grid).values()]), torch.randn(40, *grid)
    plain = net.maps(dense[None], [masks], plain=True)[0]
    quick, which = fast.maps(net.mask_adapter, dense, masks)
    assert (plain - quick[which]).abs().max() <= 1e-5 * max(1, plain.abs().max())
    assert len(quick) == len(masks.flatten(1).unique(dim=0)) or grid == (1, 2)


@pytest.mark.parametrize("names", [
    ["full"], ["square"], ["noise"], ["large", "full", "large"], ["square"] * 9, ["one pixel", "corner"],
])  # fmt: skip
@torch.no_grad()
def test_it_is_so_for_every_choice_of_references(net, names):
    grid = (24, 24)
    known, dense = some_masks(*grid), torch.randn(40, 24, 24)
    masks = torch.stack([known[name] for name in names])
    quick, which = fast.maps(net.mask_adapter, dense, masks)
    assert torch.allclose(net.maps(dense[None], [masks], plain=True)[0], quick[which], atol=1e-5)


@torch.no_grad()
def test_only_cells_near_a_mask_are_computed_and_references_only_where_they_pay(net):
    work = fast._Work(net.mask_adapter, torch.randn(40, 28, 28), half=False)
    small = torch.zeros(6, 112, 112)
    small[:, 52:60, 52:60] = torch.rand(6, 8, 8)
    levels = work.plan(small)
    assert list(work.references) == [fast.EMPTY]
    sides = [(level[0] == fast.OWN).any(0).sum().item() for level in levels]
    assert sides == [3 + 6, 3 + 12, 3 + 18]                        # three cells' patches see it; then 3 a side and block
    alone = fast._Work(net.mask_adapter, torch.randn(40, 28, 28), half=False)
    alone.plan(torch.rand(1, 112, 112))
    assert not alone.references                                            # one mask everywhere: the plain way is the cheapest


@torch.no_grad()
def test_results_do_not_depend_on_how_many_masks_are_done_at_once(net, monkeypatch):
    masks, dense = torch.stack([*some_masks(20, 24).values()]), torch.randn(40, 20, 24)
    whole, which = fast.maps(net.mask_adapter, dense, masks)
    monkeypatch.setattr(fast, "MASKS", 2)
    monkeypatch.setattr(fast, "CELLS", 100)
    parts, _ = fast.maps(net.mask_adapter, dense, masks)
    assert torch.allclose(whole, parts, atol=1e-6)


def test_bf16_linears_change_the_maps_a_little_and_the_probe_answers(net):
    masks, dense = torch.stack([*some_masks(20, 24).values()]), torch.randn(40, 20, 24)
    with torch.no_grad():
        exact, _ = fast.maps(net.mask_adapter, dense, masks)
        rough, _ = fast.maps(net.mask_adapter, dense, masks, half=True)
    assert 0 < (exact - rough).abs().max() < 0.1 * exact.std() + 0.1 and rough.dtype == torch.float32
    assert fast.bf16_pays("cpu") in (True, False)


# -- masks to embeddings -----------------------------------------------------------------------------------------------
@torch.no_grad()
def test_an_embedding_is_the_mean_of_projected_weighted_means(net, clip):
    feature, masks = torch.randn(1, 64, 5, 6), torch.rand(3, 40, 48).round()
    dense = clip.dense(feature)
    maps = net.maps(dense, [masks], plain=True)[0].double()
    twin = []
    for own in maps:
        vectors = []
        for a in own:
            w = 1 / (1 + (-a).exp())
            pooled = sum(w[y, x] * feature[0, :, y, x] for y in range(5) for x in range(6)) / w.sum()
            vectors.append(clip.project(pooled.float()))
        twin.append(sum(vectors) / len(vectors))
    for plain in (True, False):
        assert torch.allclose(net.embeddings(feature, dense, [masks], plain=plain)[0], torch.stack(twin), atol=1e-5)


@torch.no_grad()
def test_pictures_may_have_any_number_of_masks_none_included(net, clip):
    feature, masks = torch.randn(3, 64, 4, 4), [torch.rand(2, 32, 32), torch.zeros(0, 32, 32), torch.rand(3, 64, 64) > 0.5]
    for plain in (True, False):
        together = net.embeddings(feature, clip.dense(feature), masks, plain=plain)
        assert [len(found) for found in together] == [2, 0, 3]
        alone = net.embeddings(feature[2:], clip.dense(feature[2:]), masks[2:], plain=plain)[0]
        assert torch.allclose(together[2], alone, atol=1e-5)
    assert [len(found) for found in net.pooled(feature, masks)] == [2, 0, 3]
    nothing = [torch.zeros(0, 32, 32)] * 3
    assert [found.shape for found in net.embeddings(feature, clip.dense(feature), nothing, plain=True)] == [(0, 40)] * 3


@torch.no_grad()
def test_cells_of_the_padding_weigh_nothing_unless_as_released(net, clip):
    feature, masks = torch.randn(1, 64, 4, 6), [torch.rand(2, 128, 192)]
    other = feature.clone()
    other[..., 3:] += torch.randn(64, 4, 3)                            # the last three columns lie in the padding
    dense, size = clip.dense(feature), [(128, 96)]
    assert torch.equal(net.embeddings(feature, dense, masks, size)[0], net.embeddings(other, dense, masks, size)[0])
    assert not torch.allclose(net.embeddings(feature, dense, masks)[0], net.embeddings(other, dense, masks)[0], atol=1e-3)
    everywhere = net.embeddings(feature, dense, masks, [(100, 161)])[0]   # the last cells see some of the picture
    assert torch.allclose(everywhere, net.embeddings(feature, dense, masks)[0], atol=1e-6)


def test_only_the_adapter_and_void_learn(net, clip):
    net.train()
    feature = torch.randn(1, 64, 4, 4)
    embeddings = net.embeddings(feature, clip.dense(feature), [torch.rand(2, 32, 32)])[0]
    net.logits(embeddings, net.with_void(F.normalize(torch.randn(3, 40), dim=-1)), [1, 2]).sum().backward()
    learning = [name for name, p in net.named_parameters() if p.grad is not None]
    assert {name.split(".")[0] for name in learning} == {"mask_adapter", "void_embedding"} and len(learning) == 43 + 1


# -- the CLIP ----------------------------------------------------------------------------------------------------------
def test_the_clip_stays_frozen_whatever_train_says(net, clip):
    images = torch.randn(1, 3, 64, 96)
    before = clip.features(images)[0]
    net.train()
    assert not clip.training and not any(module.training for module in clip.modules())
    assert torch.equal(clip.features(images)[0], before)                   # its config has drop path 0.1
    assert not any(p.requires_grad for p in clip.parameters())


@torch.no_grad()
def test_grids_and_vectors_are_open_clips(clip):
    images = torch.randn(2, 3, 64, 64)
    feature, stages = clip.features(images)
    assert [s.shape[1] for s in stages] == clip.channels and [64 // s.shape[2] for s in stages] == clip.strides
    assert torch.allclose(clip.project(feature.mean((2, 3))), clip.encode_image(images), atol=1e-5)
    cell = clip.project(feature[:, :, 1, 0])
    assert torch.allclose(clip.dense(feature)[:, :, 1, 0], cell, atol=1e-5)
    sentences = ["a", "a much longer sentence about a red car in the rain", "x " * 200]
    assert torch.allclose(clip.encode_text(sentences), clip.model.encode_text(clip.tokenizer(sentences)), atol=1e-5)


def test_the_tiny_trunks_grid_has_a_stride_of_16(tmp_path):
    clip = small_clip(tmp_path, trunk="convnext_zoo_tiny")
    assert clip.strides == [4, 8, 16, 16] and clip.features(pad(torch.zeros(1, 3, 50, 70), clip.stride))[0].shape[2:] == (4, 5)
    generator = MaskGenerator(clip.channels, 40, 3, 32, 8, 1, 32, 1, 32, tuple(clip.strides))
    stages, rows = clip.features(torch.zeros(1, 3, 64, 64))[1], F.normalize(torch.randn(3, 40), dim=-1)
    assert generator(stages, rows, [1, 1]).masks.shape == (1, 3, 16, 16)


def test_the_same_weights_have_the_same_sha256_whatever_file_they_come_from(clip, place, tmp_path):
    torch.save(clip.model.state_dict(), tmp_path / "weights.pt")
    assert FrozenCLIP(f"local-dir:{place}", str(tmp_path / "weights.pt")).sha256 == clip.sha256
    assert FrozenCLIP(f"local-dir:{place}", "random").sha256 == FrozenCLIP(f"local-dir:{place}", "random").sha256 != clip.sha256


@pytest.mark.parametrize("name, trunk, joint, weights, head", [
    ("convnext_large_d_320", 1536, 768, 351_772_609, 14_907_568), ("convnext_base_w_320", 1024, 640, 179_385_345, 14_807_088),
])  # fmt: skip
def test_the_papers_clips_and_heads_have_their_published_sizes(name, trunk, joint, weights, head):
    with torch.device("meta"):
        net = MaskAdapterNet(FrozenCLIP(name, "random"))
    count = lambda part: sum(p.numel() for p in part.parameters())
    assert (net.clip.channels[-1], net.clip.width) == (trunk, joint)
    assert (count(net.clip), count(net.mask_adapter)) == (weights, head)
    assert net.clip.stride == 32 and len(net.mask_adapter.state_dict()) == 43


@pytest.mark.parametrize("name, weights, says", [
    ("convnext_larg_d_320", None, "near names: convnext_large_d_320"), ("local-dir:nowhere", None, "no CLIP here"),
    ("convnext_base_w_320", None, "laion_aesthetic_s13b_b82k_augreg"),
    ("convnext_base_w_320", "nowhere.pt", "no weights of the CLIP"), ("ViT-B-32", "random", "not a CLIP with a ConvNeXt"),
])  # fmt: skip
def test_a_clip_that_is_not_there_is_one_line(name, weights, says):
    with torch.device("meta"), pytest.raises(UserError, match=says):
        FrozenCLIP(name, weights)


def test_weights_of_another_clip_or_of_none_are_one_line(place, tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "torn.pt").write_bytes(b"torn")
    for file in ("other.safetensors", "torn.pt"):
        with pytest.raises(UserError, match="not the weights of this CLIP"):
            FrozenCLIP(f"local-dir:{place}", str(tmp_path / file))
    (tmp_path / "open_clip_config.json").write_text("{")
    with pytest.raises(UserError, match="not open_clip's config"):
        FrozenCLIP(f"local-dir:{tmp_path}")


# -- text --------------------------------------------------------------------------------------------------------------
def test_a_row_is_made_of_fourteen_sentences(clip):
    assert len(set(text.TEMPLATES)) == 14 and all(t.count("{}") == 1 for t in text.TEMPLATES)
    assert "There is a medium cat in the scene." in [t.format("cat") for t in text.TEMPLATES]
    raw = clip.encode_text([t.format("red car") for t in text.TEMPLATES])
    twin = (raw / raw.norm(dim=1, keepdim=True)).mean(0)
    made = text.encode(clip, [["cat", "kitten"], ["red car"], ["cat"]], cached=False)
    assert made.counts == [2, 1, 1] and torch.allclose(made.rows[2], twin / twin.norm(), atol=1e-5)
    assert torch.equal(made.rows[0], made.rows[3])


@pytest.fixture
def counted(clip, monkeypatch, tmp_path):
    """Names that were encoded, with an empty cache."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    done, real = [], text.name_rows
    monkeypatch.setattr(text, "name_rows", lambda clip, names: (done.append(len(names)), real(clip, names))[1])
    return done


def test_rows_are_encoded_once_for_each_clip_and_a_damaged_file_is_made_anew(clip, place, counted, tmp_path):
    classes = [["cat"], ["dog"]]
    first = text.encode(clip, classes)
    assert torch.equal(text.encode(clip, classes).rows, first.rows) and counted == [2]
    other = FrozenCLIP(f"local-dir:{place}", "random")                     # as wide, but other weights
    assert not torch.allclose(text.encode(other, classes).rows, first.rows) and counted == [2, 2]
    for file in (tmp_path / "text").iterdir():
        file.write_bytes(file.read_bytes()[:-100])
    assert torch.equal(text.encode(clip, classes).rows, first.rows) and counted == [2, 2, 2]


def test_a_long_list_that_was_interrupted_goes_on(clip, counted, monkeypatch):
    monkeypatch.setattr(text, "BLOCK", 40)
    classes = [[f"thing {i}"] for i in range(100)]
    text.encode(clip, classes[:80])
    assert text.encode(clip, classes).rows.shape == (100, 40) and counted == [40, 40, 20]


def test_class_lists_are_lists_or_files(tmp_path):
    assert text.read_classes(["cat", "red car, automobile,auto"]) == [["cat"], ["red car", "automobile", "auto"]]
    (tmp_path / "list.txt").write_text("0:invalid_class_id\n1:cat,kitten\n\n2:sky\n", encoding="utf-8-sig")
    assert text.read_classes(str(tmp_path / "list.txt")) == [["cat", "kitten"], ["sky"]]


@pytest.mark.parametrize("classes, says", [
    ([], "no classes"), (["cat", ""], "class 2 has an empty name"), (["cat,,dog"], "class 1 has an empty name"),
    ([3], "class 1 is 3, not text"), ("nowhere.txt", "no such list of classes"), ([False], "class 1 is False"),
])  # fmt: skip
def test_a_wrong_class_list_is_one_line(classes, says):
    with pytest.raises(UserError, match=says):
        text.read_classes(classes)


def test_repeated_and_too_long_names_work_and_are_said(clip):
    long = "very " * 90 + "long name"
    classes = text.read_classes(["cat", "dog,cat", long])
    said = text.notes(classes, clip)
    assert len(said) == 2 and "class 1 and class 2" in said[0] and "too long for CLIP (92 tokens" in said[1]
    made = text.encode(clip, classes, cached=False)
    logits = best_of_synonyms(torch.cat([made.rows[:1] @ made.rows.T, torch.zeros(1, 1)], 1), made.counts)
    assert logits.argmax() == 0 and made.rows.isfinite().all() and text.notes(classes[:1], clip) == []


def test_the_best_synonym_speaks_for_its_class_and_seen_is_by_name():
    logits = torch.randn(2, 3, 8)
    twin = [logits[..., a:b].amax(-1) for a, b in ((0, 2), (2, 3), (3, 7), (7, 8))]
    assert torch.equal(best_of_synonyms(logits, [2, 1, 4]), torch.stack(twin, -1))
    assert text.seen_classes([["cat", "kitten"], ["Sky"], ["auto"]], [["sky"], ["car", "auto"]]).tolist() == [False, False, True]


# -- classes of the masks ----------------------------------------------------------------------------------------------
def test_the_ensemble_is_the_product_of_powers():
    inside, outside, seen = 3 * torch.randn(5, 7), 3 * torch.randn(5, 7), torch.tensor([True, False, True, True, False, False])
    p, q = inside[:, :-1].double().softmax(-1), outside[:, :-1].double().softmax(-1)
    w = torch.where(seen, 0.7, 0.9).double()
    score = p ** (1 - w) * q**w
    void = inside.double().softmax(-1)[:, -1:]
    twin = torch.cat([score / score.sum(-1, keepdim=True) * (1 - void), void], -1)
    ours = ensemble(inside, outside, seen, 0.7, 0.9)
    assert torch.allclose(ours.double().exp(), twin, atol=1e-6) and torch.allclose(ours.exp().sum(-1), torch.ones(5), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_no_logits_are_too_extreme_for_it(dtype):
    inside, outside = 200 * torch.randn(50, 9), 200 * torch.randn(50, 9)
    inside[0], inside[1, 0], inside[2, -1] = -3e4, 3e4, 3e4
    for alpha, beta in ((0.7, 0.9), (1, 1), (0, 0)):
        found = ensemble(inside.to(dtype), outside.to(dtype), torch.rand(8) > 0.5, alpha, beta)
        assert found.isfinite().all() and torch.allclose(found.exp().sum(-1), torch.ones(50), atol=1e-4)
    assert torch.equal(ensemble(inside, outside, torch.ones(8) > 0, 1, 1)[3:, :-1].argmax(-1), outside[3:, :-1].argmax(-1))


def test_without_a_generator_a_mask_is_something():
    outside = torch.randn(3, 5)
    assert torch.allclose(adapter_only(outside).exp()[:, :-1], outside[:, :-1].softmax(-1), atol=1e-6)
    assert (adapter_only(outside).exp()[:, -1] == 0).all()
    assert torch.allclose(adapter_only(outside, void=True).exp(), outside.softmax(-1), atol=1e-6)
    inside = torch.tensor([[0.0, 5.0], [5.0, 0.0]])
    assert worth_naming(inside, 0.9).tolist() == [False, True]


# -- painting ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def canvas():
    torch.manual_seed(3)
    return Canvas(3 * torch.randn(6, 16, 24), (64, 96), (61, 90), (77, 131))


def full(canvas: Canvas) -> torch.Tensor:
    x = F.interpolate(canvas.masks[None], canvas.padded, mode="bilinear")[..., : canvas.inner[0], : canvas.inner[1]]
    return F.interpolate(x, canvas.size, mode="bilinear")[0]


def log_probs(masks: int, classes: int) -> torch.Tensor:
    return (2 * torch.randn(masks, classes + 1)).log_softmax(-1)


def test_bands_of_rows_are_rows_of_the_resized_masks(canvas):
    whole = full(canvas)
    for r0, r1 in ((0, 77), (0, 1), (10, 33), (70, 77)):
        assert torch.allclose(canvas.rows(r0, r1), whole[:, r0:r1], atol=2e-5)
    same = Canvas(canvas.masks, (64, 96), (61, 90), (61, 90))
    assert torch.allclose(same.rows(5, 20), full(same)[:, 5:20], atol=2e-5)


def test_labels_are_the_same_in_bands_of_any_height_and_with_any_number_of_classes(canvas, monkeypatch):
    for classes, dtype in ((4, torch.uint8), (300, torch.int32)):
        probs = log_probs(6, classes)
        twin = torch.einsum("qc,qhw->chw", probs[:, :-1].exp(), full(canvas).sigmoid()).argmax(0)
        for budget in (1, 2**18, 2**28):
            monkeypatch.setattr(outputs, "BUDGET", budget)
            labels = semantic(probs, canvas)
            assert labels.dtype == dtype and (labels == twin).float().mean() > 0.999


def test_given_masks_paint_what_they_cover(monkeypatch):
    monkeypatch.setattr(outputs, "BUDGET", 4000)
    masks, probs = torch.rand(5, 20, 30) > 0.7, log_probs(5, 4)
    labels = paint(probs, masks, ignore=255)
    for y, x in np.ndindex(20, 30):
        votes = sum(probs[n, :-1].exp() for n in range(5) if masks[n, y, x])
        assert labels[y, x] == (255 if isinstance(votes, int) else votes.argmax())
    assert (paint(log_probs(0, 4), masks[:0], ignore=255) == 255).all()
    assert paint(log_probs(5, 400), masks, ignore=-1).dtype == torch.int32


def test_panoptic_segments_follow_mask2formers_rule(canvas, monkeypatch):
    probs, things = log_probs(6, 3), {0}
    probs[2] = torch.tensor([0.0, 0, 0, 9]).log_softmax(-1)                # void
    probs[3:5] = torch.tensor([0.0, 9, 0, 0]).log_softmax(-1)              # two masks of one class that is not a thing
    masks = full(canvas).sigmoid()
    scores, labels = probs.exp().max(-1)
    kept = [q for q in range(6) if labels[q] != 3]
    winner = torch.tensor(kept)[(scores[kept][:, None, None] * masks[kept]).argmax(0)]
    ids, segments, seen = torch.zeros(77, 131, dtype=torch.int32), [], {}
    for q in kept:
        region, held = (winner == q) & (masks[q] >= 0.5), masks[q] >= 0.5
        if not region.any() or (winner == q).sum() / held.sum() < 0.3:
            continue
        c = int(labels[q])
        if c in things or c not in seen:
            segments.append({"id": len(segments) + 1, "isthing": c in things, "category_id": c})
            seen[c] = len(segments)
        ids[region] = len(segments) if c in things else seen[c]
    for budget in (1, 2**28):
        monkeypatch.setattr(outputs, "BUDGET", budget)
        found, said = panoptic(probs, canvas, things, overlap=0.3)
        assert said == segments and (found == ids).float().mean() > 0.999
    nothing, said = panoptic(probs[2:3], Canvas(canvas.masks[2:3], canvas.padded, canvas.inner, canvas.size))
    assert not nothing.any() and said == []


def test_instances_are_the_best_pairs(canvas, monkeypatch):
    monkeypatch.setattr(outputs, "BUDGET", 2**16)
    probs, logits = log_probs(6, 3), full(canvas)
    found = instances(probs, canvas, {0, 2}, top=10)
    best = sorted(((probs[q, c].exp().item(), q, c) for q in range(6) for c in range(3)), reverse=True)[:10]
    twin = sorted((p * (logits[q].sigmoid() * (logits[q] > 0)).sum().item() / ((logits[q] > 0).sum().item() + 1e-6), c)
                  for p, q, c in best if c != 1)[::-1]  # fmt: skip
    assert np.allclose(found.scores, [s for s, _ in twin], atol=1e-4) and found.classes.tolist() == [c for _, c in twin]
    assert found.masks[found.which].shape == (len(twin), 77, 131)


# -- official files ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def parts(clip):
    torch.manual_seed(1)
    generator = MaskGenerator(clip.channels, 40, 5, 32, 8, 1, 16, 2, 16)
    return live(MaskAdapterNet(clip, 24, 8, 4)), generator, ContentTransfer(40)


@pytest.fixture(scope="module")
def official(parts, clip) -> dict[str, torch.Tensor]:
    """A file's tensors in the official format, every part in it, with a stale copy and what training leaves behind."""
    net, generator, transfer = parts
    found = {f"mask_adapter.{k}": v for k, v in net.mask_adapter.state_dict().items()}
    found |= {f"sem_seg_head.predictor.mask_adapter.{k}": v + 1 for k, v in net.mask_adapter.state_dict().items()}
    found |= {f"cdt.{k}": v for k, v in transfer.state_dict().items()} | {"criterion.empty_weight": torch.zeros(3)}
    found |= {f"backbone.clip_model.{k}": v for k, v in clip.model.state_dict().items()}
    found["backbone.clip_model.attn_mask"] = torch.zeros(2)
    names = converter.generator_names(1, 2)
    thirds: dict[str, dict[int, torch.Tensor]] = {}
    for name, value in generator.state_dict().items():
        key, third = converter.official_of(name, names)
        if third is None:
            found[key] = value
        else:
            thirds.setdefault(key, {})[third] = value
    found |= {key: torch.cat([rows[i] for i in range(3)]) for key, rows in thirds.items()}
    return found | {"void_embedding.weight": net.void_embedding.weight.detach()}


def written(tensors: dict, path, wrapped: bool = True):
    torch.save({"model": tensors, "iteration": 7} if wrapped else tensors, path)
    return str(path)


def test_an_official_file_becomes_an_export_that_loads(official, parts, clip, place, tmp_path):
    import zoo

    (tmp_path / "seen.txt").write_text("1:cat,kitten\n2:sky\n")
    said = converter.convert(written(official, tmp_path / "a.pth"), tmp_path / "out", str(place), str(tmp_path / "seen.txt"))
    assert any("43 tensors sem_seg_head.predictor.mask_adapter.*, a stale copy" in line for line in said)
    model = zoo.load(tmp_path / "out")
    net, generator, transfer = parts
    assert set(load_file(tmp_path / "out" / "weights.safetensors")) == {f"net.{k}" for k in net.state_dict()
                                                                        if k.startswith(("mask_adapter.", "void_embedding."))}
    pieces = (model.net.mask_adapter, net.mask_adapter), (model.net.generator, generator), (model.net.transfer, transfer)
    for ours, theirs in pieces:
        pairs = zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True)
        assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs if a != "void")
    assert torch.equal(model.net.generator.void, net.void_embedding.weight) and model.net.scrambled
    assert model.judging.alpha == 0.7 and model.judging.beta == 1.0 and model.judging.threshold == 0.45


def test_a_generators_own_file_gives_the_generator_alone(official, parts, place, tmp_path):
    bare = {k: v for k, v in official.items() if "mask_adapter." not in k and not k.startswith("cdt.")}
    said = converter.convert(written(bare, tmp_path / "g.pth", wrapped=False), tmp_path / "out", str(place))
    assert any("no adapter in it" in line for line in said) and not (tmp_path / "out" / "weights.safetensors").exists()
    loaded = load_generator(str(tmp_path / "out" / "generator.safetensors"))
    assert loaded.decoder.queries_embedder.weight.shape[0] == 5 and not any(p.requires_grad for p in loaded.parameters())


def test_the_released_generators_have_117_and_184_tensors():
    for channels, joint, queries, pixels, decoder in (
        ((192, 384, 768, 1536), 768, 250, 5_790_144, 14_930_689), ((192, 384, 768, 1536), 768, 100, 5_790_144, 14_853_889),
        ((128, 256, 512, 1024), 640, 100, 5_544_384, 14_820_993),
    ):  # fmt: skip
        with torch.device("meta"):
            made = MaskGenerator(list(channels), joint, queries)
        names = converter.generator_names(6, 9)
        keys = {converter.official_of(name, names)[0] for name in made.state_dict()}
        assert [sum(k.startswith(part) for k in keys) for part in (converter.PIXELS, converter.PREDICTOR)] == [117, 184]
        count = lambda *parts: sum(p.numel() for part in parts for p in part.parameters())
        assert count(made.pixel_decoder) == pixels and count(made.decoder, made.naming) == decoder


@pytest.mark.parametrize("change, says", [
    ({"mask_adapter.norm.bias": None}, "1 tensors missing .first: mask_adapter.norm.bias."),
    ({"mask_adapter.more": torch.zeros(1)}, "1 unexpected .first: mask_adapter.more."),
    ({"mask_adapter.norm.bias": torch.zeros(3)}, r"mask_adapter.norm.bias is \(3,\), expected \(24,\)"),
    ({"void_embedding.weight": None}, "void_embedding.weight is missing"),
    ({"sem_seg_head.predictor.query_embed.weight": None}, "query_embed.weight"),
    ({"cdt.cross_atten.MLP.bias": None}, "cdt.cross_atten.MLP.bias"),
    ({"backbone.clip_model.logit_scale": torch.tensor(9.0)}, "not the one given .they differ in logit_scale."),
])  # fmt: skip
def test_a_file_that_is_not_whole_is_one_line(official, place, tmp_path, change, says):
    tensors = {k: v for k, v in (official | change).items() if v is not None}
    with pytest.raises(UserError, match=says):
        converter.convert(written(tensors, tmp_path / "a.pth"), tmp_path / "out", str(place))


def test_foreign_files_are_one_line(official, place, tmp_path):
    with pytest.raises(UserError, match="neither an adapter nor a mask generator"):
        converter.convert(written({"decode_head.weight": torch.zeros(1)}, tmp_path / "a.pth"), tmp_path / "out")
    with pytest.raises(UserError, match="its CLIP is none of"):
        converter.convert(written(official, tmp_path / "b.pth"), tmp_path / "out")
    slim = {k: v for k, v in official.items() if not k.startswith("backbone.")}
    with pytest.raises(UserError, match="there is no CLIP in it"):
        converter.convert(written(slim, tmp_path / "c.pth"), tmp_path / "out")
    wide = clip_folder(tmp_path / "wide", joint=48)
    with pytest.raises(UserError, match="need a CLIP 40 wide, this one is 48 wide"):
        converter.convert(written(slim, tmp_path / "d.pth"), tmp_path / "out", str(wide))
    with pytest.raises(UserError, match="no such file"):
        converter.convert(str(tmp_path / "nowhere.pth"), tmp_path / "out")


def test_a_parts_file_says_how_it_is_made_and_damage_is_one_line(parts, tmp_path):
    transfer, file = parts[2], tmp_path / "transfer.safetensors"
    file.write_bytes(packed(transfer, {"width": 40, "heads": 8, "norm_last": False}))
    assert sha256_of_tensors(load_transfer(str(file))) == sha256_of_tensors(transfer) and not load_transfer(str(file)).norm_last
    with pytest.raises(ValueError, match="not a whole MaskGenerator"):
        load_generator(str(file))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match="not a whole ContentTransfer"):
        load_transfer(str(file))
    with pytest.raises(ValueError, match="no such file"):
        load_transfer(str(tmp_path / "nowhere"))
