"""The order of samples, resuming it, sharing it among processes, and what workers report."""

import types
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from datamodules.base import Augmented, EvenSplit, SceneData, Stream, Whole
from datamodules.errors import UserError
from datamodules.samples import collate_scenes
from datamodules.sources import SceneSource, settle_labels
from datamodules.transforms import SceneTransform


class Numbers(SceneSource):
    """Scene i holds the number i everywhere; scene `bad` cannot be read, scene `bug` raises what it should not."""

    def __init__(self, n, bad=None, bug=None):
        self.n, self.bad, self.bug = n, bad, bug
        self.names = [f"n{i}" for i in range(n)]

    def read(self, index):
        if index == self.bad:
            raise UserError("not a whole picture", f"n{index}.jpg", "replace it")
        if index == self.bug:
            raise ZeroDivisionError("oops")
        image = torch.full((3, 20, 20), index, dtype=torch.uint8)
        labels = torch.from_numpy(np.indices((20, 20)).sum(0).astype(np.uint8) % 2)
        return {"image": image, "labels": labels, "name": self.names[index], "size": (20, 20)}


@dataclass(kw_only=True, eq=False, repr=False)
class NumberData(SceneData):
    n: int = 7
    crop: int = 16
    batch_size: int = 2
    workers: int = 0
    seed: int = 3

    def __post_init__(self):
        self.name, self.classes, self.palette = "numbers", ["a", "b"], [(0, 0, 0), (255, 0, 0)]
        super().__post_init__()

    def make_source(self, split):
        return Numbers(self.n)


class Watcher(LightningModule):
    """Notes the batches it is given; fails in batch `stop`."""

    def __init__(self, stop=None):
        super().__init__()
        self.weight, self.stop, self.seen = torch.nn.Parameter(torch.zeros(1)), stop, []

    def training_step(self, batch, index):
        if len(self.seen) == self.stop:
            raise RuntimeError("killed")
        self.seen.append((batch["name"], batch["image"].clone()))
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(folder, module, data, checkpoint=None, **settings):
    from lightning.pytorch.callbacks import ModelCheckpoint

    saver = ModelCheckpoint(folder, every_n_train_steps=2, save_top_k=-1, filename="{step}")
    trainer = Trainer(max_steps=9, accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[saver],
                      enable_model_summary=False, use_distributed_sampler=False, default_root_dir=folder, **settings)
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)


# -- order
@pytest.mark.parametrize("start", [0, 1, 6, 7, 8, 23, 30])
def test_a_resumed_stream_is_the_tail_of_the_whole_one(start):
    whole = list(Stream(7, 5, 30))
    assert list(Stream(7, 5, 30, start=start)) == whole[start:]


@pytest.mark.parametrize("world", [2, 3])
def test_the_order_is_equal_on_one_and_on_several_processes(world):
    ranks = [list(Stream(7, 5, 10, rank, world)) for rank in range(world)]
    together = [sample for step in zip(*ranks) for sample in step]
    assert together == list(Stream(7, 5, 10 * world))


def test_every_epoch_visits_every_sample_once_in_an_order_of_its_own():
    order = [index for _, index in Stream(50, 0, 100)]
    assert sorted(order[:50]) == sorted(order[50:]) == list(range(50)) and order[:50] != order[50:]
    assert order != [index for _, index in Stream(50, 1, 100)]


@pytest.mark.parametrize("n, world", [(13, 2), (9, 4), (2, 3)])
def test_an_even_split_gives_every_sample_to_one_process(n, world):
    parts = [list(EvenSplit(n, rank, world)) for rank in range(world)]
    assert sorted(sum(parts, [])) == list(range(n)) and max(map(len, parts)) - min(map(len, parts)) <= 1


# -- runs
@pytest.mark.parametrize("workers, accumulate", [(0, 1), (2, 1), (0, 3)])
def test_a_resumed_run_sees_exactly_the_batches_an_unbroken_one_sees(tmp_path, workers, accumulate):
    whole, broken, resumed = Watcher(), Watcher(stop=5 * accumulate), Watcher()
    settings = {"accumulate_grad_batches": accumulate}
    fit(tmp_path / "a", whole, NumberData(workers=workers), **settings)
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "b", broken, NumberData(workers=workers), **settings)
    fit(tmp_path / "b", resumed, NumberData(workers=workers), str(tmp_path / "b" / "step=4.ckpt"), **settings)
    assert len(whole.seen) == 9 * accumulate and len(resumed.seen) == 5 * accumulate
    for (names, images), (names_again, images_again) in zip(whole.seen[4 * accumulate:], resumed.seen):
        assert names == names_again and torch.equal(images, images_again)


def test_a_run_without_a_number_of_steps_is_refused():
    data = NumberData()
    data.trainer = types.SimpleNamespace(max_steps=-1)
    with pytest.raises(UserError, match="trainer.max_steps"):
        data.train_dataloader()


