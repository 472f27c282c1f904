"""The ground floor: whole files or none, verified downloads, pickles that run nothing, folders and zips, pictures."""

import bisect
import contextlib
import errno
import hashlib
import http.client
import io
import json
import os
import pickle
import re
import struct
import time
import types
import urllib.error
import urllib.request
import uuid
import zipfile
import zlib
from pathlib import Path

from datamodules.errors import UserError

CHUNK = 1 << 20
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
BUSY = (429, 500, 502, 503, 504)
PAUSE = 1.0     # seconds before a busy server is asked again
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
LABELS = (".png", ".tif", ".tiff", ".bmp", ".gif")


# -- writing -----------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def atomic(path):
    """A binary file to write to; it appears at `path` when the block ends well, and leaves nothing behind otherwise."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}-{uuid.uuid4().hex[:8]}")
    make_folder(path.parent)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):                   # never made, or a place where nothing can be removed
            temporary.unlink()
        if disk_is_full(error):
            raise UserError("the disk is full", path, "free some space; nothing half-written is left") from error
        if isinstance(error, OSError) and error.errno in READ_ONLY:
            raise UserError(f"cannot be written ({error.strerror})", path, "give another place") from error
        raise


def make_folder(path) -> None:
    """The folder and those above it; a place where none can be is one line."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"no folder can be made here ({error.strerror})", path, "give another place") from error


def disk_is_full(error: BaseException | None) -> bool:
    """torch.save reports a full disk as a RuntimeError that only carries the OSError in its context."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def write_bytes(path, data: bytes) -> None:
    with atomic(path) as file:
        file.write(data)


def write_text(path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path, value) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sha256_of(path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- downloads ---------------------------------------------------------------------------------------------------------
def offline() -> bool:
    values = (os.environ.get(key, "") for key in ("ZOO_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.lower() in ("1", "true", "yes", "on") for value in values)


def download(url: str, path, sha256: str | None = None, size: int | None = None) -> Path:
    """The file of `url` at `path`, of this sha256 and this many bytes; a file already there is checked and kept.

    An interrupted download goes on from `<path>.part`, but only if `sha256` is given: without it nothing could tell
    that the file has changed in the meantime.
    """
    path = Path(path)
    if path.exists():
        _verify(path, path, sha256, size, f"remove it to download it again from {url}")
        return path
    if offline():
        raise UserError(f"{path.name} is not here and offline mode is set", url,
                        f"unset ZOO_OFFLINE and HF_HUB_OFFLINE, or put the file at {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with open(part, "ab") as file:
        _lock(file)                                          # a second process waits here, then finds the file
        if path.exists():
            part.unlink(missing_ok=True)
            return path
        try:
            _fetch(url, file, resume=sha256 is not None)
            file.flush()
            os.fsync(file.fileno())
        finally:
            if part.stat().st_size == 0:
                part.unlink()
        try:
            _verify(part, url, sha256, size, "check the address, or run again if the connection is bad")
        except UserError:
            part.unlink()                                    # wrong, not unfinished: never go on from it
            raise
        os.replace(part, path)
    return path


def _lock(file) -> None:
    with contextlib.suppress(ImportError):                   # Windows has no fcntl: there, no lock
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


def _verify(path: Path, where, sha256: str | None, size: int | None, mend: str) -> None:
    if size is not None and path.stat().st_size != size:
        raise UserError(f"{path.stat().st_size} bytes instead of {size}", where, mend)
    if sha256 is not None and (found := sha256_of(path)) != sha256.lower():
        raise UserError(f"sha256 is {found}, not {sha256}", where, mend)


def _fetch(url: str, file, resume: bool, tries: int = 3) -> None:
    """Append to the .part `file` what it lacks of `url`; a connection that breaks or a busy server is tried again."""
    if not resume:
        file.truncate(0)
    for left in reversed(range(tries)):
        done = file.seek(0, os.SEEK_END)
        try:
            total = _receive(url, file, done)
        except urllib.error.HTTPError as error:
            total = _total_of(error)
            if error.code in BUSY and left:
                time.sleep(PAUSE)
                continue
            if error.code != 416:
                raise UserError(f"the server answers {error.code} {error.reason}", url, "check the address") from error
            if total != done:                                # what we have is no beginning of today's file
                file.truncate(0)
        except urllib.error.URLError as error:
            raise UserError(f"no connection ({error.reason})", url,
                            f"go online, or put the file at {file.name.removesuffix('.part')}") from error
        except (http.client.HTTPException, ConnectionError, TimeoutError):
            continue
        if total is None or file.seek(0, os.SEEK_END) == total:
            return
    raise UserError(f"the connection breaks (after {file.seek(0, os.SEEK_END)} bytes)", url,
                    "run again, it goes on from there" if resume else "run again")


def _receive(url: str, file, done: int) -> int | None:
    """Write the bytes of `url` from `done` on, or all if the server cannot; returns the whole length if known."""
    request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0", "Accept-Encoding": "identity"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    with urllib.request.urlopen(request, timeout=30) as answer:
        if done and answer.status != 206:
            file.truncate(0)
        while chunk := answer.read(CHUNK):
            try:
                file.write(chunk)
            except OSError as error:
                raise UserError(f"cannot write ({error.strerror})", file.name, "free some space, run again") from error
        return _total_of(answer)


def _total_of(answer) -> int | None:
    """The whole file's length, from a 206's or 416's Content-Range or a 200's Content-Length."""
    span = re.search(r"/(\d+)$", answer.headers.get("Content-Range") or "")
    length = span[1] if span else answer.headers.get("Content-Length")
    return int(length) if length and length.isdecimal() else None


# -- pickles -----------------------------------------------------------------------------------------------------------
class _PlainUnpickler(pickle.Unpickler):
    PLAIN = {("builtins", "set"): set, ("builtins", "frozenset"): frozenset, ("__builtin__", "set"): set}

    def find_class(self, module, name):
        if (module, name) not in self.PLAIN:
            raise pickle.UnpicklingError(f"it holds a {module}.{name}")
        return self.PLAIN[module, name]


def load_plain_pickle(path):
    """A pickle of containers, strings and numbers; one that names any class or function is refused, nothing runs."""
    try:
        with open(path, "rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except FileNotFoundError:
        raise
    except Exception as error:                               # a damaged pickle may raise nearly anything
        raise UserError(f"not a pickle of plain values ({error})", path, "download it again") from error


class Placeholder:
    """Stands for whatever a checkpoint names beyond tensors: takes any arguments and any state, does nothing."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args, **kwargs):
        return self

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, value):
        pass

    def extend(self, values):
        pass


