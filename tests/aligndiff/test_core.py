"""AlignDiff's parts: the learnt word's place, the loss at its edges, masks that do not wrap, Algorithm 1, the bank."""

import copy
import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from datamodules.errors import UserError
from tests.aligndiff.trees import build
from zoo.aligndiff.align import Rules, align
from zoo.aligndiff.bank import Instance, load_bank, save_bank
from zoo.aligndiff.embedding import adjective, encode, named, noun, plain
from zoo.aligndiff.loss import cells_of, masked_loss
from zoo.aligndiff.masks import coarse_map, foreground, to_bytes
from zoo.diffusion.text import words


@pytest.fixture(scope="module")
def model():
    return build().eval()


@pytest.fixture(scope="module")
def text(model):
    return model.base.text


def tokens(text, prompt, places):
    return text.tokenizer.decode(prompt.ids[list(places)]).replace(" ", "")


# -- the learnt word ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("word", ["sofa", "traffic light", "pterodactyl skeleton", "photo", "a", "T-shirt"])
def test_the_new_word_stands_before_the_name_and_the_mask_is_the_names(text, word):
    prompt = adjective(text, "a photo of a {}", word, 2)
    said = text.ids([f"a photo of a {word}"])[0]
    assert list(prompt.new) == [5, 6] and len(prompt.ids) == len(said) == 77
    assert torch.equal(torch.cat([prompt.ids[:5], prompt.ids[7:]]), said[:75])
    assert tokens(text, prompt, prompt.word) == word.lower().replace(" ", "")
    assert named(text, "a photo of a {}", word).word == range(5, 5 + len(prompt.word))


def test_as_a_noun_it_stands_in_the_names_place_and_is_its_own_mask(text):
    prompt = noun(text, "a photo of a {} on sand", "traffic light")
    assert prompt.new == prompt.word == range(5, 6)
    rest = text.ids(["a photo of a x on sand"])[0]
    assert torch.equal(prompt.ids[6:], rest[6:]) and torch.equal(prompt.ids[:5], rest[:5])


def test_a_name_that_is_part_of_another_word_is_not_met_there(text):
    prompt = plain(text, "a seahorse and a horse", "horse")
    assert prompt.word == words(text.tokenizer, "a seahorse and a horse", "horse")[0] and prompt.word.start > 3
    with pytest.raises(UserError, match="'horse' is no word of this prompt"):
        plain(text, "a seahorse", "horse")


def test_names_that_do_not_fit_or_say_nothing_are_one_line(text):
    for word, line in (("very " * 75 + "cat", "77 fit"), ("", "without a name"), (" very" * 70 + " cat", "77 fit")):
        with pytest.raises(UserError, match=line):
            adjective(text, "a photo of a {}", word, 4)
    with pytest.raises(UserError, match="write {} once"):
        adjective(text, "a photo", "cat")


def test_only_the_vectors_get_a_gradient_and_each_row_has_its_own(model, text):
    prompts = [adjective(text, "a photo of a {}", word) for word in ("cat", "traffic light")]
    vectors = [torch.randn(1, text.width, requires_grad=True) for _ in prompts]
    states = encode(text.encoder, prompts, vectors)
    alone = encode(text.encoder, prompts[1:], vectors[1:])
    assert torch.allclose(states[1:], alone, atol=1e-6)
    states[0].sum().backward()
    assert vectors[0].grad.abs().sum() > 0 and vectors[1].grad.abs().sum() == 0
    assert all(p.grad is None for p in text.encoder.parameters())
    with pytest.raises(UserError, match="width 3"):
        encode(text.encoder, prompts[:1], [torch.zeros(1, 3)])


# -- the loss ----------------------------------------------------------------------------------------------------------
def test_a_region_that_nearest_loses_keeps_the_cells_it_touches():
    masks = torch.zeros(3, 64, 64)
    masks[0, 3, 5] = masks[1] = 1
    masks[1, 3, 5] = 0
    cells = cells_of(masks, (8, 8))
    assert cells[0].nonzero().tolist() == [[0, 0]] and (~cells[1]).nonzero().tolist() == [[0, 0]] and not cells[2].any()
    loss = masked_loss(torch.ones(3, 4, 8, 8), torch.zeros(3, 4, 8, 8), cells, 0.5)
    assert torch.allclose(loss, torch.tensor([1.5, 1.5, 0.5]))                # the empty region weighs nothing; no NaN


