"""Official files by name (hub.yaml): fetched into one folder a name, checked, and taken down with their licence.

The folder is ~/.cache/segmentation-zoo/<name>, or <ZOO_CACHE>/<name>. Its `origin.yaml` is written last: it lists size
and sha256 of each file, so a folder without it is not finished.
"""

import difflib
import os
import time
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from datamodules.errors import UserError
from datamodules.files import download, offline, sha256_of, write_text

LIST = Path(__file__).with_name("hub.yaml")
RECORD = "origin.yaml"
NOTHING_YET, NOT_NEEDED = "nothing yet", "not needed"
CONVERTED = "converted"                                      # the export that a converter made, in the same folder


def entries() -> dict[str, dict]:
    return yaml.safe_load(LIST.read_text())


def entry_of(name: str) -> dict:
    known = entries()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" ({near[0]}?)" if near else ""
        raise UserError("no such name in zoo/hub.yaml", name, f"see python -m zoo.hub list{hint}")
    return known[name]


def folder_of(name: str) -> Path:
    return Path(os.environ.get("ZOO_CACHE") or "~/.cache/segmentation-zoo").expanduser() / name


def get(name: str) -> Path:
    """The file of `name`, or the folder of its files; fetched and checked if it is not there yet."""
    entry, folder = entry_of(name), folder_of(name)
    record = _record(folder)
    if record is None:
        about = {key: entry[key] for key in ("what", "origin", "licence")}
        record = {"name": name, **about, **_fetch(name, entry, folder), "date": time.strftime("%Y-%m-%d")}
        record["files"] = _measured(folder, _present(folder, entry))
        if wrong := _damage(folder, record, entry):
            raise UserError(wrong, folder, f"remove it and run python -m zoo.hub get {name} again")
        write_text(folder / RECORD, yaml.safe_dump(record, sort_keys=False, allow_unicode=True))
    elif wrong := _damage(folder, record, entry):
        raise UserError(wrong, folder, _mend(name))
    return folder if len(record["files"]) > 1 else folder / next(iter(record["files"]))


def conversion(name: str, path: Path) -> str:
    """The command that makes our export of a download, or that there is none."""
    converter = entry_of(name)["converter"]
    if converter in (NOTHING_YET, NOT_NEEDED):
        return f"converter: {converter}"
    return f"python -m {converter} {path} {folder_of(name) / CONVERTED}"


def state(name: str, thorough: bool = True) -> str:
    """"not here", "whole", or what is wrong; `thorough` reads every byte."""
    entry, folder = entry_of(name), folder_of(name)
    record = _record(folder)
    if record:
        wrong = _damage(folder, record, entry, thorough)
        return f"damaged: {wrong}" if wrong else "whole" if thorough else "here"
    if not folder.is_dir() or not any(path.is_file() for path in folder.rglob("*")):
        return "not here"
    return f"not finished: python -m zoo.hub get {name}"


def verify(name: str | None = None) -> None:
    """Prints which files in the cache are whole; all of them without a name."""
    found = {n: state(n) for n in ([name] if name else entries())}
    if not name:
        found = {n: s for n, s in found.items() if s != "not here"}
    for n, s in found.items():
        print(f"{n}: {s}")
    damaged = [n for n, s in found.items() if s.startswith("damaged")]
    if damaged:
        raise UserError(f"{len(damaged)} of {len(found)} damaged", ", ".join(damaged), _mend(damaged[0]))
    if not found:
        print(f"nothing in {folder_of('')}")


