"""Cuts the small copies that a clone tests with out of the full fixtures: python -m tests.parity.freeze_mask_adapter <folder>"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

PLACE = Path(__file__).parent / "mask_adapter"
LEFT_OUT = (                                    # large, and made of what is kept: the test names what a fixture lacks
    "stage2.out.match_src_masks", "out.sem_seg", "out.mask_features", "out.multi_scale.", "out.aux_masks.",
    "w.backbone.clip_model.visual.trunk.stem", "w.backbone.clip_model.visual.trunk.stages",
)  # fmt: skip
NAMES = ("mask_adapter_tiny", "fcclip_head_tiny")


def main(folder: str) -> None:
    PLACE.mkdir(exist_ok=True)
    for name in NAMES:
        tensors = load_file(Path(folder) / f"{name}.safetensors")
        kept = {k: v.numpy() for k, v in tensors.items() if not k.startswith(LEFT_OUT)}
        np.savez_compressed(PLACE / f"{name}.npz", **kept)
        facts = json.loads((Path(folder) / f"{name}.json").read_text())
        (PLACE / f"{name}.json").write_text(json.dumps(facts) + "\n")


def thaw(folder: Path, name: str) -> tuple[dict, dict] | None:
    """Facts and tensors of a fixture, whole or cut; None if it is not there."""
    if not (folder / f"{name}.json").exists():
        return None
    facts = json.loads((folder / f"{name}.json").read_text())
    if (folder / f"{name}.safetensors").exists():
        return facts, load_file(folder / f"{name}.safetensors")
    return facts, {k: torch.from_numpy(v) for k, v in np.load(folder / f"{name}.npz").items()}


if __name__ == "__main__":
    main(sys.argv[1])