def test_a_small_object_weighs_as_much_as_a_large_one_only_when_normalised():
    cells = torch.zeros(1, 8, 8, dtype=torch.bool)
    cells[0, 0, 0] = True
    error = torch.zeros(1, 4, 8, 8)
    error[..., 0, 0] = 2
    assert masked_loss(error, torch.zeros_like(error), cells, 0.6).item() == pytest.approx(4)
    assert masked_loss(error, torch.zeros_like(error), cells, 0.6, "unnormalised").item() == pytest.approx(4 / 64)
    assert masked_loss(error, torch.zeros_like(error), cells, masking="none").item() == pytest.approx(4 / 64)


# -- coarse masks ------------------------------------------------------------------------------------------------------
def test_clipping_stops_what_wraps_in_the_released_way():
    sides = []
    for side in (16, 32, 64):                                # a spot of one to three cells on a flat ground
        spot = torch.full((1, 1, side, side), 0.01)
        spot[..., side // 2, side // 2 : side // 2 + side // 32 + 1] = 1
        sides.append(spot)
    found = coarse_map(sides, [1], (512, 512))[0]
    true = foreground(to_bytes(found))
    wrapped = foreground((found * 255).to(torch.int64).remainder(256).to(torch.uint8))
    assert found.min() < 0 and true.float().mean() < 0.005
    assert (wrapped & ~true).float().mean() > 0.005          # false foreground, more than the object itself
    assert torch.equal(true[found >= 0], wrapped[found >= 0])


# -- Algorithm 1 -------------------------------------------------------------------------------------------------------
class Halves:
    """Says left or right half, by a picture's mean; notes what it is told."""

    def __init__(self):
        self.told = []

    def condition(self, pairs):
        self.told.append(len(pairs))
        return len(pairs)

    def segment(self, pictures, memory, threshold):
        mask = torch.zeros(4, 4, dtype=torch.bool)
        mask[:, :2] = True
        return [mask if picture.mean() > 0 else torch.zeros_like(mask) for picture in pictures]


def test_the_best_accepted_join_and_nothing_accepted_leaves_the_real_pairs_alone():
    left = torch.zeros(4, 4, dtype=torch.bool)
    left[:, :2] = True
    nearly, other = left.clone(), ~left
    nearly[0, 0] = False
    pictures = [torch.ones(3, 4, 4)] * 3 + [torch.zeros(3, 4, 4)]
    f = Halves()
    found = align(f, [(pictures[0], left)], pictures, [left, nearly, other, torch.zeros_like(left)], Rules(0.8, most=1))
    assert found.accepted == [True, True, False, False] and f.told == [1, 2]
    assert found.iou[2] == 0 and found.iou[3] != found.iou[3]                 # both empty: no IoU, not accepted
    f = Halves()
    found = align(f, [(pictures[0], left)], pictures[2:], [other, other], Rules(0.0, recheck=True))
    assert found.accepted == [True, False] and found.dropped == [False, True]
    f = Halves()
    assert not any(align(f, [(pictures[0], left)], pictures[2:], [other, other], Rules(1.0)).accepted) and f.told == [1]


def test_rules_out_of_range_are_one_line():
    for settings, line in (({"alpha": 1.2}, "1.2 is no IoU"), ({"alpha": "high"}, "high is no IoU"), ({"most": 0}, "0 pictures"),
                           ({"keep": "both"}, "keep='both'"), ({"score": 1.5}, "score: 1.5 is no probability"),
                           ({"final": -0.1}, "final: -0.1 is no probability")):
        with pytest.raises(UserError, match=line):
            Rules(**settings)


# -- many side by side -------------------------------------------------------------------------------------------------
def test_side_by_side_words_learn_what_they_learn_alone():
    def learnt(rows, batches):
        torch.manual_seed(0)
        model = build()
        model.take_instances([Instance("thing", str(n), "") for n in range(2)])
        optimizer = torch.optim.AdamW(model.bank.parameters(), 0.1)
        for _ in range(3):
            for batch in batches:
                rng = [torch.Generator().manual_seed(row) for row in batch]
                latents, noise = (torch.stack([torch.randn(4, 16, 16, generator=g) for g in rng]) for _ in range(2))
                cells = torch.zeros(len(batch), 16, 16, dtype=torch.bool)
                cells[:, :4] = True
                each = model.errors(latents, noise, torch.tensor([300 + 100 * row for row in batch]), cells, list(batch))
                each.sum().backward()
                optimizer.step()
                optimizer.zero_grad()
        return [vector.detach() for vector in model.bank]

    together, alone = learnt(2, [(0, 1)]), learnt(2, [(0,), (1,)])
    for a, b in zip(together, alone):
        assert torch.allclose(a, b, atol=1e-5)


# -- the bank ----------------------------------------------------------------------------------------------------------
def test_a_bank_comes_back_and_diffusers_reads_its_single_files_together(model, tmp_path):
    instances = [Instance("traffic light", "a/1.jpg", "x"), Instance("traffic light", "a/1.png", "y"), Instance("cat", "1", "z")]
    vectors = [torch.randn(1, model.base.text_width) for _ in instances]
    prompts = [adjective(model.base.text, "a photo of a {}", one.word).text for one in instances]
    save_bank(tmp_path, instances, vectors, prompts, model.base, {"steps": 3})
    found = load_bank(tmp_path, model.base)
    assert list(found) == instances and all(torch.equal(found[one], v) for one, v in zip(instances, vectors))
    about = json.loads((tmp_path / "bank.json").read_text())
    assert about["entries"]["cat/1"]["prompt"] == "a photo of a <cat-1> cat" and about["steps"] == 3
    encoder = copy.deepcopy(model.base.text.encoder)
    pipe = StableDiffusionPipeline(vae=model.vae, text_encoder=encoder, tokenizer=copy.deepcopy(model.base.text.tokenizer),
                                   unet=model.unet, scheduler=None, safety_checker=None, feature_extractor=None,
                                   requires_safety_checker=False)
    for entry, vector in zip(about["entries"].values(), vectors):
        pipe.load_textual_inversion(str(tmp_path / entry["file"]))
        ids = pipe.tokenizer(entry["prompt"], padding="max_length", max_length=77, return_tensors="pt").input_ids
        ours = encode(model.base.text.encoder, [adjective(model.base.text, "a photo of a {}", entry["word"])], [vector])
        assert torch.allclose(encoder(ids).last_hidden_state, ours, atol=1e-5)


def test_names_without_latin_letters_or_alike_and_long_ones_get_files_of_their_own(model, tmp_path):
    names = [("собака", "а"), ("собака", "б"), ("cat", "1"), ("cat-1", ""), ("cat 1", ""), ("cat", ""), ("CAT", "")]
    names.append(("very " * 60, "1"))
    instances = [Instance(*name, "x") for name in names]
    save_bank(tmp_path, instances, [torch.full((1, model.base.text_width), float(n)) for n in range(len(names))],
              ["a <new> x"] * len(names), model.base, {})
    entries = list(json.loads((tmp_path / "bank.json").read_text())["entries"].values())
    assert len({entry["token"] for entry in entries}) == len({entry["file"] for entry in entries}) == len(names)
    for number, entry in enumerate(entries):
        kept = load_file(tmp_path / entry["file"])
        assert list(kept) == [entry["token"]] and (kept[entry["token"]] == number).all()


def test_a_bank_of_another_base_or_width_and_a_torn_one_are_one_line(model, tmp_path):
    save_bank(tmp_path, [Instance("cat", "1", "z")], [torch.zeros(1, model.base.text_width)], ["a <new> cat"], model.base, {})
    about = json.loads((tmp_path / "bank.json").read_text())
    changed = about | {"base": about["base"] | {"unet": "0" * 64}}
    (tmp_path / "bank.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match="a bank of another base .* its unet is not this one"):
        load_bank(tmp_path, model.base)
    (tmp_path / "bank.json").write_text(json.dumps(about))
    save_file({"cat/1": torch.zeros(1, 5)}, tmp_path / "bank.safetensors")
    with pytest.raises(UserError, match="has a width of 16"):
        load_bank(tmp_path, model.base)
    assert load_file(tmp_path / "bank.safetensors")["cat/1"].shape == (1, 5)
    (tmp_path / "bank.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="no bank can be read"):
        load_bank(tmp_path, model.base)