def table() -> str:
    """Every name with its size, whether it is here, what converts it, and its licence."""
    rows = [("name", "size", "here", "converter", "licence")]
    for name, entry in entries().items():
        here = {"here": "yes", "not here": "-"}.get(said := state(name, thorough=False), said.partition(":")[0])
        if "by_hand" in entry and here == "-":
            here = "by hand"
        rows.append((name, readable(entry["size"]), here, entry["converter"], entry["licence"]))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def readable(size: int | str) -> str:
    if isinstance(size, str):
        return size
    unit = next((u for u in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")) if size >= u[0]), (1, "B"))
    return f"{size / unit[0]:.3g} {unit[1]}"


# -- fetching ----------------------------------------------------------------------------------------------------------
def _fetch(name: str, entry: dict, folder: Path) -> dict[str, str]:
    """Brings the files into the folder; what the record says of where they come from."""
    here = _present(folder, entry)
    begun = (folder / ".cache").exists()                     # by the hub's library, which knows what is still missing
    if here and "url" not in entry and (offline() or not begun):
        _announce(name, entry)
        return {"from": "put there by hand"}
    if "by_hand" in entry:
        files = ", ".join(entry["files"])
        raise UserError(f"to be fetched by hand: {entry['by_hand']}", name, f"put {files} into {folder}")
    if offline() and not here:
        mend = f"unset ZOO_OFFLINE and HF_HUB_OFFLINE, or put {', '.join(entry['files'])} into {folder}"
        raise UserError("not here, and offline mode is set", name, mend)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot be made ({error.strerror})", folder, "set ZOO_CACHE to another folder") from error
    _announce(name, entry)
    if "url" in entry:
        size = entry["size"] if isinstance(entry["size"], int) else None
        download(entry["url"], folder / entry["files"][0], entry["sha256"], size)
        return {"from": entry["url"]}
    return _from_hub(name, entry, folder)


def _announce(name: str, entry: dict) -> None:
    print(f"{name}: {entry['what']}; from {entry['origin']}; size {readable(entry['size'])}; "
          f"licence: {entry['licence']}", flush=True)


def _from_hub(name: str, entry: dict, folder: Path) -> dict[str, str]:
    """From the Hugging Face hub at one commit; sizes and sha256 as the hub lists them are checked."""
    repo = _repository(entry)
    try:
        from huggingface_hub import HfApi, hf_hub_download

        revision = None if entry["revision"] == "unknown" else entry["revision"]
        listing = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=30)
        listed = {file.rfilename: file for file in listing.siblings}
        missing = [pattern for pattern in entry["files"] if not _match(pattern, listed)]
        if missing:
            raise UserError(f"{repo} at {listing.sha} has no {missing[0]}", name, "its contents have changed")
        for file in (listed[_match(pattern, listed)] for pattern in entry["files"]):
            path, lfs = folder / file.rfilename, file.lfs    # lfs is absent for small text files
            for again in (False, True):                      # the library trusts a damaged file that is there
                hf_hub_download(repo, file.rfilename, revision=listing.sha, local_dir=folder, force_download=again)
                wrong = _differs(path, {"size": file.size, "sha256": lfs and lfs.sha256})
                if not wrong:
                    break
            if wrong:
                path.unlink()
                raise UserError(f"{file.rfilename}: {wrong}", name, "it was removed; run again")
    except UserError:
        raise
    except Exception as error:                               # the hub's own errors, httpx's or requests'
        said = " ".join(str(error).split())[:200] or type(error).__name__
        mend = f"run again, or put {', '.join(entry['files'])} into {folder}"
        raise UserError(f"{repo} cannot be downloaded ({said})", name, mend) from error
    return {"from": f"huggingface.co/{repo}", "revision": listing.sha}


def _repository(entry: dict) -> str:
    if "hub" in entry:
        return entry["hub"]
    from open_clip.pretrained import get_pretrained_cfg

    return get_pretrained_cfg(*entry["open_clip"])["hf_hub"].rstrip("/")


# -- checking ----------------------------------------------------------------------------------------------------------
def _match(pattern: str, names) -> str | None:
    """The first of `names` (relative, forward slashes) that fits "a | b"; a comes before b."""
    for alternative in pattern.split(" | "):
        for name in sorted(names):
            if fnmatchcase(name, alternative) and name.count("/") == alternative.count("/"):
                return name
    return None


def _present(folder: Path, entry: dict) -> list[str]:
    """The entry's files in its folder; none unless all are there."""
    there = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    found = [_match(pattern, there) for pattern in entry["files"]]
    return found if all(found) else []


def _measured(folder: Path, names: list[str]) -> dict[str, dict]:
    return {name: {"size": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)} for name in names}


def _damage(folder: Path, record: dict, entry: dict, thorough: bool = False) -> str | None:
    """What is wrong with the files of a record: missing, other size, other sha256 than recorded or than in hub.yaml."""
    for name, wanted in record["files"].items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if wrong := _differs(folder / name, wanted if thorough else {"size": wanted["size"]}):
            return f"{name}: {wrong}"
        if entry["sha256"] not in ("unknown", wanted["sha256"]):
            return f"{name}: sha256 is {wanted['sha256']}, not {entry['sha256']}"
        if isinstance(entry["size"], int) and len(record["files"]) == 1 and entry["size"] != wanted["size"]:
            return f"{name}: {wanted['size']} bytes instead of {entry['size']}"
    return None


def _differs(path: Path, wanted: dict) -> str | None:
    size = path.stat().st_size
    if wanted["size"] is not None and size != wanted["size"]:
        return f"{size} bytes instead of {wanted['size']}"
    if wanted.get("sha256") and (found := sha256_of(path)) != wanted["sha256"]:
        return f"sha256 is {found}, not {wanted['sha256']}"
    return None


def _mend(name: str) -> str:
    folder = folder_of(name)
    return f"remove the file and {folder / RECORD}, then run python -m zoo.hub get {name}"


def _record(folder: Path) -> dict | None:
    try:
        record = yaml.safe_load((folder / RECORD).read_text())
    except (OSError, yaml.YAMLError):
        return None
    return record if isinstance(record, dict) and record.get("files") else None
