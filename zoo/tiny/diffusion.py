"""The tiny text-to-image base: diffusers' folder of a Stable Diffusion pipeline, whose text tower is the tiny CLIP's.

    from zoo.tiny.diffusion import load
    picture = load()("striped shirt and fish on sand", height=64, width=64, num_inference_steps=25, guidance_scale=3).images[0]

The folder holds no text encoder and no tokenizer, since these are the CLIP's and open_clip's; `write_whole` writes a folder with
them, which diffusers loads without any of our code.
"""

from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from zoo.tiny import autoencoder, clip
from zoo.tiny.text import text_encoder, tokenizer

FOLDER = Path(__file__).parent / "weights" / "diffusion"


def load(folder: Path = FOLDER, clip_folder: Path = clip.FOLDER) -> StableDiffusionPipeline:
    """The whole base in fp32."""
    pipe = StableDiffusionPipeline.from_pretrained(
        folder, text_encoder=text_encoder(clip.load(clip_folder)), tokenizer=tokenizer(), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def write(unet: UNet2DConditionModel, vae: AutoencoderKL, out: Path) -> None:
    """The pipeline's folder without the text tower; weights in half precision."""
    pipe = StableDiffusionPipeline(
        vae=vae.half(), text_encoder=None, tokenizer=None, unet=unet.half(), scheduler=scheduler(), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )
    pipe.save_pretrained(out)


def write_whole(out: Path) -> None:
    """A folder with every part in it, as `StableDiffusionPipeline.from_pretrained(out)` wants it."""
    load().save_pretrained(out)


def untrained() -> UNet2DConditionModel:
    """The net to be trained: four levels, words are attended to at all but the outermost corner (sides 16, 8, 4, 2 for 64 px)."""
    return UNet2DConditionModel(
        sample_size=16, in_channels=autoencoder.CHANNELS, out_channels=autoencoder.CHANNELS,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(32, 64, 96, 128), attention_head_dim=(1, 2, 3, 4),  # the number of heads, in spite of its name
        layers_per_block=1, norm_num_groups=8, cross_attention_dim=64, use_linear_projection=True,
    )


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise, and the velocity as what is predicted."""
    return DDIMScheduler(
        num_train_timesteps=1000, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
        prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )
