"""Moments, latents and the cache: exact, resumable, never another picture's."""

import multiprocessing
import os
import pickle
import signal
from operator import itemgetter

import pytest
import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, Dataset

from datamodules.errors import UserError
from tests.diffusion import trees
from zoo.diffusion import latents
from zoo.diffusion.latents import Cached, LatentCache, decode, draw, encode, fill, key_of, mean, to_input, to_pictures

SHA = "12" * 32


@pytest.fixture(scope="module")
def vae():
    return trees.vae()


def some(count: int, height: int = 16, width: int = 24, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), generator=rng, dtype=torch.uint8)


# -- pictures and latents ----------------------------------------------------------------------------------------------
def test_moments_are_the_vaes_own_distribution(vae):
    pictures = some(3)
    moments = encode(vae, pictures, batch=2)
    with torch.no_grad():
        theirs = vae.encode(pictures / 255 * 2 - 1).latent_dist
    assert moments.shape == (3, 8, 4, 6) and moments.dtype == torch.float32
    assert torch.allclose(moments, torch.cat([theirs.mean, theirs.logvar], 1), atol=1e-5)
    assert torch.allclose(mean(moments, 0.5), theirs.mode() * 0.5, atol=1e-5)


def test_a_sample_is_the_one_diffusers_draws(vae):
    pictures = some(2)
    with torch.no_grad():
        theirs = vae.encode(to_input(pictures)).latent_dist.sample(torch.Generator().manual_seed(5))
    ours = draw(encode(vae, pictures), 0.18215, torch.Generator().manual_seed(5))
    assert torch.equal(ours, theirs * 0.18215)


def test_samples_have_the_moments_they_are_drawn_from():
    moments = torch.cat([torch.full((1, 100, 100), 3.0), torch.full((1, 100, 100), 2 * torch.log(torch.tensor(0.5)))])
    drawn = draw(moments, 2.0, torch.Generator().manual_seed(0))
    assert drawn.shape == (1, 100, 100) and abs(drawn.mean() - 6) < 0.05 and abs(drawn.std() - 1) < 0.03


def test_decoding_undoes_the_scaling_and_works_in_parts(vae):
    z = torch.randn(3, 4, 2, 5)
    with torch.no_grad():
        theirs = vae.decode(z / vae.config.scaling_factor).sample
    ours = decode(vae, z, batch=2)
    assert ours.shape == (3, 3, 8, 20) and torch.allclose(ours, theirs, atol=1e-5)


def test_pictures_survive_there_and_back_in_bytes():
    pictures = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(to_pictures(to_input(pictures)), pictures)
    assert to_pictures(torch.tensor([-7.0, -1.0, 1.0, 7.0])).tolist() == [0, 0, 255, 255]


def test_sides_the_vae_would_cut_are_refused(vae):
    with pytest.raises(UserError, match="a picture of 24x18 pixels; give sides that are multiples of 4"):
        encode(vae, some(1, 18, 24))


# -- the cache ---------------------------------------------------------------------------------------------------------
def test_the_cache_gives_moments_to_the_bit(vae, tmp_path):
    pictures = some(5)
    cache = LatentCache(tmp_path, SHA, torch.float32)
    assert fill(cache, vae, pictures, batch=5) == 5
    assert torch.equal(cache.of(pictures), encode(vae, pictures, batch=5))
    assert torch.equal(LatentCache(tmp_path, SHA, torch.float32).of(pictures), cache.of(pictures))


def test_half_precision_is_as_exact_as_it_says(tmp_path):
    rng = torch.Generator().manual_seed(0)
    moments = torch.cat([20 * torch.randn(4, 16, 16, generator=rng), -30 * torch.rand(4, 16, 16, generator=rng)])
    cache = LatentCache(tmp_path, SHA)
    cache.write({"a": moments})
    (centre, spread), (centre16, spread16) = moments.chunk(2), cache.read("a").chunk(2)
    assert cache.read("a").dtype == torch.float32 and cache.folder.name.endswith("float16")
    assert ((centre - centre16).abs() <= centre.abs() / 2048 + 1e-7).all()
    ratio = torch.exp((spread16 - spread) / 2)
    assert (ratio - 1).abs().max() <= 0.008
    assert (ratio - 1)[spread > -10].abs().max() <= 0.0025


