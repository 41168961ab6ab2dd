"""Where the objects of a job lie: the stores of its run and its data, which data set is meant, its first weights.

The launcher and the engine both ask this page, so that they cannot mean different places.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from urllib.parse import unquote

from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import JobError, UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.fields import resolve_uri
from unimrg_api.job import UniMRGJob
from unimrg_api.spec_model import ANSWERING
from unimrg_api.spec_platform import StorageSpec
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.data.mixture import mixture_digest
from unimrg_trainer.data.publication import Publication, find_publication
from unimrg_trainer.maps.registry import maps_of
from unimrg_trainer.preparation.base import Encoder
from unimrg_trainer.preparation.prepare import digest_of
from unimrg_trainer.preparation.producers.base import MapProducer
from unimrg_trainer.preparation.producers.registry import open_producers
from unimrg_trainer.preparation.registry import open_sources
from unimrg_trainer.storage import open_store
from unimrg_trainer.storage.base import ObjectStore


def run_store(job: UniMRGJob, env: PodEnvironment) -> ObjectStore:
    """The prefix of the run: checkpoints, outcomes, logs, results."""
    return open_store(resolve_uri(job.spec.checkpoint.uri, env.spec_base), job.spec.storage)


def data_stores(job: UniMRGJob, env: PodEnvironment) -> list[ObjectStore]:
    """Where the data sets are; the first is where one is prepared."""
    return [open_store(resolve_uri(uri, env.spec_base), job.spec.storage) for uri in job.spec.data.shards]


def wanted_digest(job: UniMRGJob, env: PodEnvironment) -> str | None:
    """The digest of the data set that the job's sources describe; None without sources.

    Raises JobError (66) for inputs that are not there.
    """
    sources = job.spec.data.sources
    if sources is None:
        return None
    opened = open_sources(sources, env.spec_base, job.spec.storage, env.cache)
    return digest_of(opened, image_encoder(job, env), map_producers(job, env))


def image_encoder(job: UniMRGJob, env: PodEnvironment) -> Encoder | None:
    """What encodes the data when it is prepared; None where training does that.

    Raises UserError (66) where its weights are missing.
    """
    if job.spec.data.image_encoding == "Online":
        return None
    # by name, and only here: it imports torch, which takes seconds
    found: Encoder = importlib.import_module("unimrg_trainer.engine.encoding").open_encoder(job, env)
    return found


def map_producers(job: UniMRGJob, env: PodEnvironment) -> list[MapProducer]:
    """What makes the maps that the job's sources do not bring, on a GPU for a job that has any."""
    device = "cuda" if job.spec.trainer.gpus_per_node else "cpu"
    return open_producers(job.spec.data.maps, env.spec_base, device, storage=job.spec.storage, cache=env.cache)


def find_data(stores: Sequence[ObjectStore], wanted: str | None, first: int = 0) -> list[Publication]:
    """Return the data sets of a job, from store number `first` on; `wanted` is the digest of that of its sources.

    Raises UserError (66) for one that is not there, or not yet.
    """
    found = []
    for number, store in list(enumerate(stores))[first:]:
        with prefix_user_errors(f"spec.data.shards[{number}]"):
            found.append(find_publication(store, wanted if number == 0 else None))
    return found


def data_digest(job: UniMRGJob, env: PodEnvironment, *, prepared: bool = True) -> str:
    """The digest of all data that the job trains on, and of how it is mixed.

    Raises UserError (66) for data that is not there, or not yet, unless that which is still to be `prepared` may be.
    """
    wanted = wanted_digest(job, env)
    awaited = [] if prepared or wanted is None else [wanted]
    found = find_data(data_stores(job, env), wanted, len(awaited))
    return mixture_digest([*awaited, *(one.digest for one in found)], job.spec.data.proportions())


def check_data(job: UniMRGJob, env: PodEnvironment) -> str:
    """Return what `data_digest` does. Raises UserError (65), too, unless the data has what is trained on, or else
    evaluated with."""
    stores = data_stores(job, env)
    found = find_data(stores, wanted_digest(job, env))
    split = "train" if job.spec.trains else "heldOut"
    with prefix_user_errors("spec.data.shards"):
        require_contents(job, [Dataset.of(store, one, split) for store, one in zip(stores, found, strict=True)])
    return mixture_digest([one.digest for one in found], job.spec.data.proportions())


def require_contents(job: UniMRGJob, parts: Sequence[Dataset]) -> None:
    """Raise UserError (65) unless one split of the job's data sets has what its rows need: in `train`, of all that are
    read, every map that an objective learns, and, with `imageSharing: All`, a question about every image."""
    spec = job.spec
    objectives = [name for name, weight in spec.resolved_objectives().items() if weight > 0]
    asked = spec.training.batch.image_sharing == "All" and ANSWERING in objectives
    for number, part in enumerate(parts):
        trains, shares = part.split == "train", spec.data.proportions()
        if not trains or shares is None or shares[number]:
            part.require(maps_of(objectives) if trains else (), questions=asked and part.split != "preview")


@contextlib.contextmanager
def prefix_user_errors(field: str) -> Iterator[None]:
    """Prefix user errors of the block with a field of the job."""
    try:
        yield
    except JobError:
        raise  # names its fields itself
    except UserError as error:
        if error.message.startswith(field):
            raise
        message = f"{field}: {error.message}"
        raise type(error)(message, remedy=error.remedy, exit_code=error.exit_code) from error


def find_weights(uri: str, storage: StorageSpec | None = None) -> tuple[ObjectStore, list[str]]:
    """The store and the keys of the safetensors file(s) at `uri`, which is absolute: one file, or a folder of them.

    Raises UserError (66) if there is none.
    """
    folder, _, last = uri.rpartition("/")
    if not last.endswith(".safetensors"):
        store = open_store(uri, storage)
        keys = [key for key, _ in store.list() if key.endswith(".safetensors")]
    else:
        store = open_store(folder, storage)
        name = unquote(last, errors="surrogateescape") if uri.startswith("file://") else last
        keys = [name] if store.size(name) is not None else []
    if not keys:
        raise UserError(
            f"spec.model.init: no safetensors file under {uri}",
            remedy="give a .safetensors file or a folder of some; `unimrg ckpt import` writes one",
            exit_code=ExitCode.INPUT_MISSING,
        )
    return store, keys
