"""The synthetic folder (datamodules/samples.py) while it is made: whole files, known settings, what is there and what is not."""

import contextlib
import io
import json
import os
import time
from pathlib import Path

from PIL import Image

from datamodules.errors import UserError
from datamodules.files import make_folder, write_bytes, write_json, write_text
from datamodules.samples import CLASSES, IMAGES, MANIFEST, MASKS, classes_text, manifest_line
from zoo.base import MADE_WITH
from zoo.visualize import save_label_png, to_picture

PARTS = ".parts"
FORMATS = {"png": ".png", "jpeg": ".jpg"}
QUALITY = 95                             # of a JPEG
OLD = 60.0                               # seconds after which what was written halfway belongs to nobody any more


class Folder:
    """path: where; names: of the units; settings: what the pairs depend on; kind: of the picture files.

    A unit is there when its part, a small file in .parts/ that is written behind its pairs, names files that have the size they
    were written with.
    """

    def __init__(self, path: Path, names: list[str], settings: dict, kind: str):
        self.path, self.names, self.settings, self.suffix = path, names, settings, FORMATS[kind]
        make_folder(path)
        known = self._known()
        if known is None:
            if (path / PARTS).exists() and any((path / PARTS).iterdir()):
                raise UserError(f"its {MADE_WITH} is missing or damaged", path, "remove the folder, or give another out=")
            if strange := [name for name in os.listdir(path) if name not in (PARTS, MADE_WITH, "done") and ".tmp" not in name]:
                raise UserError(f"other files are here ({strange[0]})", path, "give another out=")
            write_json(path / MADE_WITH, {"settings": settings})
        elif known != json.loads(json.dumps(settings)):
            differs = sorted(key for key in known.keys() | settings.keys() if known.get(key) != settings.get(key))
            raise UserError(f"made with another {', '.join(differs)}", path, "give another out=, or remove the folder")
        make_folder(path / PARTS)

    def _known(self) -> dict | None:
        try:
            return json.loads((self.path / MADE_WITH).read_text())["settings"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _part(self, unit: int) -> Path:
        return self.path / PARTS / f"{self.names[unit]}.json"

    def rows(self, unit: int) -> list[dict] | None:
        """The manifest's rows of a unit; None where one of its files is missing or torn."""
        try:
            part = json.loads(self._part(unit).read_text())
            sizes = {file: (self.path / file).stat().st_size for file in part["files"]}
            return part["rows"] if sizes == part["files"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, unit: int, pairs: list, palette: list) -> None:
        """Writes the pairs of a unit, and its part last."""
        files, rows = {}, []
        for pair in pairs:
            name = f"{pair.source}_{pair.number}"
            image, mask = f"{IMAGES}/{name}{self.suffix}", f"{MASKS}/{name}.png"
            write_bytes(self.path / image, self._encoded(to_picture(pair.picture)))
            save_label_png(self.path / mask, pair.labels.cpu().numpy(), palette)
            files |= {file: (self.path / file).stat().st_size for file in (image, mask)}
            rows.append({"name": name, "source": pair.source, "word": pair.word, "seed": pair.seed, "prompt": pair.prompt,
                         "weights": self.settings["weights"], "filter": pair.figures})
        write_json(self._part(unit), {"rows": rows, "files": files})

    def _encoded(self, picture) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG" if self.suffix == ".png" else "JPEG", quality=QUALITY)
        return buffer.getvalue()

    def finished(self) -> bool:
        return (self.path / MANIFEST).exists()

    def reopen(self) -> None:
        """Without manifest and classes nobody takes the folder for a whole one."""
        for name in (MANIFEST, CLASSES):
            (self.path / name).unlink(missing_ok=True)

    def close(self, rows: list[dict], classes: list[str], palette: list) -> None:
        for leftover in self.path.rglob("*.tmp*-*"):         # of a process killed while it wrote, some time ago
            with contextlib.suppress(OSError):
                if time.time() - leftover.stat().st_mtime > OLD:
                    leftover.unlink()
        write_text(self.path / CLASSES, classes_text(classes, palette))
        write_text(self.path / MANIFEST, "".join(map(manifest_line, rows)))