def test_pictures_of_any_size_and_twice_the_same(vae, tmp_path, monkeypatch):
    wide, high = some(3), some(3, 24, 16)
    mixed = [wide[0], high[0], wide[1], wide[0], high[1], wide[2], high[2], high[0]]
    cache, encoded = LatentCache(tmp_path, SHA, torch.float32), []
    monkeypatch.setattr(latents, "encode", lambda vae, part, batch: encoded.append(len(part)) or encode(vae, part, batch))
    assert fill(cache, vae, iter(mixed), batch=2) == 6 and len(cache) == 6 and sum(encoded) == 6
    assert cache.of(high).shape == (3, 8, 6, 4) and cache.of(wide[None]).shape == (1, 3, 8, 4, 6)
    assert torch.allclose(cache.of(high), encode(vae, high), atol=1e-5)
    assert fill(cache, vae, mixed) == 0


def test_size_and_pixels_make_the_key():
    picture = some(1)[0]
    assert key_of(picture) == key_of(picture.clone()) == key_of(picture.flip(-1).flip(-1))
    others = [picture.flip(-1), picture.view(3, 24, 16), picture ^ 1]
    assert len({key_of(p) for p in [picture, *others]}) == 4


def test_another_vae_or_precision_never_meets_these_moments(vae, tmp_path):
    pictures = some(2)
    fill(LatentCache(tmp_path, SHA), vae, pictures)
    assert len(LatentCache(tmp_path, SHA)) == 2
    assert len(LatentCache(tmp_path, "34" * 32)) == len(LatentCache(tmp_path, SHA, torch.float32)) == 0


def test_what_is_not_cached_is_said(vae, tmp_path):
    cache = LatentCache(tmp_path, SHA)
    fill(cache, vae, some(2))
    with pytest.raises(UserError, match=r"1 of 3 pictures \(24x16\) are not in this cache; .* no random crop"):
        cache.of(torch.cat([some(2), some(1, seed=1)]))


def test_shards_are_written_when_they_are_full_and_when_they_take_long(vae, tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "SHARD_BYTES", 2 * 8 * 4 * 6 * 2)
    cache = LatentCache(tmp_path, SHA)
    fill(cache, vae, some(5), batch=1)
    assert len(list(cache.folder.iterdir())) == 3 and len(cache) == 5
    monkeypatch.setattr(latents, "SHARD_BYTES", 1 << 30)
    monkeypatch.setattr(latents, "SHARD_SECONDS", 0.0)
    slow = LatentCache(tmp_path / "slow", SHA)
    fill(slow, vae, some(3), batch=1)
    assert len(list(slow.folder.iterdir())) == 3


def kill_after(root, count: int) -> None:
    """In a process of its own: fills a cache and is killed when it asks for picture number `count`."""
    torch.set_num_threads(1)
    latents.SHARD_BYTES = 2 * 8 * 4 * 6 * 4

    def pictures():
        for i, picture in enumerate(some(9)):
            if i == count:
                os.kill(os.getpid(), signal.SIGKILL)
            yield picture

    fill(LatentCache(root, SHA, torch.float32), trees.vae(), pictures(), batch=1)


def test_a_killed_writer_leaves_whole_shards_and_is_gone_on_from(vae, tmp_path):
    process = multiprocessing.get_context("fork").Process(target=kill_after, args=(tmp_path, 7))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    cache = LatentCache(tmp_path, SHA, torch.float32)
    assert len(cache) == 6                                   # three shards of two; the seventh picture was not written yet
    assert fill(cache, vae, some(9), batch=1) == 3
    whole = LatentCache(tmp_path / "whole", SHA, torch.float32)
    fill(whole, vae, some(9), batch=1)
    assert torch.equal(LatentCache(tmp_path, SHA, torch.float32).of(some(9)), whole.of(some(9)))