class _TensorUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        import collections

        import torch

        known = {("collections", "OrderedDict"): collections.OrderedDict, ("torch", "Size"): torch.Size,
                 ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
                 ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
                 ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter}
        return known.get((module, name), Placeholder)


def load_torch_pickle(path):
    """What torch.save wrote, on the CPU: tensors and plain containers whole, everything else an inert `Placeholder`.

    No code of the file runs and none of its packages is needed (mmengine's training state, numpy scalars, ...).
    """
    import torch

    if not zipfile.is_zipfile(path):
        size = os.path.getsize(path)
        raise UserError(f"not a whole torch checkpoint (a zip archive is expected; {size} bytes)", path,
                        "download it again, or re-save an old-format file with a recent torch")
    check_zip(path)
    reader = types.SimpleNamespace(__name__="tensors_only", Unpickler=_TensorUnpickler)
    try:
        return torch.load(path, map_location="cpu", pickle_module=reader, weights_only=False)
    except Exception as error:                               # torch raises nearly anything for a foreign or torn file
        raise UserError(f"not a readable torch checkpoint ({_first_line(error)})", path, "download it again") from error


def check_zip(path) -> None:
    """Refuses a .zip (so also what torch.save writes) whose content is not that of its checksums.

    torch.load does not look at them: a flipped bit gives other weights without a word.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:                               # zipfile raises nearly anything for a damaged index
        raise UserError(f"damaged ({_first_line(error)})", path, "copy or download it again") from error
    if damaged is not None:
        raise UserError(f"damaged ({damaged} has not its checksum)", path, "copy or download it again")


# -- folders and zips --------------------------------------------------------------------------------------------------
class Tree:
    """A folder, or a .zip read in place; names inside are relative, with forward slashes."""

    def __init__(self, root, below: str = ""):
        self.root, self.below = Path(root), below
        if not self.root.exists():
            raise UserError("no such folder or .zip", self.root, "set data.root")
        self.zipped = self.root.is_file()
        if self.zipped and not zipfile.is_zipfile(self.root):
            raise UserError("neither a folder nor a whole .zip", self.root, "set data.root, or copy it again")
        self._archive = self._names = self._owner = None

    def __getstate__(self):                                  # the open archive stays behind: each worker opens its own
        return self.__dict__ | {"_archive": None, "_owner": None}

    def __str__(self):
        return str(self.root / self.below)

    def where(self, name: str) -> str:
        return str(self.root / self.below / name)

    def archive(self) -> zipfile.ZipFile:
        if self._owner != os.getpid():                       # a forked worker must not share the file position
            try:
                self._archive, self._owner = zipfile.ZipFile(self.root), os.getpid()
            except Exception as error:
                raise UserError(f"a damaged .zip ({_first_line(error)})", self.root, "copy it again") from error
        return self._archive

    def names(self) -> list[str]:
        """All files of a zip, sorted, from its own root."""
        if self._names is None:
            self._names = sorted(n for n in self.archive().namelist() if not n.endswith("/") and not _hidden(n))
        return self._names

    def open(self, name: str) -> bytes:
        """The bytes of one file."""
        try:
            if self.zipped:
                return self.archive().read(self.below + name)
            return (self.root / self.below / name).read_bytes()
        except (KeyError, FileNotFoundError) as error:
            raise UserError("missing", self.where(name)) from error
        except Exception as error:                           # a damaged .zip may raise nearly anything
            raise UserError(f"cannot be read ({_first_line(error)})", self.where(name), "copy it again") from error

    def text(self, name: str) -> str:
        """A UTF-8 file's text."""
        try:
            return self.open(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"not UTF-8 text (byte {error.start})", self.where(name), "save it as UTF-8") from error

    def has(self, name: str) -> bool:
        """Whether there is a file or a folder of this name."""
        if not self.zipped:
            return (self.root / self.below / name).exists()
        full, names = self.below + name.rstrip("/"), self.names()
        at = bisect.bisect_left(names, full)
        inside = bisect.bisect_left(names, full + "/")
        return names[at:at + 1] == [full] or (inside < len(names) and names[inside].startswith(full + "/"))

    def list(self, prefix: str = "", suffixes: tuple[str, ...] = ()) -> list[str]:
        """Files below the folder `prefix`, at any depth, sorted; hidden ones are left out. No folder: no files."""
        prefix = prefix.rstrip("/") + "/" if prefix else ""
        if self.zipped:
            start = self.below + prefix
            first = bisect.bisect_left(self.names(), start)
            found = []
            for name in self.names()[first:]:
                if not name.startswith(start):
                    break
                found.append(name[len(self.below):])
        else:
            base = self.root / self.below
            found = [(Path(folder) / file).relative_to(base).as_posix()
                     for folder, _, files in os.walk(base / prefix, followlinks=True) for file in files]
        return sorted(n for n in found if not _hidden(n) and (not suffixes or n.lower().endswith(suffixes)))

    def down(self, marker: str) -> "Tree":
        """The nearest folder, here or up to two levels deeper, that holds a file or folder `marker`; else this one."""
        if self.has(marker):
            return self
        if self.zipped:
            inside = [n[len(self.below):] for n in self.names() if n.startswith(self.below)]
            folders = {"/".join(n.split("/")[:depth]) for n in inside for depth in (1, 2) if n.count("/") >= depth}
        else:
            base = self.root / self.below
            found = [*base.glob("*/"), *base.glob("*/*/")]
            folders = {path.relative_to(base).as_posix() for path in found if path.is_dir()}
        for folder in sorted(folders, key=lambda f: (f.count("/"), f)):
            if not _hidden(folder) and self.has(f"{folder}/{marker}"):
                return Tree(self.root, f"{self.below}{folder}/")
        return self


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


