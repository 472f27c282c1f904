"""What all tests share: where outside fixtures lie, and no network."""

import os
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
if "ZOO_CACHE" not in os.environ:
    CACHE = tempfile.TemporaryDirectory(prefix="zoo-cache-")       # gone with the tests
    os.environ["ZOO_CACHE"] = CACHE.name

ROOT = Path(__file__).resolve().parents[1]


def shared_folder() -> Path:
    return Path(os.environ.get("ZOO_SHARED", ROOT.parent / "shared"))


@pytest.fixture
def shared():
    folder = shared_folder()
    if not folder.is_dir():
        pytest.skip(f"no folder of outside fixtures at ZOO_SHARED={folder}")
    return folder
