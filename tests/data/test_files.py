"""Writing, downloads, pickles, trees and pictures."""

import errno
import hashlib
import io
import pickle
import struct
import sys
import threading
import types
import zipfile
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import files
from datamodules.errors import UserError

GREY = (np.arange(120).reshape(12, 10) * 2).astype(np.uint8)
RGB = np.stack([GREY, GREY[::-1], 255 - GREY], -1)


def encoded(array_or_picture, kind="PNG", **options) -> bytes:
    picture = array_or_picture if isinstance(array_or_picture, Image.Image) else Image.fromarray(array_or_picture)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


# -- writing
def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_over(tmp_path):
    files.write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), files.atomic(tmp_path / "a.txt") as file:
        file.write(b"half")
        raise RuntimeError("killed")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_full_disk_is_told_in_one_line_even_out_of_torch_save(tmp_path):
    with pytest.raises(UserError, match="the disk is full"), files.atomic(tmp_path / "a.ckpt"):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos") from None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_place_that_cannot_be_written_to_is_told_in_one_line(code, tmp_path, monkeypatch):
    def refused(path, mode):
        raise OSError(code, "not allowed", str(path))

    monkeypatch.setattr(files, "open", refused, raising=False)
    with pytest.raises(UserError, match="a.txt: cannot be written .not allowed.; give another place"):
        files.write_text(tmp_path / "a.txt", "text")


