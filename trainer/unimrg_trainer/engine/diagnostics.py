"""What a job can ask for to look into a training: deterministic kernels, a profile of a few steps, compiled blocks."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from unimrg_api.errors import UserError
from unimrg_api.spec_platform import PROFILED_STEPS
from unimrg_trainer.engine.recompute import blocks

logger = logging.getLogger(__name__)


def use_deterministic_kernels() -> None:
    """Have torch choose kernels that give the same bits every time, and raise where there is none.

    Call it before anything runs on a GPU: cuBLAS reads its setting once.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def compile_blocks(module: nn.Module, backend: str = "inductor") -> int:
    """Compile the forward of each repeated block of `module` in place, when it first runs; return their number.

    Blocks of one class share their code, so this takes a fraction of the time of compiling the whole module. Call it
    before `recompute_activations`: a compiled block can be computed again, but one that was wrapped for that is not
    compiled.
    """
    found = list(blocks(module))
    for block in found:
        block.forward = torch.compile(block.forward, backend=backend)
    return len(found)


class StepProfiler:
    """Profiles a few steps with torch.profiler; the trace opens in Perfetto (ui.perfetto.dev) or chrome://tracing."""

    def __init__(
        self, first_step: int, folder: Path, keep: Callable[[Path], None], on_export: Callable[[], None]
    ) -> None:
        """`first_step` is the 1-based number of the first step; `keep` gets the file of the trace.

        `on_export` is called before the trace is written, which may take a minute.
        """
        self._first = first_step
        self._folder = folder
        self._keep = keep
        self._on_export = on_export
        self._profile: torch.profiler.profile | None = None

    def before_step(self, finished_steps: int) -> None:
        """Begin or end the profile; called before each step."""
        if finished_steps + 1 == self._first:
            self._profile = torch.profiler.profile(record_shapes=True)
            self._profile.start()
        elif finished_steps + 1 >= self._first + PROFILED_STEPS:
            self.close()

    def close(self) -> None:
        """End the profile, if it is running, and write its trace."""
        if self._profile is None:
            return
        self._on_export()
        profile, self._profile = self._profile, None
        profile.stop()
        path = self._folder / f"trace-from-step-{self._first}.json.gz"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            profile.export_chrome_trace(str(path))
            self._keep(path)
        except OSError as error:
            logger.warning("the profile could not be written to %s: %s", path, error)
            return
        except UserError as error:  # it costs no training
            logger.warning("the profile could not be saved beside the checkpoints: %s", error)
        logger.info("the profile of %d steps from step %d on is in %s", PROFILED_STEPS, self._first, path)
