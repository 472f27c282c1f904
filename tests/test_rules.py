"""The rules of the house."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_rooms_import_only_what_they_may():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--config", ".importlinter"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_no_method_is_imported_by_a_shared_piece_or_by_another_method():
    rooms = [path.parent for path in (ROOT / "zoo").glob("*/tiny.yaml")]
    for room in rooms:
        for file in [*(ROOT / "zoo").rglob("*.py"), *ROOT.glob("*.py"), *(ROOT / "callbacks").glob("*.py")]:
            if room not in file.parents:
                assert f"zoo.{room.name}" not in file.read_text(), f"{file} knows {room.name}"


def test_doors_import_nothing_heavy_before_they_are_asked_to_work():
    script = "import sys, train, evaluate; print([m for m in ('torch', 'lightning', 'timm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