# -- downloads
class Server(BaseHTTPRequestHandler):
    content, ranges, breaks, asked = b"", True, 0, []

    def do_GET(self):
        kind = type(self)
        kind.asked.append(self.headers.get("Range"))
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.end_headers()
            return
        if self.path != "/file":
            self.send_error(404)
            return
        start = int(self.headers["Range"][6:-1]) if self.headers.get("Range") and kind.ranges else 0
        if start >= len(kind.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(kind.content)}")
            self.end_headers()
            return
        body = kind.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(kind.content) - 1}/{len(kind.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if kind.breaks:
            kind.breaks -= 1
            body = body[:len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for key in ("HF_HUB_OFFLINE", "ZOO_OFFLINE"):
        monkeypatch.delenv(key, raising=False)
    for key in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(key, raising=False)
    content = np.random.default_rng(0).bytes(3_000_000)
    handler = type("Handler", (Server,), {"content": content, "asked": []})
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    handler.url = f"http://127.0.0.1:{running.server_address[1]}"
    handler.sha = hashlib.sha256(content).hexdigest()
    yield handler
    running.shutdown()
    running.server_close()


def test_a_download_follows_a_redirect_and_leaves_only_the_file(server, tmp_path):
    files.download(f"{server.url}/moved", tmp_path / "w.bin", server.sha, len(server.content))
    assert [p.name for p in tmp_path.iterdir()] == ["w.bin"]
    assert (tmp_path / "w.bin").read_bytes() == server.content


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_taken_up_again(server, tmp_path, ranges):
    server.breaks, server.ranges = 1, ranges
    files.download(f"{server.url}/file", tmp_path / "w.bin", server.sha)
    assert (tmp_path / "w.bin").read_bytes() == server.content
    assert server.asked == [None, f"bytes={len(server.content) // 2}-"]


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
    server.breaks = 3
    with pytest.raises(UserError, match="the connection breaks.*run again, it goes on"):
        files.download(f"{server.url}/file", tmp_path / "w.bin", server.sha)
    got = (tmp_path / "w.bin.part").stat().st_size
    assert not (tmp_path / "w.bin").exists() and got > 0
    files.download(f"{server.url}/file", tmp_path / "w.bin", server.sha)
    assert server.asked[-1] == f"bytes={got}-"
    assert (tmp_path / "w.bin").read_bytes() == server.content


def test_a_complete_part_file_is_not_fetched_again_and_a_stale_longer_one_is_dropped(server, tmp_path):
    (tmp_path / "w.bin.part").write_bytes(server.content)
    files.download(f"{server.url}/file", tmp_path / "w.bin", server.sha)
    (tmp_path / "v.bin.part").write_bytes(server.content + b"more")
    files.download(f"{server.url}/file", tmp_path / "v.bin", server.sha)
    assert (tmp_path / "w.bin").read_bytes() == (tmp_path / "v.bin").read_bytes() == server.content


def test_a_wrong_hash_or_length_is_refused_and_nothing_stays(server, tmp_path):
    with pytest.raises(UserError, match="sha256 is"):
        files.download(f"{server.url}/file", tmp_path / "w.bin", "0" * 64)
    with pytest.raises(UserError, match="bytes instead of 5"):
        files.download(f"{server.url}/file", tmp_path / "w.bin", size=5)
    with pytest.raises(UserError, match="answers 404"):
        files.download(f"{server.url}/nothing", tmp_path / "n.bin")
    assert not list(tmp_path.iterdir())


def test_offline_fails_at_once_but_keeps_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    with pytest.raises(UserError, match="offline mode is set"):
        files.download("http://nowhere.invalid/w", tmp_path / "w.bin")
    (tmp_path / "w.bin").write_bytes(b"x")
    assert files.download("http://nowhere.invalid/w", tmp_path / "w.bin", size=1).read_bytes() == b"x"


def test_no_connection_is_one_line(server, tmp_path):
    with pytest.raises(UserError, match="no connection.*put the file at"):
        files.download("http://127.0.0.1:9/w", tmp_path / "w.bin")


# -- pickles
class Evil:
    def __reduce__(self):
        return print, ("this must not run",)


def test_a_plain_pickle_loads_and_one_with_code_is_refused(tmp_path, capsys):
    plain = {"a": [1, (2, "x")], "b": {3}}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(plain, protocol=2))
    assert files.load_plain_pickle(tmp_path / "a.pkl") == plain
    (tmp_path / "b.pkl").write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(UserError, match="print"):
        files.load_plain_pickle(tmp_path / "b.pkl")
    assert capsys.readouterr().out == ""


def test_an_mmengine_checkpoint_gives_its_tensors_without_mmengine_and_runs_nothing(tmp_path, capsys):
    module = types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = type("HistoryBuffer", (), {"__module__": module.__name__, "mean": lambda self: 0})
    parents = {name: types.ModuleType(name) for name in ("mmengine", "mmengine.logging")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**parents, module.__name__: module}.items():
            patch.setitem(sys.modules, name, value)
        history = module.HistoryBuffer()
        history.values = np.arange(3)
        saved = {"meta": {"epoch": 1, "cfg": "text", "evil": Evil()}, "state_dict": {"w": torch.arange(6.).view(2, 3)},
                 "message_hub": {"log": {"loss": history}, "mean": history.mean, "eta": np.float64(3)}}
        torch.save(saved, tmp_path / "m.pth")
    loaded = files.load_torch_pickle(tmp_path / "m.pth")
    assert torch.equal(loaded["state_dict"]["w"], saved["state_dict"]["w"])
    assert loaded["meta"]["epoch"] == 1 and isinstance(loaded["meta"]["evil"], files.Placeholder)
    assert isinstance(loaded["message_hub"]["log"]["loss"], files.Placeholder)
    assert capsys.readouterr().out == ""


def test_tensors_of_many_kinds_survive_the_safe_reading(tmp_path):
    shared = torch.randn(4, 4)
    saved = {"half": torch.randn(2).half(), "bf16": torch.ones(3, dtype=torch.bfloat16), "int": torch.tensor(3),
             "bool": torch.tensor([True]), "view": shared[:, 1], "parameter": torch.nn.Parameter(shared)}
    torch.save(saved, tmp_path / "t.pth")
    loaded = files.load_torch_pickle(tmp_path / "t.pth")
    assert all(torch.equal(loaded[k], v) and loaded[k].dtype == v.dtype for k, v in saved.items())


def test_a_torn_checkpoint_is_one_line(tmp_path):
    torch.save({"w": torch.zeros(1000)}, tmp_path / "t.pth")
    (tmp_path / "t.pth").write_bytes((tmp_path / "t.pth").read_bytes()[:-500])
    with pytest.raises(UserError, match="not a whole torch checkpoint"):
        files.load_torch_pickle(tmp_path / "t.pth")


# -- trees
@pytest.fixture(params=["folder", "zip"])
def tree(request, tmp_path):
    names = ["images/a.jpg", "images/sub/b.PNG", "images/.hidden.png", "masks/a.png", "imagesX/c.jpg"]
    names = [f"set/{name}" for name in names]
    if request.param == "folder":
        for name in names:
            files.write_bytes(tmp_path / "top" / name, name.encode())
        return files.Tree(tmp_path / "top")
    with zipfile.ZipFile(tmp_path / "top.zip", "w") as archive:
        for name in [*names, "__MACOSX/set/images/._a.jpg"]:
            archive.writestr(name, name)
    return files.Tree(tmp_path / "top.zip")


def test_a_folder_and_a_zip_read_alike(tree):
    assert tree.list("set/images", (".jpg", ".png")) == ["set/images/a.jpg", "set/images/sub/b.PNG"]
    inside = tree.down("masks")
    assert inside.list("images") == ["images/a.jpg", "images/sub/b.PNG"] and inside.list("nothing") == []
    assert inside.open("masks/a.png") == b"set/masks/a.png"
    assert inside.has("masks") and inside.has("masks/a.png") and not inside.has("mask")
    with pytest.raises(UserError, match="missing"):
        inside.open("masks/z.png")


def test_a_tree_travels_to_a_worker_after_it_was_read(tree):
    tree.open("set/masks/a.png")
    assert pickle.loads(pickle.dumps(tree)).open("set/masks/a.png") == b"set/masks/a.png"


def test_a_missing_root_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        files.Tree(tmp_path / "nowhere")


# -- pictures
def colours(tensor) -> np.ndarray:
    assert tensor.dtype == torch.uint8 and tensor.shape[0] == 3
    return tensor.permute(1, 2, 0).numpy()


def test_rgb_and_grey_and_palette_pictures_are_read_as_rgb():
    assert (colours(files.read_image(encoded(RGB))) == RGB).all()
    assert (colours(files.read_image(encoded(GREY))) == GREY[..., None]).all()
    palette = Image.fromarray(GREY % 3).convert("L")
    palette = Image.frombytes("P", palette.size, palette.tobytes())
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    expected = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]])[GREY % 3]
    assert (colours(files.read_image(encoded(palette))) == expected).all()
    assert (colours(files.read_image(encoded(palette, "TIFF"))) == expected).all()


