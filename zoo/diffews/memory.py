"""Memories in a file: what supports were made into, for queries of later."""

import json
from pathlib import Path

from datamodules.errors import UserError
from datamodules.files import write_bytes
from zoo.diffusion.attention import Layer, Memory

PARTS = Layer._fields


def save_memory(path: str | Path, memories: list[Memory], about: dict) -> None:
    """Writes them as safetensors. about: whatever JSON can say of them (classes, the weights' sha256, ...)."""
    from safetensors.torch import save

    tensors = {f"{step}/{name}/{part}": value.detach().cpu().contiguous() for step, memory in enumerate(memories)
               for name, layer in memory.layers.items() for part, value in layer._asdict().items() if value is not None}
    frames = [{"shots": memory.shots, "size": list(memory.size)} for memory in memories]
    write_bytes(path, save(tensors, {"memories": json.dumps(frames), "about": json.dumps(about)}))


def load_memory(path: str | Path) -> tuple[list[Memory], dict]:
    """The memories on the CPU, and what was said of them."""
    from safetensors import safe_open

    if not Path(path).is_file():
        raise UserError("no such file", path, "give a memory that was saved")
    try:
        with safe_open(path, "pt") as file:
            frames = json.loads(file.metadata()["memories"])
            about = json.loads(file.metadata()["about"])
            stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        memories = [Memory(frame["shots"], tuple(frame["size"])) for frame in frames]
        for step, name in dict.fromkeys(tuple(key.split("/")[:2]) for key in sorted(stored)):
            memories[int(step)].layers[name] = Layer(*(stored.get(f"{step}/{name}/{part}") for part in PARTS))
    except Exception as error:                               # safetensors raises nearly anything for a foreign or torn file
        raise UserError(f"no saved memory ({type(error).__name__})", path, "write it anew from the supports") from error
    return memories, about
