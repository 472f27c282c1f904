"""The shipped tiny models: loaded by the libraries' own doors, small, and as good as the README says."""

import numpy as np
import open_clip
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from datamodules.demo import objects
from datamodules.demo.world import WORLD_SEED
from zoo.tiny import autoencoder, check_autoencoder, check_clip, check_unet, clip, diffusion, silhouettes
from zoo.tiny.oracle import Oracle
from zoo.tiny.pictures import KNOWN, indices, look
from zoo.tiny.text import text_encoder, tokenizer

SENTENCES = ["", "a striped shirt and fish on sand", "a photo of a small barred beast.", "There is the zebra, isn't there?!"]


@pytest.fixture(scope="module")
def model() -> open_clip.CLIP:
    return clip.load()


def test_open_clip_itself_loads_the_clip_and_reads_77_tokens(model):
    again = open_clip.create_model(f"local-dir:{clip.FOLDER}")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert model.context_length == 77 and model.token_embedding.weight.dtype == torch.float32


@torch.inference_mode()
def test_sentences_cut_short_give_open_clips_vectors(model):
    whole = model.encode_text(open_clip.get_tokenizer("ViT-B-32")(SENTENCES))
    assert torch.allclose(clip.encode_text(model, clip.tokens(SENTENCES)), whole, atol=1e-5)


@torch.inference_mode()
def test_transformers_text_tower_is_the_same_to_the_bit(model):
    ids = tokenizer()(SENTENCES, padding="max_length", truncation=True, return_tensors="pt").input_ids
    theirs = open_clip.get_tokenizer("ViT-B-32")(SENTENCES)
    ends = theirs.argmax(1)
    for ours, other, end in zip(ids, theirs, ends):
        assert torch.equal(ours[: end + 1], other[: end + 1])
    states = text_encoder(model)(ids).last_hidden_state
    assert torch.equal(states[torch.arange(len(ids)), ends] @ model.text_projection, model.encode_text(theirs))


@torch.inference_mode()
@pytest.mark.parametrize("size", [(64, 64), (128, 192)])
def test_pooling_the_whole_grid_is_the_pictures_own_vector(model, size):
    images = torch.randn(2, 3, *size)
    grid = clip.dense(model, images)
    assert grid.shape[-2:] == (size[0] // 16, size[1] // 16)
    assert torch.allclose(clip.project(model, grid.mean((2, 3))), model.encode_image(images, normalize=True), atol=1e-5)


def test_the_clip_names_cut_out_objects_it_has_never_seen(model):
    things = check_clip.found(model, 5000, 20, KNOWN)
    text, truth = check_clip.rows(model, KNOWN), [thing.word for thing in things]
    seen = check_clip.ways(model, things)
    assert check_clip.right(seen["crop"], text, KNOWN, truth) >= 0.85
    assert check_clip.right(seen["mask pooling at 192 px"], text, KNOWN, truth) >= 0.5


def test_diffusers_itself_loads_the_autoencoder_and_its_latents_have_a_spread_of_one():
    net = AutoencoderKL.from_pretrained(autoencoder.FOLDER)
    images = torch.from_numpy(np.stack([look(i, "scene", 64).image for i in indices("check", 500, 8)]))
    with torch.inference_mode():
        latents = net.encode(autoencoder.pictures_to_input(images)).latent_dist.mean * net.config.scaling_factor
    assert latents.shape == (8, 4, 16, 16) and 0.8 < latents.std() < 1.25


@pytest.mark.parametrize("side", [64, 128])
def test_masks_and_thin_lines_survive_the_autoencoder(side):
    net = autoencoder.load()
    found = np.concatenate([objects(WORLD_SEED, i, (side, side), classes=KNOWN).masks for i in indices("check", 600, 6)])
    lines = np.stack([silhouettes.line(np.random.default_rng((9, i)), side, 2.0) for i in range(12)])
    for masks, bar in ((found, 0.98), (lines, 0.95)):
        masks = torch.from_numpy(masks)
        assert check_autoencoder.iou(masks, check_autoencoder.through(net, check_autoencoder.white_on_black(masks)))["IoU"] >= bar


def test_pca_brings_back_what_it_is_made_of():
    pca = autoencoder.PCA(torch.rand(40, 3, 8, 8) * 2 - 1)
    latents = torch.randn(2, 4, 3, 5)
    images = pca.decode(latents)
    assert images.shape == (2, 3, 12, 20) and torch.allclose(pca.encode(images), latents, atol=1e-4)


def test_an_untrained_autoencoder_hands_its_latents_through():
    net = autoencoder.untrained()
    hidden = torch.randn(1, 8, 4, 4)
    mean, log_variance = net.quant_conv(hidden).chunk(2, 1)
    assert torch.equal(mean, hidden[:, :4]) and (log_variance == -8).all()
    assert torch.equal(net.post_quant_conv(mean), mean)


def test_silhouettes_are_white_on_black_and_lines_as_wide_as_asked():
    rng = np.random.default_rng(0)
    for _ in range(40):
        picture = silhouettes.silhouette(rng, 32)
        assert picture.shape == (32, 32, 3) and set(np.unique(picture)) <= {0, 255} and np.ptp(picture, axis=2).max() == 0
    wide = [silhouettes.line(np.random.default_rng(i), 256, 3.0) for i in range(20)]
    assert all(2.5 < mask.sum() / max(np.ptp(np.nonzero(mask), axis=1).max() + 1, 1) < 4.6 for mask in wide)


def test_all_weights_together_stay_small():
    files = list(clip.FOLDER.parent.rglob("*.safetensors"))
    assert len(files) >= 2 and sum(file.stat().st_size for file in files) < 22 * 2**20


def test_diffusers_itself_loads_the_whole_base_and_draws_what_ours_does(tmp_path):
    diffusion.write_whole(tmp_path)
    ours, plain = diffusion.load(), StableDiffusionPipeline.from_pretrained(tmp_path)
    plain.set_progress_bar_config(disable=True)
    pictures = [
        pipe("ball on sand", height=64, width=64, num_inference_steps=3, output_type="np",
             generator=torch.Generator().manual_seed(0))
        for pipe in (ours, plain)
    ]
    assert np.abs(pictures[0].images - pictures[1].images).max() < 1e-4 and pictures[0].images.shape == (1, 64, 64, 3)


def test_the_base_draws_the_ground_it_is_told():
    grounds = ["grass", "water", "snow", "brick"]
    drawn = check_unet.draw(diffusion.load(), [f"ball on {ground}" for ground in grounds])
    said = check_unet.seen_in(Oracle.load(), drawn)
    assert sum(ground in words["ground"] for ground, words in zip(grounds, said)) >= 3