def test_evaluation_sees_every_scene_whole_and_in_order():
    batches = list(NumberData(val_batch_size=2).val_dataloader())
    assert [name for batch in batches for name in batch["name"]] == [f"n{i}" for i in range(7)]
    assert batches[0]["image"].shape == (2, 3, 20, 20)


def test_a_method_may_wrap_the_training_set(tmp_path):
    class Renamed(torch.utils.data.Dataset):
        def __init__(self, inner):
            self.inner = inner

        def __len__(self):
            return len(self.inner)

        def __getitem__(self, key):
            return {**self.inner[key], "name": "wrapped"}

    data, module = NumberData(), Watcher()
    data.wrap = Renamed
    fit(tmp_path, module, data)
    assert module.seen[0][0] == ["wrapped", "wrapped"]


# -- workers
def read_all(source, workers):
    list(DataLoader(Whole(source), 2, num_workers=workers, collate_fn=collate_scenes))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_file_in_a_worker_is_one_line_with_its_name(workers):
    with pytest.raises(UserError) as caught:
        read_all(Numbers(5, bad=3), workers)
    assert str(caught.value) == "n3.jpg: not a whole picture; replace it"


def test_workers_run_after_opencv_has_used_its_threads():
    cv2.setNumThreads(4)
    cv2.resize(np.zeros((3000, 3000, 3), np.uint8), (1500, 1500))
    assert len(list(NumberData(workers=1).val_dataloader())) == 7
    transformed = Augmented(Numbers(7), SceneTransform(900, (40, 50), colour=1.0, hue=18), 0)
    assert len(list(NumberData(workers=1).loader(transformed, Stream(7, 0, 4), 2))) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_in_a_worker_keeps_its_type_and_names_the_sample(workers):
    with pytest.raises(ZeroDivisionError) as caught:
        read_all(Numbers(5, bug=3), workers)
    assert "while reading sample n3" in str(caught.value) + "".join(getattr(caught.value, "__notes__", []))


def test_a_sample_depends_on_nothing_but_seed_and_visit():
    def noisy(scene, rng):
        return {**scene, "image": scene["image"] + int(rng.integers(100))}

    one, other = Augmented(Numbers(5), noisy, 1), Augmented(Numbers(5), noisy, 2)
    first = one[7, 2]["image"]
    torch.manual_seed(5), np.random.seed(5)
    assert torch.equal(first, one[7, 2]["image"])
    assert any(not torch.equal(one[v, 2]["image"], other[v, 2]["image"]) for v in range(5))


def test_demo_scenes_are_the_same_each_time_and_splits_share_none():
    from datamodules.demo.data import DemoScenes

    for family, classes in (("landscape", 7), ("objects", 57)):
        data, again = (DemoScenes(family=family, size=(64, 96), n_train=3, n_val=2, n_test=2, crop=32) for _ in range(2))
        names = [set(data.source(split).names) for split in ("train", "val", "test")]
        assert [len(n) for n in names] == [3, 2, 2] and len(set.union(*names)) == 7 and data.num_classes == classes
        one, other = data.source("val").read(1), again.source("val").read(1)
        assert one["image"].shape == (3, 64, 96) and one["labels"].shape == (64, 96)
        assert one["labels"].max() < classes
        assert torch.equal(one["image"], other["image"]) and torch.equal(one["labels"], other["labels"])


# -- label values
def settled(values, classes, **settings):
    raw = torch.tensor([values], dtype=torch.uint8 if max(values) < 256 else torch.int32)
    return settle_labels(raw, classes, "m.png", **settings)


def test_labels_are_shifted_and_255_stays_ignored():
    out = settled([0, 1, 150, 255], 150, shift=-1)
    assert out.dtype == torch.uint8 and out.tolist() == [[255, 0, 149, 255]]
    assert settled([0, 255], 2, white=1).tolist() == [[0, 1]]


def test_more_than_255_classes_are_int32_with_minus_one_ignored():
    out = settled([0, 255, 846, 65535], 847)
    assert out.dtype == torch.int32 and out.tolist() == [[0, 255, 846, -1]]
    assert settled([0, 255, 3], 847).tolist() == [[0, 255, 3]]                # an 8 bit file: 255 is a class
    assert settled([0, 7, 65535], 9).tolist() == [[0, 7, 255]]                # a 16 bit file of few classes


def test_labels_that_count_from_one_name_the_file_the_values_and_the_key():
    with pytest.raises(UserError) as caught:
        settled([0, 3, 150], 150)
    assert str(caught.value) == ("m.png: labels up to 150 (0, 3, 150), but 150 classes (0..149); "
                                 "the set counts from 1; add data.label_shift=-1")


@pytest.mark.parametrize("values, said", [([0, 128], "white=1"), ([0, 1, 9], "class list")])
def test_other_values_out_of_range_say_what_may_be_wrong(values, said):
    with pytest.raises(UserError, match=f"^m.png: labels up to .*{said}"):
        settled(values, 5)
