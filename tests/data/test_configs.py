"""Every configs/data/*.yaml names a data module's own settings, with values of their types, and takes the run's seed."""

import dataclasses

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf

from tests.conftest import ROOT
from zoo.settings import check

FILES = sorted(path.stem for path in (ROOT / "configs/data").glob("[!_]*.yaml"))


def composed(name):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return OmegaConf.to_container(compose("train", [f"data={name}", "seed=7"]).data, resolve=False)


@pytest.mark.parametrize("name", FILES)
def test_a_data_config_gives_each_setting_of_its_module_and_no_other(name):
    config = composed(name)
    made = get_class(config["_target_"])
    settings = {field.name for field in dataclasses.fields(made)}
    assert settings == config.keys() - {"_target_"}
    needed = {f.name for f in dataclasses.fields(made) if f.default is f.default_factory is dataclasses.MISSING}
    assert needed == {key for key, value in config.items() if value == "???"}
    first = (ROOT / "configs/data" / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ") or name.startswith("for_")


@pytest.mark.parametrize("name", FILES)
def test_the_values_of_a_data_config_have_their_types_and_the_runs_seed_reaches_the_training(name):
    config = composed(name)
    assert "${seed}" in (config["seed"], config.get("training_seed"))
    check({"data": stated(config)})


def stated(config):
    """Without what is to be given, at any depth: a set may stand on another."""
    return {key: stated(value) if isinstance(value, dict) and "_target_" in value else value
            for key, value in config.items() if value not in ("???", "${seed}")}
