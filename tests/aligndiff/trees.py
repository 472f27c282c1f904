"""Small things the tests of AlignDiff share: the smallest model, folders of pairs, doors in this process."""

import json
from pathlib import Path

import numpy as np
import yaml
from hydra import compose, initialize_config_dir
from lightning.pytorch import seed_everything
from omegaconf import OmegaConf
from PIL import Image

from tests.conftest import ROOT
from tests.contract import CLASSES
from zoo import hub

TINY = yaml.safe_load((ROOT / "zoo" / "aligndiff" / "tiny.yaml").read_text())


def build(**settings):
    seed_everything(0, verbose=False)
    return hub.build(TINY | settings, CLASSES)


def config(door: str, *overrides: str) -> dict:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return OmegaConf.to_container(compose(door, list(overrides)), resolve=True)


def smallest(*overrides: str) -> dict:
    """train.py's config with the smallest model."""
    few = ["trainer.max_steps=2", "trainer.val_check_interval=2", "callbacks.panels.count=1", "save.every=2"]
    cfg = config("train", "model=aligndiff", *few, *overrides)
    return cfg | {"model": cfg["model"] | TINY}


def write_pair(folder: Path, name: str, size=(40, 48), mask: str = "object", mask_size=None) -> tuple[str, str]:
    """A picture with a grey mask: an object, nothing, everything, or a tiny one."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(name) + size[0])
    picture = rng.integers(0, 255, (*size, 3), np.uint8)
    values = np.zeros(mask_size or size, np.uint8)
    values[{"object": np.s_[8:24, 10:30], "full": np.s_[:], "empty": np.s_[:0], "tiny": np.s_[3:4, 3:4]}[mask]] = 255
    Image.fromarray(picture).save(folder / f"{name}.jpg")
    Image.fromarray(values).save(folder / f"{name}.png")
    return str(folder / f"{name}.jpg"), str(folder / f"{name}.png")


def write_examples(root: Path) -> Path:
    """The layout of the released code, with pairs that cannot be used among them."""
    write_pair(root / "toy horse", "2")
    write_pair(root / "toy horse", "10", (64, 40))
    write_pair(root / "toy horse", "3", mask="empty")
    write_pair(root / "toy horse", "4", mask="full")
    write_pair(root / "toy horse", "5", mask_size=(20, 20))
    write_pair(root / "toy horse", "6")
    (root / "toy horse" / "6.png").unlink()
    write_pair(root / "kite", "1", mask="tiny")
    rows = [{"type": "text", "text": "A red kite, over a seahorse.", "category": "kite", "D_good_dir": "./kite"},
            {"type": "NM_embedding", "path": "./kite", "category": "kite", "D_good_dir": "./kite"},
            {"type": "NM_embedding", "path": "./x", "category": "toy horse", "D_good_dir": "./toy horse"}]
    (root / "dataset.json").write_text(json.dumps({"prompt_dataset": rows}))
    return root