def test_what_a_killed_write_left_is_not_read(vae, tmp_path):
    cache = LatentCache(tmp_path, SHA)
    fill(cache, vae, some(2))
    shard = next(cache.folder.iterdir())
    shard.with_name(f"{shard.name}.tmp123-abc").write_bytes(b"half")
    assert len(LatentCache(tmp_path, SHA)) == 2


def flip_a_bit(path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def test_a_damaged_shard_is_one_line_and_only_its_pictures_are_encoded_anew(vae, tmp_path):
    pictures = some(4)
    cache = LatentCache(tmp_path, SHA)
    for part in pictures.split(2):
        fill(cache, vae, part)
    shard = cache._where[key_of(pictures[3])]
    flip_a_bit(shard, -1)
    with pytest.raises(UserError, match="has not its checksum; remove the file"):
        LatentCache(tmp_path, SHA).of(pictures)
    with open(shard, "r+b") as file:
        file.truncate(600)
    with pytest.raises(UserError, match=f"{shard.name}: not a whole shard of a latent cache"):
        LatentCache(tmp_path, SHA)
    shard.unlink()
    assert fill(LatentCache(tmp_path, SHA), vae, pictures) == 2


# -- in a loader -------------------------------------------------------------------------------------------------------
class Scenes(Dataset):
    """[(visit, index)]: mirrored at odd visits, as augmented scenes are."""

    def __init__(self, pictures):
        self.pictures = pictures

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, key):
        visit, index = key
        image = self.pictures[index]
        return {"image": image.flip(-1) if visit % 2 else image, "name": f"scene {index}"}


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_bring_the_moments_of_the_very_picture_they_show(vae, tmp_path, workers):
    pictures = some(4)
    cache = LatentCache(tmp_path, SHA, torch.float32)
    fill(cache, vae, torch.cat([pictures, pictures.flip(-1)]), batch=4)
    wrapped = Cached(Scenes(pictures), cache, {"moments": itemgetter("image")})
    assert len(wrapped) == 4
    order = [(0, 3), (1, 3), (2, 0), (3, 1)]
    for scene, (visit, index) in zip(DataLoader(wrapped, batch_size=None, sampler=order, num_workers=workers), order):
        assert scene["name"] == f"scene {index}"
        shown = pictures[index].flip(-1) if visit % 2 else pictures[index]
        assert torch.equal(scene["image"], shown) and torch.equal(scene["moments"], cache.of(shown))


def test_a_cache_can_be_sent_to_a_spawned_worker(vae, tmp_path):
    cache = LatentCache(tmp_path, SHA)
    fill(cache, vae, some(2))
    again = pickle.loads(pickle.dumps(Cached(Scenes(some(2)), cache, {"moments": itemgetter("image")})))
    assert torch.equal(again[0, 1]["moments"], cache.of(some(2)[1]))


def test_a_sample_that_is_not_cached_is_named_in_one_line_also_by_a_worker(vae, tmp_path):
    cache = LatentCache(tmp_path, SHA)
    fill(cache, vae, some(2))
    wrapped = Cached(Scenes(some(3)), cache, {"moments": itemgetter("image")})
    said = "^scene 2: .*: 1 of 1 pictures .24x16. are not in this cache; fill it"
    with pytest.raises(UserError, match=said) as caught:
        wrapped[0, 2]
    sent = ExceptionWrapper((caught.type, caught.value, caught.tb), "in a worker")      # as a loader sends it
    with pytest.raises(UserError, match=said) as again:
        sent.reraise()
    assert str(again.value) == str(caught.value)
