"""Finds the prepared data sets that a job's file, a folder or a URI names, and describes and verifies them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.fields import resolve_uri
from unimrg_api.load import load_job
from unimrg_api.texts import counted
from unimrg_cli.run_view import is_job_file
from unimrg_cli.view import View
from unimrg_trainer.data.publication import Publication, find_publications, folder_of, published
from unimrg_trainer.data.shards import CorruptDataError, IssueCount, Manifest, join, read_index
from unimrg_trainer.data.verify import Finding, manifest_of, verify_split
from unimrg_trainer.storage import ObjectStore, open_store

_FOLDER = re.compile(r"[0-9a-f]{16}")


class SplitReport(View):
    """One split as `unimrg data inspect` shows it, from its manifest."""

    split: str
    samples: int
    images: int
    """Samples with an image; the others are text alone."""
    questions: int
    shards: int
    bytes: int
    """Size of its shards, without their indices."""
    maps: dict[str, int]
    """Map → images that have it."""
    members: list[str]
    """Files of a sample by extension, of its first and its last shard."""
    issues: dict[str, IssueCount]
    """Items of the sources that were left out, or are not what they seem, by reason."""
    provenance: dict[str, Any]
    """Where the samples are from, as the manifest has it."""


class DatasetReport(View):
    """A data set as `unimrg data inspect` shows it."""

    uri: str
    digest: str
    splits: list[SplitReport]


@dataclass(frozen=True)
class Place:
    """A finished data set in a store."""

    store: ObjectStore
    publication: Publication

    @property
    def uri(self) -> str:
        """Where its splits lie."""
        return join(self.store.uri, self.publication.prefix)

    def manifests(self, split: str | None = None) -> Iterator[Manifest]:
        """Yield the manifests of all splits, or of one. Raises UserError (INPUT_MISSING) for one that is not there."""
        names = self.publication.manifests
        if split is not None and split not in names:
            raise UserError(
                f"the data set at {self.uri} has no split {split!r}",
                remedy=f"choose one of {', '.join(names)}",
                exit_code=ExitCode.INPUT_MISSING,
            )
        for name in names if split is None else [split]:
            yield manifest_of(self.store, self.publication, name)


def locate(target: str) -> list[Place]:
    """Return the data sets that `target` names: those of a job's file, or all in a folder or below a URI.

    A data set's own folder may be named, too. Raises JobError for a job's file that is wrong, UserError (INPUT_MISSING)
    where there is no finished data set.
    """
    path = Path(target)
    if is_job_file(target):
        return _of_job(path)
    if "://" not in target and not path.is_dir():
        raise UserError(
            f"{target} is neither a job's file nor a folder",
            remedy="give the job's YAML file, or the folder or URI that holds the shards (spec.data.shards)",
            exit_code=ExitCode.INPUT_MISSING,
        )
    uri = (resolve_uri(target, Path.cwd()) if "://" in target else path.resolve().as_uri()).rstrip("/")
    parent, _, last = uri.rpartition("/")
    if _FOLDER.fullmatch(last):
        above = open_store(parent)
        found = [Place(above, each) for each in find_publications(above) if each.prefix == last]
        if found:
            return found
    store = open_store(uri)
    places = [Place(store, publication) for publication in find_publications(store)]
    if not places:
        raise UserError(
            f"{store.uri} holds no finished data set",
            remedy="correct the URI, or prepare one: `unimrg data prepare JOB.yaml`",
            exit_code=ExitCode.INPUT_MISSING,
        )
    return places


def describe(place: Place) -> DatasetReport:
    """Describe a data set by its manifests. Raises CorruptDataError where one is damaged."""
    return DatasetReport(
        uri=place.uri, digest=place.publication.digest, splits=[_describe(place, one) for one in place.manifests()]
    )


def verify(place: Place, split: str | None) -> list[Finding]:
    """Read every byte of a data set, or of a split, with a progress bar on standard error; return what is damaged."""
    findings: list[Finding] = []
    manifests: list[Manifest] = []
    for name in place.publication.manifests if split is None else [split]:
        try:
            manifests += place.manifests(name)
        except CorruptDataError as error:
            key = join(place.publication.prefix, name, "manifest.json")
            findings.append(Finding(split=name, object=f"{place.store.uri}/{key}", problem=error.message))
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=sum(shard.length for one in manifests for shard in one.shards))
        for manifest in manifests:
            findings += verify_split(
                place.store, place.publication.prefix, manifest, lambda count: bar.advance(task, count)
            )
    return findings


def damage(findings: list[Finding]) -> UserError | None:
    """The error to end with if something is damaged."""
    if not findings:
        return None
    objects = counted(len({finding.object for finding in findings}), "object")
    samples = counted(len({finding.sample for finding in findings} - {None}), "sample")
    return UserError(
        f"the data is damaged: {objects}, {samples}",
        remedy="restore what is named above from a copy, or delete the data set and prepare it again",
        exit_code=ExitCode.DATA_CORRUPT,
    )


def _of_job(file: Path) -> list[Place]:
    """Return what a job trains on: the data set at each of its prefixes, at the first that of its sources."""
    from unimrg_trainer.job_stores import data_stores, find_data, wanted_digest
    from unimrg_trainer.launch.local import local_environment

    job = load_job(file)
    env = local_environment(job, file, None)
    digest = wanted_digest(job, env)
    stores = data_stores(job, env)
    if digest is not None and published(stores[0], digest) is None:
        raise UserError(
            f"the data of {file} is not prepared yet: {stores[0].uri} holds no data set {folder_of(digest)}",
            remedy=f"prepare it: `unimrg data prepare {file}`, or give the URI of the data that is there",
            exit_code=ExitCode.INPUT_MISSING,
        )
    return [Place(store, found) for store, found in zip(stores, find_data(stores, digest), strict=True)]


def _describe(place: Place, manifest: Manifest) -> SplitReport:
    members: dict[str, None] = {}
    for shard in {shard.name: shard for shard in (*manifest.shards[:1], *manifest.shards[-1:])}.values():
        for entry in read_index(place.store, place.publication.prefix, manifest.split, shard):
            members |= dict.fromkeys(entry.members)
    return SplitReport(
        split=manifest.split,
        samples=manifest.samples,
        images=manifest.images,
        questions=manifest.questions,
        shards=len(manifest.shards),
        bytes=sum(shard.length for shard in manifest.shards),
        maps=manifest.maps,
        members=list(members),
        issues=manifest.issues,
        provenance=manifest.provenance,
    )