# -- pictures ----------------------------------------------------------------------------------------------------------
def read_image(source, name: str = ""):
    """A picture file (its path or bytes) as uint8 tensor [3, H, W], RGB, turned as its EXIF data say.

    Transparency is laid over white, 16 bit becomes 8, CMYK, palette and grey become RGB; a colour profile is not
    applied. `name` is for error lines. Only JPEG is torchvision's: its PNG decoder dies (SIGSEGV) of a damaged file.
    """
    import torch
    from torchvision.io import ImageReadMode, decode_image

    data, name = _bytes_of(source, name)
    if data[:3] == b"\xff\xd8\xff":
        try:
            whole = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            return decode_image(whole, ImageReadMode.RGB, apply_exif_orientation=True)
        except (RuntimeError, ValueError) as error:
            raise _unreadable(name, error) from error
    return _read_with_pillow(data, name)


def _read_with_pillow(data: bytes, name: str):
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    _check_png(data, name)
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture = ImageOps.exif_transpose(picture)
            if picture.mode.startswith("I"):                 # 16 bit grey, also as 32 bit integers
                wide = np.asarray(picture).astype(np.int64)
                picture = Image.fromarray(((wide.clip(0, 65535) + 128) // 257).astype(np.uint8))
            elif picture.mode == "F":
                raise UserError("a picture of floating-point numbers", name, "save it with 8 or 16 bit")
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                white = Image.new("RGBA", picture.size, "white")
                picture = Image.alpha_composite(white, picture)
            array = np.array(picture.convert("RGB"))
    except UserError:
        raise
    except Exception as error:                               # a damaged picture may raise nearly anything
        raise _unreadable(name, error) from error
    return torch.from_numpy(array).permute(2, 0, 1)


def read_labels(source, name: str = "", palette: list[tuple[int, int, int]] | None = None):
    """A label picture (its path or bytes) as tensor [H, W] of the file's own values: uint8, or int32 for 16 bit.

    Palette pictures give their indices, 1 bit gives 0 and 1. Colour pictures need the classes' colours (`palette`):
    a colour's place in it is the label, and a colour that is not in it is 255 (65535 for more than 255 classes).
    """
    import numpy as np
    import torch
    from PIL import Image

    data, name = _bytes_of(source, name)
    _check_png(data, name)
    try:
        with Image.open(io.BytesIO(data)) as picture:
            mode, array = picture.mode, np.array(picture)    # P: indices
    except Exception as error:                               # a damaged picture may raise nearly anything
        raise _unreadable(name, error) from error
    if mode == "F":
        raise UserError("labels are floating-point numbers", name, "save whole numbers, 8 or 16 bit")
    if mode == "LA":
        mode, array = "L", array[..., 0]
    if mode in ("RGB", "RGBA"):
        array = _colours_to_labels(array[..., :3], name, palette)
    elif mode not in ("1", "L", "P") and not mode.startswith("I"):
        raise UserError(f"labels in picture mode {mode}", name, "save them as a grey or palette PNG")
    if mode == "L" and data[:4] == b"\x89PNG" and data[24] in (2, 4):
        array = array // (255 // (2 ** data[24] - 1))        # Pillow spreads 2 and 4 bit grey over 0..255
    if array.dtype in (np.dtype(bool), np.dtype(np.uint8)):
        return torch.from_numpy(array.astype(np.uint8, copy=False))
    if array.size and not 0 <= array.min() <= array.max() <= 65535:
        raise UserError(f"values from {array.min()} to {array.max()}", name, "labels go from 0 to 65535")
    return torch.from_numpy(array.astype(np.int32))


def _colours_to_labels(array, name: str, palette):
    import numpy as np

    if palette is None:
        if (array == array[..., :1]).all():                  # grey, only stored as RGB
            return array[..., 0]
        raise UserError("labels are colours, not class numbers", name,
                        "give each class its colour in classes.txt (`name r g b`), or save class numbers")
    codes = (array.astype(np.int32) * (65536, 256, 1)).sum(-1)
    known = np.array([r * 65536 + g * 256 + b for r, g, b in palette])
    order = np.argsort(known, kind="stable")
    at = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
    hit = known[order][at] == codes
    if not hit.any():
        seen = [tuple(int(v) for v in c) for c in np.unique(array.reshape(-1, 3), axis=0)[:4]]
        raise UserError(f"none of its colours is a class's (it has {seen})", name, "correct the colours in classes.txt")
    return np.where(hit, order[at], 255).astype(np.uint8) if len(known) <= 255 else np.where(hit, order[at], 65535)


def _bytes_of(source, name: str) -> tuple[bytes, str]:
    if isinstance(source, bytes):
        return source, name or "picture"
    try:
        return Path(source).read_bytes(), name or str(source)
    except FileNotFoundError as error:
        raise UserError("no such file", source) from error
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", source) from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _check_png(data: bytes, name: str) -> None:
    """Refuses a PNG that ends early or has a part without its checksum; Pillow does not look at those of the pixels."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return
    view, at, kind = memoryview(data), 8, b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise _unreadable(name, EOFError("it ends early"))
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if zlib.crc32(view[at + 4:end]) != int.from_bytes(view[end:end + 4], "big"):
            raise _unreadable(name, ValueError(f"its part at byte {at} has not its checksum"))
        at = end + 4


def _unreadable(name: str, error: Exception) -> UserError:
    what = re.sub(r" <_io.BytesIO object at 0x[0-9a-f]+>", "", _first_line(error))
    if "," in what and ".cpp:" in what:                      # torchvision puts the C++ place in front
        what = what.split(", ")[-1]
    return UserError(f"not a whole picture ({what})", name, "replace the file, or remove it from the set")
