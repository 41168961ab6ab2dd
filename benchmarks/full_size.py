"""A model of published size on this machine: random published files → import → two steps → commit → export.

python benchmarks/full_size.py [--quick] [--family harmon|openuni|showo]

Weights are random, in the published layout. They are imported, trained for two optimiser steps at the published image
size on the CPU, committed, and the commit is exported. What is exported must equal, byte for byte, what was committed;
and every published file that is imported and exported again must equal itself. Every phase is a process of its own, so
that its peak memory is its own. `--quick` takes the size Tiny. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEMORY_GIB = 24.0
"""What the largest process may need: a laptop."""

JOB = "training.unimrg.dev/v1alpha1"


@dataclass(frozen=True)
class Case:
    """One family at its smallest published size."""

    settings: dict[str, Any]
    tokenizer: str
    """File of the cache in whose place the small tokenizer that ships with us is put, its special tokens renumbered."""
    image: int
    steps: int
    """Optimiser steps; 0 where weights, gradients and moments exceed MEMORY_GIB: then the import is exported."""
    method: str = "UniMRG"
    """RecA where the activations of UniMRG's four rows would not fit beside them: it has two in a forward."""


CASES = {
    # without dropout: with it, attention on the CPU keeps all scores, 7 GiB of them
    "harmon": Case({"variant": "0.5B", "dropout": "0"}, "qwen2.5-tokenizer.json", 512, 2, "RecA"),
    "openuni": Case({"variant": "B-512"}, "internvl3-tokenizer.json", 512, 0),
    "showo": Case({"variant": "CLIP-512"}, "phi-1.5-tokenizer.json", 512, 0),
}


@dataclass(frozen=True)
class Run:
    """One run of the benchmark: what is built, and the folder that it works in."""

    family: str
    case: Case
    folder: Path

    @property
    def assets(self) -> Path:
        return self.folder / "cache" / self.family

    def published(self, layout: Any) -> Path:
        return self.folder / "published" / f"{layout.name}.pth"

    def imported(self, layout: Any) -> Path:
        return self.assets / layout.asset.file if layout.asset else self.folder / f"imported/{layout.name}.safetensors"

    def layouts(self) -> list[Any]:
        from unimrg_trainer.models.registry import find_family

        return list(find_family(self.family, self.case.settings).layouts())


def write_published(run: Run) -> None:
    """Random weights of every published file, with tied copies, under their published names."""
    import torch

    run.folder.joinpath("published").mkdir()
    for layout in run.layouts():
        torch.manual_seed(0)
        module = layout.build()
        tensors = {layout.theirs(name): tensor.detach() for name, tensor in module.named_parameters()}
        tensors |= {layout.theirs(name): tensor for name, tensor in persistent_buffers(module).items()}
        tensors |= {copy: tensors[original].clone() for copy, original in layout.copies}
        torch.save({layout.container: tensors} if layout.container else tensors, run.published(layout))


def persistent_buffers(module: Any) -> dict[str, Any]:
    """Buffers that are part of a published file."""
    stored = module.state_dict()
    return {name: buffer for name, buffer in module.named_buffers() if name in stored}


def import_all(run: Run) -> None:
    """Import every published file to where a job finds it."""
    from unimrg_trainer.models.published import import_weights

    for layout in run.layouts():
        run.imported(layout).parent.mkdir(parents=True, exist_ok=True)
        import_weights(layout, run.published(layout), run.imported(layout))


def train(run: Run) -> None:
    """Run the job's stages up to training, as `unimrg run` does."""
    (model,) = (layout for layout in run.layouts() if layout.asset is None)
    run.assets.mkdir(parents=True, exist_ok=True)
    write_tokenizer(run.assets / run.case.tokenizer)
    spec = {
        "model": {"init": f"file://{run.imported(model)}", run.family: run.case.settings},
        "method": run.case.method,
        "training": {
            "batch": {"rowsPerObjective": 1, "cohortRows": 1, "microBatchRows": 1},
            "schedule": {"warmupSteps": 1, "totalSteps": run.case.steps},
            "precision": "FP32",
        },
        "trainer": {"gpusPerNode": 0, "processesPerNode": 1},
        "data": {
            "sources": [{"scenes": {"train": 4, "heldOut": 1, "imageSize": run.case.image, "seed": 1}}],
            "shards": [f"file://{run.folder}/data"],
        },
        "checkpoint": {"uri": f"file://{run.folder}/run", "everySteps": run.case.steps},
        "tracking": {"mlflow": {"experiment": "full-size"}},
        "stages": {"evaluate": {"mode": "Never"}},
        "runPolicy": {"stallTimeoutSeconds": 3600},
    }
    job = run.folder / "job.json"
    job.write_text(
        json.dumps({"apiVersion": JOB, "kind": "UniMRGJob", "metadata": {"name": "full-size"}, "spec": spec})
    )
    command = [sys.executable, "-m", "unimrg_cli.main", "run", str(job)]
    subprocess.run(command, check=True, env={**os.environ, "UNIMRG_CACHE": str(run.folder / "cache")})


