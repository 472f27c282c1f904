"""Prompts: to the states a UNet attends to, and where in them a word stands.

    text.encode(["a cat", ""])                          # 2 77 width
    words(text.tokenizer, "a cat on a mat", "mat")      # [range(5, 6)]: the token's place, 0 being the start of the sentence
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from datamodules.errors import UserError
from datamodules.files import write_bytes

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

LETTER = r"[\w-]"                        # what makes a word go on: "horse" is no word of "seahorse", nor of "sea-horse"
CHUNK = 64                               # prompts encoded at once


@dataclass
class Text:
    """The text encoder of a base with its tokenizer."""

    encoder: CLIPTextModel
    tokenizer: CLIPTokenizer

    @property
    def context(self) -> int:
        """Tokens of a prompt, with its start, its end and what fills it up."""
        return self.encoder.config.max_position_embeddings

    @property
    def width(self) -> int:
        return self.encoder.config.hidden_size

    def ids(self, prompts: list[str]) -> Tensor:
        """[n, context], filled up as the base's tokenizer does; a prompt that is too long is an error, nothing is cut off."""
        for prompt in prompts:
            if (length := token_count(self.tokenizer, prompt)) > self.context:
                raise UserError(f"a prompt of {length} tokens, {self.context} fit", prompt[:80], "shorten it")
        filled = self.tokenizer(prompts, padding="max_length", max_length=self.context, return_tensors="pt")
        return filled.input_ids

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> Tensor:
        """[n, context, width] fp32, on the encoder's device.

        A token sees only those before it: the first rows are the same however long the rest, so `[:, :2]` of the empty prompt
        are its states without any filling.
        """
        parts = self.ids(prompts).to(self.encoder.device).split(CHUNK)
        return torch.cat([self.encoder(part).last_hidden_state.float() for part in parts])


def token_count(tokenizer: CLIPTokenizer, prompt: str) -> int:
    """Tokens of a prompt with its start and end, not filled up."""
    return len(tokenizer(prompt).input_ids)


# -- where words stand -------------------------------------------------------------------------------------------------
def words(tokenizer: CLIPTokenizer, prompt: str, word: str) -> list[range]:
    """The tokens of each occurrence of `word` (one or several words, in any case) as words of their own.

    "car" is found in "Car, car's" twice, but neither in "carrot" nor in "cars" nor in "cable-car".
    """
    pieces = [re.escape(piece) for piece in word.split()]
    if not pieces:
        raise UserError("an empty word", prompt, "name what is to be found")
    pattern = f"(?<!{LETTER})" + r"\s+".join(pieces) + f"(?!{LETTER})"
    found = [match.span() for match in re.finditer(pattern, prompt, re.IGNORECASE)]
    if not found:
        raise UserError(f"{word!r} is no word of this prompt", prompt, "name it there as it is written here")
    return spans(tokenizer, prompt, found)


def spans(tokenizer: CLIPTokenizer, prompt: str, characters: list[tuple[int, int]]) -> list[range]:
    """The tokens of stretches of the prompt, each given by its first character and the one after its last."""
    offsets = tokenizer(prompt, return_offsets_mapping=True).offset_mapping
    out = []
    for first, end in characters:
        inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > first]
        if not inside:
            raise UserError(f"no token at characters {first} to {end}", prompt, "give a stretch with a letter in it")
        out.append(range(inside[0], inside[-1] + 1))
    return out


# -- text constants ----------------------------------------------------------------------------------------------------
def constants(prompts: list[str], folder: str | Path, sha256: str, text: Text | None = None) -> Tensor:
    """The states of `prompts`, [n, context, width] fp32 on the CPU: read from `folder`, or computed once and put there.

    sha256: of the text encoder (`Base.sha256("text_encoder")`). With the file there, `text` is not needed.
    """
    asked = json.dumps(prompts, ensure_ascii=False)
    path = Path(folder) / f"text-{sha256[:16]}-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.safetensors"
    if path.exists():
        return _read(path, asked, sha256)
    if text is None:
        raise UserError(f"the states of {len(prompts)} prompts are not here, and there is no text encoder", path,
                        "copy the file from where they were computed, or use a base with its text encoder")
    from safetensors.torch import save

    states = text.encode(prompts).cpu().contiguous()
    write_bytes(path, save({"states": states}, {"prompts": asked, "text_encoder": sha256}))
    return states


def _read(path: Path, asked: str, sha256: str) -> Tensor:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            about, states = file.metadata() or {}, file.get_tensor("states")
    except (SafetensorError, OSError) as error:
        raise UserError(f"cannot be read ({error})", path, "remove it, it is computed again") from error
    if (about.get("prompts"), about.get("text_encoder")) != (asked, sha256):
        raise UserError("holds other prompts, or those of another text encoder", path, "remove it, it is computed again")
    return states.clone()
