"""Cuts the small copy that a clone tests with out of a full fixture: python -m tests.parity.make_frozen <folder>"""

import json
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

KEPT = (
    "w.", "image_u8", "label", "feat.s4", "pd.seb32", "pd.dcn1_x", "pd.cst_x32", "pd.memory0", "pred.cls", "pred.mask_last.s8",
    "pred.label", "loss.gt", "loss.match", "loss.points", "loss.values", "loss.total", "loss.edge", "edge_target_bits",
)  # fmt: skip


def main(folder: str) -> None:
    out = Path(__file__).parent / "massformer"
    out.mkdir(exist_ok=True)
    tensors = load_file(Path(folder) / "massformer_tiny.safetensors")
    save_file({k: v for k, v in tensors.items() if k.startswith(KEPT)}, out / "massformer_tiny.safetensors")
    case = json.loads((Path(folder) / "massformer_tiny.json").read_text())
    (out / "massformer_tiny.json").write_text(json.dumps(case, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