def write_tokenizer(path: Path) -> None:
    """The small tokenizer that ships with us, with its special tokens under the numbers of the published one."""
    from unimrg_trainer.models.common.tokenizer import QWEN_IDS, TINY_TOKENIZER

    content = json.loads(TINY_TOKENIZER.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary |= {f"<unused {number}>": number for number in range(len(vocabulary), min(QWEN_IDS.values()))}
    content["added_tokens"] = [{**token, "id": QWEN_IDS[token["content"]]} for token in content["added_tokens"]]
    path.write_text(json.dumps(content))


def export_and_compare(run: Run) -> None:
    """Export every import, and the commit if there is one; raise unless all bytes are equal."""
    import torch

    from unimrg_trainer.checkpoint.discover import read_weights
    from unimrg_trainer.models.published import export_weights
    from unimrg_trainer.storage import open_store

    exported = run.folder / "exported.pth"
    for layout in run.layouts():
        export_weights(layout, run.imported(layout), exported)
        equal(read(exported, layout), read(run.published(layout), layout))
        if layout.asset is not None or run.case.steps == 0:
            continue
        _, committed = read_weights(open_store(f"file://{run.folder}/run"))
        export_weights(layout, committed, exported)
        expected = {layout.theirs(name): tensor for name, tensor in committed.items()}
        expected |= {copy: expected[original] for copy, original in layout.copies}
        equal(read(exported, layout), expected)
        before = read(run.published(layout), layout)
        changed = [name for name in expected if not torch.equal(expected[name], before[name])]
        if not changed:  # behind a head that begins at zero the first gradient is zero
            raise ValueError("no tensor was trained")


def read(path: Path, layout: Any) -> dict[str, Any]:
    """Tensors of a published file."""
    import torch

    content = torch.load(path, weights_only=True, mmap=True)
    return dict(content[layout.container] if layout.container else content)


def equal(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise ValueError unless names, types, shapes and bytes are equal."""
    import torch

    if found.keys() != wanted.keys():
        raise ValueError(f"other names: {sorted(found.keys() ^ wanted.keys())[:3]}")
    for name, tensor in wanted.items():
        one, other = found[name].contiguous(), tensor.detach().contiguous()
        same = one.dtype == other.dtype and one.shape == other.shape
        if not same or not torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)):
            raise ValueError(f"{name} is not what it was")


def peak_gib() -> float:
    """Largest resident memory of this process, or of one that it waited for."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 2**20


def measured(phase: Callable[[Run], None], run: Run) -> dict[str, float]:
    """Run a phase in a process of its own: its seconds, and its peak memory in GiB."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    start = time.perf_counter()
    process = context.Process(target=_measured, args=(phase, run, send))
    process.start()
    send.close()
    try:
        peak = float(receive.recv())
    except EOFError:
        raise SystemExit(f"{phase.__name__} failed; its folder was {run.folder}") from None
    process.join()
    seconds = time.perf_counter() - start
    print(f"{phase.__name__}: {seconds:.1f} s, {peak:.2f} GiB", flush=True)
    return {"seconds": round(seconds, 1), "gib": round(peak, 2)}


def _measured(phase: Callable[[Run], None], run: Run, send: Any) -> None:
    phase(run)
    send.send(peak_gib())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the size Tiny")
    parser.add_argument("--family", choices=sorted(CASES), default="harmon")
    parser.add_argument("--folder", type=Path, help="where to work, instead of a temporary folder")
    arguments = parser.parse_args()
    case = CASES[arguments.family]
    if arguments.quick:
        case = Case({"variant": "Tiny"}, case.tokenizer, 32, 2)
    with tempfile.TemporaryDirectory(prefix="full-size-", dir=arguments.folder) as folder:
        run = Run(arguments.family, case, Path(folder).resolve())
        phases = [write_published, import_all, *([train] if case.steps else []), export_and_compare]
        figures = {phase.__name__: measured(phase, run) for phase in phases}
    peak = max(figure["gib"] for figure in figures.values())
    result = {
        "name": f"full-size {arguments.family} {case.settings['variant']}",
        "figures": {**figures, "byte_equal": True, "method": case.method, "steps": case.steps},
        "ratio": round(peak / MEMORY_GIB, 3),
        "target": 1.0,
        "holds": peak <= MEMORY_GIB,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
