"""Official files by name (hub.yaml): fetched into one folder a name, checked, and taken down with their licence.

The folder is ~/.cache/segmentation-zoo/<name> (ZOO_CACHE names another place for the first part). `origin.yaml` in it is
written last: it lists size and sha256 of each file, so a folder without it is not finished.
"""

import difflib
import os
import time
from pathlib import Path

import yaml

from datamodules.errors import UserError
from datamodules.files import download, offline, sha256_of, write_text

LIST = Path(__file__).with_name("hub.yaml")
RECORD = "origin.yaml"
NOTHING_YET, NOT_NEEDED = "nothing yet", "not needed"


def entries() -> dict[str, dict]:
    return yaml.safe_load(LIST.read_text())


def entry_of(name: str) -> dict:
    known = entries()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise UserError("no such name in the hub", name, f"did you mean {near[0]}?" if near else "see python -m zoo.hub list")
    return known[name]


def folder_of(name: str) -> Path:
    return Path(os.environ.get("ZOO_CACHE") or "~/.cache/segmentation-zoo").expanduser() / name


def get(name: str) -> Path:
    """The file of `name`, or the folder of its files; fetched and checked if it is not there yet."""
    entry, folder = entry_of(name), folder_of(name)
    record = _record(folder)
    if record is None or _damage(folder, record, entry):
        source = _fetch(name, entry, folder)
        names = _present(folder, entry)
        about = {key: entry[key] for key in ("what", "origin", "licence")}
        record = {"name": name, **about, **source, "date": time.strftime("%Y-%m-%d"), "files": _measured(folder, names)}
        if wrong := _damage(folder, record, entry):
            raise UserError(wrong, folder, f"remove it and run python -m zoo.hub get {name} again")
        write_text(folder / RECORD, yaml.safe_dump(record, sort_keys=False, allow_unicode=True))
    return folder if len(record["files"]) > 1 else folder / next(iter(record["files"]))


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
        mend = f"remove {folder_of(damaged[0])} and run python -m zoo.hub get {damaged[0]} again"
        raise UserError(f"{len(damaged)} of {len(found)} damaged", ", ".join(damaged), mend)
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
    if _present(folder, entry) and "url" not in entry:       # put there by hand
        _announce(name, entry)
        return {"from": "put there by hand"}
    if "by_hand" in entry:
        files = ", ".join(entry["files"])
        raise UserError(f"to be fetched by hand: {entry['by_hand']}", name, f"put {files} into {folder}")
    if offline():
        raise UserError("not here, and offline mode is set", name,
                        f"unset ZOO_OFFLINE and HF_HUB_OFFLINE, or put {', '.join(entry['files'])} into {folder}")
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
        for pattern in entry["files"]:
            file = _match(pattern, listed)
            hf_hub_download(repo, file, revision=listing.sha, local_dir=folder, local_files_only=offline())
            lfs = listed[file].lfs                           # absent for small text files
            wanted = {"size": listed[file].size, "sha256": lfs and lfs.sha256}
            if wrong := _differs(folder / file, wanted):
                (folder / file).unlink()
                raise UserError(f"{file}: {wrong}", name, "run again; it was removed")
    except UserError:
        raise
    except Exception as error:                               # the hub's library raises its own, httpx's and requests' errors
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
            if Path(name).match(alternative) and name.count("/") == alternative.count("/"):
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


def _record(folder: Path) -> dict | None:
    try:
        record = yaml.safe_load((folder / RECORD).read_text())
    except (OSError, yaml.YAMLError):
        return None
    return record if isinstance(record, dict) and record.get("files") else None
