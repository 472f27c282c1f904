"""How fast a run is and how much memory it takes, in the log beside the losses.

Each figure is over the last `log_every_n_steps` steps:
    speed/seconds_per_step        optimiser steps, without validation
    speed/pictures_per_second     of all processes; each picture of an episode counts
    speed/megapixels_per_second   as the net gets them: crops
    speed/waiting_for_data        share of the time, 0..1
    memory/process_peak_gib       of the first process since its start, loader workers not counted
    memory/gpu_peak_gib           allocated by torch on the first process's GPU
    lr/group<i>                   the learning rate this step was made with
"""

import sys
from collections import deque
from time import perf_counter

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import PassThroughProfiler, Profiler
from torch import Tensor

GIB = 2**30


class DataClock(Profiler):
    """Seconds the training loop has waited for batches: the only one of Lightning's actions it looks at."""

    ACTION = "[_TrainingEpochLoop].train_dataloader_next"

    def __init__(self):
        super().__init__()
        self.begin = self.waited = 0.0

    def start(self, action_name: str) -> None:
        if action_name == self.ACTION:
            self.begin = perf_counter()

    def stop(self, action_name: str) -> None:
        if action_name == self.ACTION:
            self.waited += perf_counter() - self.begin


class Throughput(Callback):
    """Stands behind the other callbacks, so that their validation work is not counted as training."""

    def __init__(self):
        self.clock = DataClock()

    def setup(self, trainer, module, stage: str) -> None:
        if isinstance(trainer.profiler, PassThroughProfiler):       # one of the user's own goes first
            trainer.profiler = self.clock

    def on_train_start(self, trainer, module) -> None:
        self.last = deque(maxlen=trainer.log_every_n_steps * trainer.accumulate_grad_batches)
        self.mark, self.waited = perf_counter(), self.clock.waited

    def on_validation_start(self, trainer, module) -> None:
        self.pause = perf_counter()

    def on_validation_end(self, trainer, module) -> None:
        if trainer.state.fn == "fit":
            self.mark += perf_counter() - self.pause

    def on_train_batch_start(self, trainer, module, batch, index) -> None:
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        module.log_dict({f"lr/group{i}": float(group["lr"]) for i, group in enumerate(groups)})

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        now, waited = perf_counter(), self.clock.waited
        self.last.append((now - self.mark, waited - self.waited, *pictures(batch)))
        self.mark, self.waited = now, waited
        seconds, waiting, count, pixels = map(sum, zip(*self.last))
        steps = len(self.last) / trainer.accumulate_grad_batches
        figures = {
            "speed/seconds_per_step": seconds / steps,
            "speed/pictures_per_second": count * trainer.world_size / seconds,
            "speed/megapixels_per_second": pixels * trainer.world_size / seconds / 1e6,
        }
        if trainer.profiler is self.clock:
            figures["speed/waiting_for_data"] = waiting / seconds
        module.log_dict(figures | memory(module.device))


def pictures(batch) -> tuple[int, int]:
    """Pictures in a batch and their pixels: every tensor [..., 3, H, W] in its lists and dictionaries."""
    if isinstance(batch, Tensor):
        if batch.ndim < 4 or batch.shape[-3] != 3:
            return 0, 0
        count = batch.shape[:-3].numel()
        return count, count * batch.shape[-2] * batch.shape[-1]
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, (list, tuple)) else ()
    found = [pictures(part) for part in parts]
    return sum(count for count, _ in found), sum(pixels for _, pixels in found)


def memory(device: torch.device) -> dict[str, float]:
    """Peaks so far, in GiB; what the system cannot tell is left out."""
    found = {}
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        found["memory/process_peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB
    if device.type == "cuda":
        found["memory/gpu_peak_gib"] = torch.cuda.max_memory_allocated(device) / GIB
    return found
