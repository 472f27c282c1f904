"""Bases from folders: what is read of them, and everything that is not a base of this kind in one line."""

import json
import logging
import shutil

import huggingface_hub
import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file, save_file
from torch import nn

from datamodules.errors import UserError
from datamodules.files import sha256_of
from tests.diffusion import trees
from zoo import download
from zoo.diffusion.base import digest, load_base, load_unet


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def no_network(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)


# -- what a folder says ------------------------------------------------------------------------------------------------
def test_facts_of_a_first_stable_diffusion(base_folder):
    base = load_base(base_folder)
    assert (base.latent_channels, base.factor, base.prediction, base.text_width) == (4, 4, "epsilon", trees.WIDTH)
    assert (base.latent_side, base.side, base.scaling, base.text.context) == (8, 32, 0.18215, 77)
    assert base.latent_size(64, 32) == (16, 8)


def test_facts_of_another_base_are_its_own(tmp_path):
    base = load_base(trees.write_base(tmp_path / "v", trees.VELOCITY, levels=2, channels=8, width=24, side=6))
    assert (base.latent_channels, base.factor, base.prediction, base.text_width) == (8, 2, "v_prediction", 24)
    assert base.side == 12 and base.latent_size(6, 4) == (3, 2)


def test_parts_are_what_was_saved_frozen_and_in_evaluation_mode(base_folder):
    base = load_base(base_folder)
    words = len(trees.vocabulary())
    for part, made in ((base.vae, trees.vae()), (base.unet, trees.unet()), (base.text.encoder, trees.text_encoder(words))):
        assert same(part, made) and not part.training and not any(p.requires_grad for p in part.parameters())


def test_parts_that_are_not_asked_for_need_not_be_there(copy):
    for name in ("text_encoder", "tokenizer"):
        shutil.rmtree(copy / name)
    trees.weights_of(copy / "unet").unlink()
    base = load_base(copy, unet=False, text=False)
    assert base.unet is None and base.text is None and base.text_width == trees.WIDTH


def test_a_method_that_holds_a_base_neither_saves_nor_trains_it(base_folder):
    holder = nn.Linear(2, 2)
    holder.base = load_base(base_folder)
    assert set(holder.state_dict()) == {"weight", "bias"} and len(list(holder.parameters())) == 2


def test_a_base_is_moved_and_cast_whole(base_folder):
    base = load_base(base_folder).to("meta", torch.bfloat16)
    for part in (base.vae, base.unet, base.text.encoder):
        assert {(p.device.type, p.dtype) for p in part.parameters()} == {("meta", torch.bfloat16)}


def test_sides_that_are_no_multiples_are_refused(base_folder):
    with pytest.raises(UserError, match="30x32 pixels; give sides that are multiples of 4"):
        load_base(base_folder, unet=False, text=False).latent_size(32, 30)


# -- the ways weights are stored ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.fp16.bin",
                                  "diffusion_pytorch_model.bin"])
def test_half_precision_and_pickled_weights_come_in_fp32(copy, name):
    for part in ("vae", "unet"):
        path = trees.weights_of(copy / part)
        tensors = {k: v.half() if "fp16" in name else v.clone() for k, v in load_file(path).items()}
        path.unlink()
        save_file(tensors, path.with_name(name)) if name.endswith("safetensors") else torch.save(tensors, path.with_name(name))
    base = load_base(copy, text=False)
    net = trees.unet()
    assert same(base.unet, net.half().float() if "fp16" in name else net)
    assert base.sha256("unet") == sha256_of(copy / "unet" / name)


def test_half_precision_text_encoders_come_in_fp32(copy):
    path = trees.weights_of(copy / "text_encoder")
    tensors = {k: v.half() for k, v in load_file(path).items()}
    path.unlink()
    save_file(tensors, path.with_name("model.fp16.safetensors"), {"format": "pt"})
    trees.set_config(copy / "text_encoder" / "config.json", dtype="float16")
    assert {p.dtype for p in load_base(copy, unet=False).text.encoder.parameters()} == {torch.float32}


