"""Files of frozen parts: a safetensors file that also says how its module is made, so that the file is enough."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import nn

SETTINGS = "settings"                   # key of the file's metadata: the arguments of the module's constructor as JSON
Part = TypeVar("Part", bound=nn.Module)


def packed(part: nn.Module, settings: dict) -> bytes:
    """The content of a part's file; settings: the arguments it was made with."""
    from safetensors.torch import save

    return save({key: value.contiguous() for key, value in part.state_dict().items()}, {SETTINGS: json.dumps(settings)})


def unpacked(make: Callable[..., Part], file: str) -> Part:
    """The part in a file, frozen; make: its class."""
    from safetensors import SafetensorError, safe_open

    if not Path(file).is_file():
        raise ValueError(f"{file}: no such file; python -m zoo.mask_adapter.convert writes it from official weights")
    try:
        with safe_open(file, "pt") as content:
            settings = json.loads((content.metadata() or {})[SETTINGS])
            tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
        part = make(**settings)
        part.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, TypeError, RuntimeError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise ValueError(f"{file}: not a whole {make.__name__} ({line}); convert it again from the official file") from error
    return part.requires_grad_(False).eval()


def sha256_of_tensors(part: nn.Module) -> str:
    """Of the values in fp32: the same weights have the same one, whatever file they were read from."""
    digest = hashlib.sha256()
    for name, value in sorted(part.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()
