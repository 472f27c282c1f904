"""Cuts the small copy that a clone tests with out of a full fixture: python -m tests.parity.freeze_aligndiff <folder>

The UNet and the coarse maps stay outside: loss, embedding and Algorithm 1 only.
"""

import shutil
import sys
from pathlib import Path

PLACE = Path(__file__).parent / "aligndiff"
FILES = [f"aligndiff_{part}.{kind}" for part in ("loss", "embedding") for kind in ("json", "safetensors")]


def main(folder: str) -> None:
    PLACE.mkdir(exist_ok=True)
    for name in (*FILES, "aligndiff_algorithm1.npz"):
        shutil.copyfile(Path(folder) / name, PLACE / name)


if __name__ == "__main__":
    main(sys.argv[1])
