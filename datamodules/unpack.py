"""Archives of data sets: downloaded, verified, unpacked; the folder appears when it is whole, or not at all."""

import contextlib
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from datamodules.base import say
from datamodules.errors import UserError
from datamodules.files import disk_is_full, download, make_folder

TEMPORARY = ".unpacking"


@dataclass(frozen=True)
class Archive:
    """A .tar (also compressed) at a plain address. size: its bytes. folder: the one in it that is wanted."""

    url: str
    size: int
    sha256: str
    folder: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def fetch(archive: Archive, into: str | Path) -> Path:
    """`archive.folder` below `into`. The archive is kept beside it; a folder that is already there is left as it is."""
    into = Path(into)
    make_folder(into)
    with _alone_in(into):
        target = into / archive.folder
        if target.exists():
            return target
        if not os.access(into, os.W_OK):
            raise UserError("nothing can be written here", into, "give another data.root")
        if not (into / archive.name).exists():
            say(f"downloading {archive.url} ({archive.size / 1e9:.1f} GB) into {into}")
        path = download(archive.url, into / archive.name, archive.sha256, archive.size)
        say(f"unpacking {path}")
        unpack(path, archive.folder, into)
        say(f"{target} is complete; {path.name} is no longer needed")
        return target


def unpack(path: Path, folder: str, into: Path) -> None:
    """The files below `folder` of a .tar, as into/folder. Its members may only be files and folders that stay below it."""
    temporary, target = into / TEMPORARY, into / folder
    shutil.rmtree(temporary, ignore_errors=True)             # of a process that was killed
    try:
        count = 0
        with tarfile.open(path) as archive:
            for member in archive:
                name = _safe(member, path)
                if member.isfile() and name.is_relative_to(folder):
                    _write(archive.extractfile(member), temporary / name)
                    count += 1
        if not count:
            raise UserError(f"no {folder} in it", path, "remove it to download it again")
        make_folder(target.parent)
        os.rename(temporary / folder, target)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        if disk_is_full(error):
            raise UserError("the disk is full", into, "free some space; nothing half-unpacked is left") from error
        raise UserError(f"cannot be unpacked ({error})", path, "if it is damaged, remove it to download it again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _safe(member: tarfile.TarInfo, path: Path) -> PurePosixPath:
    """The member's name; one that is neither file nor folder, or leads out of the archive, is refused."""
    name = PurePosixPath(member.name)
    outside = name.is_absolute() or ".." in name.parts or "\\" in member.name or ":" in member.name
    if outside or not (member.isfile() or member.isdir()):
        what = "leads out of the folder" if outside else "is a link or a device"
        raise UserError(f"its member {member.name!r} {what}", path, "do not unpack it; it is not the published archive")
    return name


def _write(source, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Other processes that want to unpack into the folder wait until the block ends, and then find its result."""
    try:
        import fcntl
    except ImportError:                                      # Windows has no flock
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