def test_transparency_is_laid_over_white():
    alpha = np.where(GREY > 100, 255, 0).astype(np.uint8)
    image = colours(files.read_image(encoded(np.dstack([RGB, alpha]))))
    assert (image == np.where(alpha[..., None] > 0, RGB, 255)).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_becomes_8_bit(kind):
    image = files.read_image(encoded(GREY.astype(np.uint16) * 257, kind))
    assert (colours(image) == GREY[..., None]).all()


def test_cmyk_is_near_its_rgb():
    flat = np.full((16, 16, 3), (200, 60, 30), np.uint8)
    image = colours(files.read_image(encoded(Image.fromarray(flat).convert("CMYK"), "JPEG", quality=95)))
    assert np.abs(image.astype(int) - flat).max() < 6


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_a_picture_is_turned_as_its_exif_says(kind):
    picture = Image.fromarray(np.repeat(np.repeat(RGB, 8, 0), 8, 1))
    exif = Image.Exif()
    exif[0x0112] = 6
    image = files.read_image(encoded(picture, kind, exif=exif))
    assert tuple(image.shape) == (3, 80, 96)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_torn_picture_is_one_line_with_its_name(kind):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    data = encoded(noise, kind)
    for cut in (data[:len(data) // 2], data[:20], b""):
        with pytest.raises(UserError, match="^x.jpg: not a whole picture"):
            files.read_image(cut, "x.jpg")
        with pytest.raises(UserError, match="^x.png: not a whole picture"):
            files.read_labels(cut, "x.png")


@pytest.mark.parametrize("classes", [2, 3, 12, 200])
def test_palette_labels_keep_their_indices_at_any_bit_depth(classes):
    indices = GREY % classes
    picture = Image.frombytes("P", (10, 12), indices.tobytes())
    picture.putpalette(np.random.default_rng(0).integers(0, 256, classes * 3).tolist())
    assert (files.read_labels(encoded(picture)).numpy() == indices).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_labels_of_few_bits_keep_their_values(bits):
    values = GREY // 2 % 2 ** bits
    width = -(-10 * bits // 8) * 8
    rows = "".join("0" * 8 + "".join(f"{v:0{bits}b}" for v in row).ljust(width, "0") for row in values)
    raw = int(rows, 2).to_bytes(len(rows) // 8, "big")

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 10, 12, bits, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    assert (files.read_labels(png).numpy() == values).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_labels_keep_their_values(kind):
    values = GREY.astype(np.uint16) * 200
    labels = files.read_labels(encoded(values, kind))
    assert labels.dtype == torch.int32 and (labels.numpy() == values).all()


def test_colour_labels_need_the_classes_colours():
    palette = [(0, 0, 0), (255, 0, 0), (0, 255, 0)]
    labels = GREY % 3
    mask = np.array(palette, np.uint8)[labels]
    mask[0, 0] = (9, 9, 9)
    with pytest.raises(UserError, match="classes.txt"):
        files.read_labels(encoded(mask), "m.png")
    labels[0, 0] = 255
    assert (files.read_labels(encoded(mask), palette=palette).numpy() == labels).all()
    with pytest.raises(UserError, match="none of its colours"):
        files.read_labels(encoded(mask), palette=[(1, 2, 3)])
    assert (files.read_labels(encoded(np.stack([GREY] * 3, -1))).numpy() == GREY).all()
