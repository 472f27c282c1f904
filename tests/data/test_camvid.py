"""CamVid in the layout of `data=folder`, from end to end."""

import pytest
import torch

from datamodules.folder import FolderScenes


@pytest.fixture
def camvid(shared):
    root = shared / "data" / "camvid"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    return FolderScenes(root=str(root), crop=64, batch_size=4, workers=0)


def counted(source, indices) -> torch.Tensor:
    counts = torch.zeros(256, dtype=torch.long)
    for index in indices:
        scene = source.read(index)
        assert scene["image"].shape == (3, 360, 480) and scene["image"].float().std() > 5
        counts += torch.bincount(scene["labels"].flatten().long(), minlength=256)
    return counts


def test_some_pictures_hold_nothing_but_the_eleven_classes_and_void(camvid):
    counts = counted(camvid.source("train"), range(0, 367, 40))
    assert counts[:11].min() > 0 and counts[11:255].sum() == 0 and counts[255] > 0


@pytest.mark.slow
def test_an_epoch_of_all_pictures_has_the_known_shares(camvid):
    train = counted(camvid.source("train"), range(367))
    counted(camvid.source("val"), range(101))
    assert 100 * train[255] / train.sum() == pytest.approx(3.95, abs=0.01)
    shares = 100 * train[:11] / train.sum()
    assert shares.tolist() == pytest.approx([16.9, 23.3, 1.0, 31.7, 4.5, 9.7, 1.2, 1.1, 5.9, 0.6, 0.3], abs=0.06)
