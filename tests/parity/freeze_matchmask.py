"""Cuts the small copy that a clone tests with out of a full fixture: python -m tests.parity.freeze_matchmask <folder>

The UNet's 1.2 million weights stay outside: attention and filters only.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

PLACE = Path(__file__).parent / "matchmask"


def main(folder: str) -> None:
    folder = Path(folder)
    PLACE.mkdir(exist_ok=True)
    about = json.loads((folder / "matchmask_rca.json").read_text())
    (PLACE / "matchmask_rca.json").write_text(json.dumps(about) + "\n")
    tensors = load_file(folder / "matchmask_rca.safetensors")
    np.savez_compressed(PLACE / "matchmask_rca.npz", **{name: value.numpy() for name, value in tensors.items()})
    np.savez_compressed(PLACE / "matchmask_filter.npz", **np.load(folder / "matchmask_filter.npz"))


def thaw() -> tuple[dict, dict[str, torch.Tensor]]:
    """Facts and tensors of the attentions."""
    tensors = {k: torch.from_numpy(v) for k, v in np.load(PLACE / "matchmask_rca.npz").items()}
    return json.loads((PLACE / "matchmask_rca.json").read_text()), tensors


if __name__ == "__main__":
    main(sys.argv[1])
