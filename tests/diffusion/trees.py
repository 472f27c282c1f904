"""Bases of a few thousand weights in diffusers' folder format, made by the libraries themselves."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizerFast

from zoo.diffusion.text import Text

SD_NOISE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FIRST_SD = SD_NOISE | {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1, "set_alpha_to_one": False,
                       "trained_betas": None, "clip_sample": False}                 # as v1-4's: no prediction_type in it
VELOCITY = SD_NOISE | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "clip_sample": False}
WIDTH = 16
MERGES = ["c a", "ca t</w>", "ca r</w>", "ca r", "d o", "do g</w>"]                 # cat, car and dog are one token each


def vae(levels: int = 3, channels: int = 4, seed: int = 0, **more) -> AutoencoderKL:
    torch.manual_seed(seed)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8,) * levels, norm_num_groups=4, latent_channels=channels, sample_size=16, **more,
    ).eval()


def unet(channels: int = 4, width: int = WIDTH, side: int = 8, seed: int = 1, **more) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=side, in_channels=channels, out_channels=channels, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4, cross_attention_dim=width, attention_head_dim=2, **more,
    ).eval()


def text_encoder(words: int, width: int = WIDTH, seed: int = 2) -> CLIPTextModel:
    torch.manual_seed(seed)
    settings = {"bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1, "hidden_act": "quick_gelu"}
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=words, hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, **settings,
    )).eval()


def vocabulary() -> dict[str, int]:
    letters = [chr(c) for c in range(33, 127)] + [chr(c) for c in range(161, 256)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in MERGES)]
    return {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}


def write_tokenizer(folder: Path, pad: str = "<|endoftext|>") -> None:
    """As Stable Diffusion's folders have it; 2.1 fills up with "!", which is token 0."""
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary()))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": pad}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}))


def tokenizer(folder: Path) -> CLIPTokenizerFast:
    if not folder.exists():
        write_tokenizer(folder)
    return CLIPTokenizerFast.from_pretrained(folder)


def text(folder: Path) -> Text:
    return Text(text_encoder(len(vocabulary())), tokenizer(folder))


def write_base(folder: Path, scheduler: dict = FIRST_SD, levels: int = 3, channels: int = 4, width: int = WIDTH, side: int = 8,
               pad: str = "<|endoftext|>") -> Path:
    vae(levels, channels).save_pretrained(folder / "vae")
    unet(channels, width, side).save_pretrained(folder / "unet")
    text_encoder(len(vocabulary()), width).save_pretrained(folder / "text_encoder")
    write_tokenizer(folder / "tokenizer", pad)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


def weights_of(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def rewrite(folder: Path, change) -> None:
    """Replaces a part's tensors by change(tensors)."""
    path = weights_of(folder)
    tensors = change(load_file(path))
    path.unlink()                                            # the tensors read before still lie in the old file
    save_file(tensors, path, {"format": "pt"})


def set_config(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
