"""The demo world: procedural scenes, each a pure function of (seed, index). No files, any size."""

from datamodules.demo.landscape import landscape
from datamodules.demo.objects import ObjectScene, objects

__all__ = ["ObjectScene", "landscape", "objects"]