def test_the_first_stable_diffusions_names_are_understood(copy):
    """Their VAEs name attention weights as diffusers did in 2022, their text encoders with a prefix and a table of places."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def old(tensors):
        for new, name in names.items():
            tensors = {k.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): v for k, v in tensors.items()}
        return tensors

    def prefixed(tensors):
        places = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
        return places | {f"text_model.{k.removeprefix('text_model.')}": v for k, v in tensors.items()}

    trees.rewrite(copy / "vae", old)
    trees.rewrite(copy / "text_encoder", prefixed)
    base = load_base(copy)
    assert same(base.vae, trees.vae()) and same(base.text.encoder, trees.text_encoder(len(trees.vocabulary())))


def test_a_ready_text_encoder_completes_a_folder_without_one(copy, text):
    for name in ("text_encoder", "tokenizer"):
        shutil.rmtree(copy / name)
    base = load_base(copy, text_encoder=text.encoder, tokenizer=text.tokenizer)
    assert base.text.encoder is text.encoder and base.sha256("text_encoder") == digest(text.encoder)


def test_the_digest_of_a_module_knows_names_and_values():
    one = nn.Linear(3, 2)
    other = nn.Linear(3, 2)
    other.load_state_dict(one.state_dict())
    assert digest(one) == digest(other) != digest(nn.Sequential(one))
    other.bias.data[1] += 1e-6
    assert digest(one) != digest(other)


def test_weights_made_with_another_base_are_noticed(base_folder, copy):
    record = load_base(base_folder).record("vae", "unet")
    load_base(copy).expect(record)
    trees.rewrite(copy / "unet", lambda t: t | {"conv_in.bias": t["conv_in.bias"] + 1})
    with pytest.raises(UserError, match=f"its unet is not the one .* give the base {base_folder}"):
        load_base(copy).expect(record)


def test_tensors_of_no_unet_are_refused_unless_asked_for(copy):
    more = {"conv_in_ref.weight": torch.ones(8, 8, 3, 3), "conv_in_ref.bias": torch.zeros(8)}
    trees.rewrite(copy / "unet", lambda t: t | more)
    trees.set_config(copy / "unet" / "config.json", _class_name="MyUNet2DConditionModel", in_channels_ref=8)
    with pytest.raises(UserError, match="holds tensors unknown to UNet2DConditionModel: 2, first conv_in_ref.bias"):
        load_base(copy)
    base = load_base(copy, extra=tuple(more))
    assert same(base.unet, trees.unet()) and all(torch.equal(base.extra[k], v) for k, v in more.items())
    alone, extra = load_unet(copy / "unet", tuple(more))
    assert same(alone, base.unet) and set(extra) == set(more)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        load_unet(copy / "nowhere")


# -- what is no base ---------------------------------------------------------------------------------------------------
def spoil(folder, what):
    match what:
        case "no vae":
            shutil.rmtree(folder / "vae")
        case "no weights":
            trees.weights_of(folder / "unet").unlink()
        case "missing tensor":
            trees.rewrite(folder / "vae", lambda t: {k: v for k, v in t.items() if k != "decoder.conv_in.bias"})
        case "other shape":
            trees.rewrite(folder / "unet", lambda t: t | {"conv_in.bias": torch.zeros(3)})
        case "torn":
            with open(trees.weights_of(folder / "unet"), "r+b") as file:
                file.truncate(2000)
        case "torn text":
            with open(trees.weights_of(folder / "text_encoder"), "r+b") as file:
                file.truncate(2000)
        case "no json":
            (folder / "vae" / "config.json").write_text("{")
        case "a list":
            (folder / "vae" / "config.json").write_text("[]")
        case "sdxl":
            trees.set_config(folder / "unet" / "config.json", addition_embed_type="text_time")
        case "inpainting":
            trees.set_config(folder / "unet" / "config.json", in_channels=9)
        case "sample":
            trees.set_config(folder / "scheduler" / "scheduler_config.json", prediction_type="sample")
        case "zero snr":
            trees.set_config(folder / "scheduler" / "scheduler_config.json", rescale_betas_zero_snr=True)
        case "shift":
            trees.set_config(folder / "vae" / "config.json", shift_factor=0.1)
        case "widths":
            trees.set_config(folder / "unet" / "config.json", cross_attention_dim=[16, 32])
        case "no text encoder":
            shutil.rmtree(folder / "text_encoder")
        case "text encoder of another":
            shutil.rmtree(folder / "text_encoder")
            trees.text_encoder(len(trees.vocabulary()), 32).save_pretrained(folder / "text_encoder")
        case "no merges":
            (folder / "tokenizer" / "merges.txt").unlink()
        case "vocabulary":
            (folder / "tokenizer" / "vocab.json").write_text("{")


@pytest.mark.parametrize("what, said", [
    ("no vae", "vae/config.json is missing"),
    ("no weights", "unet: no weights of a unet"),
    ("missing tensor", "lacks tensors of AutoencoderKL: 1, first decoder.conv_in.bias"),
    ("other shape", "no UNet2DConditionModel can be made of it .*conv_in.bias"),
    ("torn", "no UNet2DConditionModel can be made of it"),
    ("torn text", "no CLIPTextModel can be made of it"),
    ("no json", "vae/config.json: cannot be read"),
    ("a list", "vae/config.json: not the settings of a model"),
    ("sdxl", "another kind of base: its unet has addition_embed_type"),
    ("inpainting", "9 channels into 4, its VAE has 4"),
    ("sample", "predicts 'sample', not one of epsilon, v_prediction"),
    ("zero snr", "rescale_betas_zero_snr"),
    ("shift", "its vae has shift_factor"),
    ("widths", "not one number each"),
    ("no text encoder", "text_encoder/config.json is missing"),
    ("text encoder of another", "a text encoder of width 32, but the UNet reads 16"),
    ("no merges", "merges.txt is missing"),
    ("vocabulary", "no tokenizer can be made of it"),
])
def test_a_wrong_base_is_one_line(copy, capfd, what, said):
    spoil(copy, what)
    capfd.readouterr()
    with pytest.raises(UserError, match=said) as caught:
        load_base(copy)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert capfd.readouterr() == ("", "")


def test_a_single_file_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "v1-5.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="a file, not a folder in diffusers' format; .*from_single_file"):
        load_base(tmp_path / "v1-5.safetensors")


@pytest.mark.parametrize("place", ["/no/such/place", "nowhere", "./weights/sd", "../up"])
def test_a_path_that_leads_nowhere_never_asks_the_hub(place, monkeypatch):
    no_network(monkeypatch)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(UserError, match="no such folder; give a folder"):
        load_base(place)


def test_loading_and_casting_say_nothing_and_leave_the_libraries_as_loud_as_they_were(copy, capfd):
    said, before = [], diffusers_logging.get_verbosity()
    listener = logging.Handler()
    listener.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("diffusers")
    logger.addHandler(listener)
    diffusers_logging.set_verbosity(logging.INFO)
    capfd.readouterr()
    trees.set_config(copy / "unet" / "config.json", something_new=8)
    load_base(copy).to("cpu", torch.bfloat16)
    logger.removeHandler(listener)
    assert said == [] and capfd.readouterr() == ("", "") and diffusers_logging.get_verbosity() == logging.INFO
    diffusers_logging.set_verbosity(before)


# -- the hub -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the hub's library, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    no_network(monkeypatch)
    return tmp_path / "hub"


def put_into_cache(hub, folder, name: str) -> None:
    place = hub / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / "abc")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "ZOO_OFFLINE"])
def test_offline_a_missing_base_is_one_line_and_no_network(hub, monkeypatch, switch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv(switch, "1")
    with pytest.raises(UserError, match="owner/name: no such folder, and not in the Hugging Face cache; offline mode is set"):
        load_base("owner/name")


@pytest.mark.parametrize("offline", ["0", "1"])
def test_what_lies_in_the_hubs_cache_is_taken_without_asking(hub, base_folder, monkeypatch, offline):
    put_into_cache(hub, base_folder, "owner/name")
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    base = load_base("owner/name")
    assert base.name == "owner/name" and same(base.unet, trees.unet())


def test_offline_a_cache_without_a_part_says_which(hub, copy, monkeypatch):
    shutil.rmtree(copy / "text_encoder")
    put_into_cache(hub, copy, "owner/name")
    load_base("owner/name", text=False)
    with pytest.raises(UserError, match="text_encoder/config.json is missing"):
        load_base("owner/name")


def test_a_hub_out_of_reach_is_one_line(hub, monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("Name or service not known\nmany more lines")

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(UserError, match=r"owner/name: no such folder, and .* does not give it \(Name or service not known\)"):
        load_base("owner/name")


def test_of_a_repository_only_what_is_needed_is_downloaded(hub, base_folder, monkeypatch):
    def files(*names):
        return [type("File", (), {"rfilename": name}) for name in names]

    stem = "diffusion_pytorch_model"
    listing = type("Info", (), {"siblings": files(
        "model_index.json", "v1-4.ckpt", "scheduler/scheduler_config.json", "unet/config.json", f"unet/{stem}.bin",
        f"unet/{stem}.safetensors", f"unet/{stem}.fp16.safetensors", "vae/config.json", f"vae/{stem}.bin",
        "text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/vocab.json", "tokenizer/merges.txt",
        "safety_checker/config.json", "safety_checker/model.safetensors",
    )})
    asked = {}

    def download(name, local_files_only=False, allow_patterns=None, etag_timeout=None):
        if local_files_only:
            raise FileNotFoundError
        asked[name] = sorted(allow_patterns)
        return str(base_folder)

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, name, timeout: listing)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    load_base("owner/name", unet=False)
    assert asked["owner/name"] == [
        "scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/merges.txt",
        "tokenizer/vocab.json", "unet/config.json", "vae/config.json", f"vae/{stem}.bin",
    ]


def test_the_scheduler_config_is_kept_as_it_is(base_folder):
    assert load_base(base_folder, unet=False, text=False).configs["scheduler"] == json.loads(json.dumps(trees.FIRST_SD))


def test_a_name_of_the_hubs_list_is_where_it_was_downloaded(base_folder, monkeypatch):
    monkeypatch.setattr(download, "get", lambda name: base_folder if name == "stable_diffusion/1-4" else None)
    assert load_base("stable_diffusion/1-4").folder == base_folder


def test_a_name_of_the_hubs_list_that_is_not_here_says_where_to_put_it(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="put a folder of Stable Diffusion v1-4"):
        load_base("stable_diffusion/1-4")
