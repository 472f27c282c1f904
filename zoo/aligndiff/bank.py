"""The bank: what was learnt of each pair, as one file, and as single files that diffusers reads.

    bank.safetensors            <class>/<pair> -> [vectors, width]
    bank.json                   the base, how they were learnt, and of each: class, prompt, picture's sha256, its own file
    embeddings/<class>-<pair>.safetensors      pipe.load_textual_inversion(file): its token is <class-pair>, none twice
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from datamodules.errors import UserError
from datamodules.files import write_bytes, write_json
from zoo.diffusion.base import Base

TENSORS, ABOUT, SINGLE = "bank.safetensors", "bank.json", "embeddings"
MEND = "give a folder with bank.safetensors and bank.json, as a run of model=aligndiff writes it"


@dataclass(frozen=True)
class Instance:
    """A pair whose word is learnt. word: the class; name: of the picture, in its set; sha256: of the picture's pixels."""

    word: str
    name: str
    sha256: str

    @property
    def key(self) -> str:
        return f"{self.word}/{self.name}"

    @property
    def token(self) -> str:
        """A word no prompt has, short enough to name a file."""
        return f"<{re.sub(r'[^a-zA-Z0-9]+', '-', self.key).strip('-').lower()[:80] or 'word'}>"


def save_bank(folder: str | Path, instances: list[Instance], vectors: list[Tensor], prompts: list[str], base: Base,
              about: dict) -> Path:
    """vectors: n width of each instance; prompts: in which <new> stands for them; about: how they were learnt."""
    from safetensors.torch import save

    folder = Path(folder)
    tensors = [vector.detach().float().cpu().contiguous() for vector in vectors]
    entries, tokens = {}, set()
    for instance, prompt, tensor in zip(instances, prompts, tensors):
        token, again = instance.token, 1
        while token in tokens:
            token, again = f"{instance.token[:-1]}-{again}>", again + 1
        tokens.add(token)
        file = f"{SINGLE}/{token[1:-1]}.safetensors"
        write_bytes(folder / file, save({token: tensor}, {"format": "pt"}))
        entries[instance.key] = asdict(instance) | {"prompt": prompt.replace("<new>", token), "token": token, "file": file}
    write_bytes(folder / TENSORS, save(dict(zip(entries, tensors)), {"format": "pt"}))
    write_json(folder / ABOUT, {"base": base.record("unet", "text_encoder", "vae"), **about, "entries": entries})
    return folder


def load_bank(folder: str | Path, base: Base) -> dict[Instance, Tensor]:
    """The vectors of a bank that was learnt on this base."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        about, tensors = json.loads((folder / ABOUT).read_bytes()), load_file(folder / TENSORS)
        found = {Instance(*(entry[part] for part in ("word", "name", "sha256"))): tensors[key]
                 for key, entry in about["entries"].items()}
        record = about["base"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(f"no bank can be read ({type(error).__name__})", folder, MEND) from error
    width = base.text_width
    wrong = [v for v in found.values() if v.ndim != 2 or v.shape[1] != width or not torch.isfinite(v).all()]
    if wrong:
        raise UserError(f"vectors of shape {tuple(wrong[0].shape)}, this base's text encoder has a width of {width}", folder,
                        f"give the base {record.get('name', 'they were learnt on')}")
    for part in ("unet", "text_encoder"):
        if base.sha256(part) != record.get(part):
            raise UserError(f"a bank of another base ({record.get('name')}): its {part} is not this one", folder,
                            f"give model.base={record.get('name', '<the one it was learnt on>')}")
    return found
