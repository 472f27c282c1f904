"""One tiny base for all tests of this folder; who changes it takes a copy."""

import shutil

import pytest
import torch

from tests.diffusion import trees


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    return trees.write_base(tmp_path_factory.mktemp("base") / "sd")


@pytest.fixture
def copy(base_folder, tmp_path):
    return shutil.copytree(base_folder, tmp_path / "copy")


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    return trees.text(tmp_path_factory.mktemp("text") / "tokenizer")


@pytest.fixture(autouse=True)
def one_generator_state():
    torch.manual_seed(0)
