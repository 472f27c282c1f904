"""Archives: downloaded and resumed, verified, unpacked whole or not at all, and never beside their folder."""

import errno
import hashlib
import io
import multiprocessing
import os
import tarfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from datamodules import unpack
from datamodules.errors import UserError
from datamodules.unpack import Archive, fetch

FOLDER = "kit/SET"
CONTENT = {"kit/SET/a/1.txt": b"one", "kit/SET/2.txt": b"two" * 200_000, "kit/README": b"not wanted"}


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def packed(path: Path, extra: tuple[tarfile.TarInfo, ...] = (), content: dict[str, bytes] = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        archive.addfile(entry("kit", tarfile.DIRTYPE))
        for name, data in content.items():
            info = entry(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info)
    return path


def archive_of(path: Path, url: str | None = None) -> Archive:
    data = path.read_bytes()
    return Archive(url or path.as_uri(), len(data), hashlib.sha256(data).hexdigest(), FOLDER)


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def online(monkeypatch):
    for key in ("HF_HUB_OFFLINE", "ZOO_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(key, raising=False)


@pytest.fixture
def served(tmp_path):
    """A tar in a folder that Python's own server serves; it knows no ranges."""
    path = packed(tmp_path / "served" / "set.tar")
    handler = partial(Quiet, directory=str(path.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield archive_of(path, f"http://127.0.0.1:{server.server_address[1]}/set.tar")
    server.shutdown()
    server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


# -- what works
def test_the_wanted_folder_is_unpacked_and_the_archive_kept(served, tmp_path, capsys):
    assert fetch(served, tmp_path / "root") == tmp_path / "root" / FOLDER
    assert files_below(tmp_path / "root" / FOLDER) == {"a/1.txt": b"one", "2.txt": b"two" * 200_000}
    assert sorted(p.name for p in (tmp_path / "root").iterdir()) == ["kit", "set.tar"]
    assert not (tmp_path / "root" / "kit" / "README").exists()
    said = capsys.readouterr().out
    assert "downloading" in said and "set.tar is no longer needed" in said


def test_a_half_downloaded_archive_goes_on_and_is_verified(served, tmp_path):
    whole = (tmp_path / "served" / "set.tar").read_bytes()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "set.tar.part").write_bytes(whole[:1000])
    fetch(served, tmp_path / "root")
    assert (tmp_path / "root" / "set.tar").read_bytes() == whole and not (tmp_path / "root" / "set.tar.part").exists()


def test_an_archive_put_there_by_hand_needs_no_network(tmp_path, monkeypatch):
    archive = archive_of(packed(tmp_path / "root" / "set.tar"), "http://nowhere.invalid/set.tar")
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    fetch(archive, tmp_path / "root")
    assert (tmp_path / "root" / FOLDER / "a" / "1.txt").exists()


def test_a_folder_that_is_there_is_not_touched(tmp_path):
    archive = archive_of(packed(tmp_path / "set.tar"), "http://nowhere.invalid/set.tar")
    (tmp_path / FOLDER).mkdir(parents=True)
    (tmp_path / FOLDER / "mine.txt").write_text("kept")
    fetch(archive, tmp_path)
    assert files_below(tmp_path / FOLDER) == {"mine.txt": b"kept"}


def test_other_sets_beside_it_stay(served, tmp_path):
    (tmp_path / "root" / "kit" / "OTHER").mkdir(parents=True)
    (tmp_path / "root" / "kit" / "OTHER" / "x").write_text("kept")
    fetch(served, tmp_path / "root")
    assert (tmp_path / "root" / "kit" / "OTHER" / "x").read_text() == "kept"


def test_what_a_killed_process_left_is_cleared_away(served, tmp_path):
    left = tmp_path / "root" / unpack.TEMPORARY / FOLDER
    left.mkdir(parents=True)
    (left / "half.txt").write_text("ha")
    fetch(served, tmp_path / "root")
    assert "half.txt" not in files_below(tmp_path / "root" / FOLDER)
    assert not (tmp_path / "root" / unpack.TEMPORARY).exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no flock")
def test_of_two_processes_one_unpacks_and_the_other_waits(tmp_path, monkeypatch):
    archive = archive_of(packed(tmp_path / "root" / "set.tar"))

    def slow(source, target):
        with open(tmp_path / "log", "a") as log:
            log.write(f"{target.name}\n")
        time.sleep(0.2)
        write(source, target)

    write = unpack._write
    monkeypatch.setattr(unpack, "_write", slow)
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=fetch, args=(archive, tmp_path / "root")) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(30)
    assert [process.exitcode for process in both] == [0, 0]
    assert (tmp_path / "log").read_text().split() == ["1.txt", "2.txt"]
    assert len(files_below(tmp_path / "root" / FOLDER)) == 2


# -- what is refused
@pytest.mark.parametrize("member, said", [
    (entry("/etc/passwd"), "leads out"), (entry("kit/SET/../../../x"), "leads out"), (entry("..\\x"), "leads out"),
    (entry("C:/x"), "leads out"), (entry("kit/SET/l", tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
    (entry("kit/SET/l", tarfile.LNKTYPE, "../../x"), "is a link"), (entry("kit/SET/d", tarfile.CHRTYPE), "is a link or a device"),
])
def test_an_archive_that_reaches_out_of_its_folder_is_refused_whole(tmp_path, member, said):
    path = packed(tmp_path / "root" / "set.tar", (member,))
    with pytest.raises(UserError, match=f"set.tar: its member .* {said}"):
        fetch(archive_of(path), tmp_path / "root")
    assert [p.name for p in (tmp_path / "root").iterdir()] == ["set.tar"]


def test_another_file_than_the_published_one_is_refused(served, tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "set.tar").write_bytes(b"something else")
    with pytest.raises(UserError, match="set.tar: 14 bytes instead of .* remove it to download it again"):
        fetch(served, tmp_path / "root")
    with pytest.raises(UserError, match="sha256 is"):
        fetch(Archive(served.url, served.size, "0" * 64, FOLDER), tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())


def test_an_archive_without_the_folder_is_told(tmp_path):
    path = packed(tmp_path / "root" / "set.tar", content={"kit/OTHER/x": b"1"})
    with pytest.raises(UserError, match="no kit/SET in it"):
        fetch(archive_of(path), tmp_path / "root")


@pytest.mark.parametrize("data", [b"no tar at all" * 100, None])
def test_a_damaged_archive_leaves_nothing_behind(tmp_path, data):
    path = packed(tmp_path / "root" / "set.tar")
    path.write_bytes(data or path.read_bytes()[:300_000])
    with pytest.raises(UserError, match="set.tar: cannot be unpacked"):
        unpack.unpack(path, FOLDER, tmp_path / "root")
    assert [p.name for p in (tmp_path / "root").iterdir()] == ["set.tar"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_ctrl_c_leaves_nothing_half_unpacked(tmp_path, monkeypatch, error):
    path = packed(tmp_path / "root" / "set.tar")
    written = []

    def write(source, target):
        if written:
            raise error
        written.append(target)
        target.parent.mkdir(parents=True)
        target.write_bytes(source.read())

    monkeypatch.setattr(unpack, "_write", write)
    with pytest.raises((UserError, KeyboardInterrupt), match="the disk is full" if isinstance(error, OSError) else None):
        unpack.unpack(path, FOLDER, tmp_path / "root")
    assert written and [p.name for p in (tmp_path / "root").iterdir()] == ["set.tar"]


def test_a_place_where_no_folder_can_be_is_told(served, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="no folder can be made here"):
        fetch(served, tmp_path / "file")


def test_a_folder_that_may_not_be_written_is_told_before_anything_is_downloaded(served, tmp_path, monkeypatch):
    monkeypatch.setattr(unpack.os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="root: nothing can be written here; give another data.root"):
        fetch(served, tmp_path / "root")
    assert not list((tmp_path / "root").iterdir())
