"""Which prepared data sets a store holds: each is published by one marker, put last and never overwritten.

<first 16 digits of the digest>/PUBLISHED     JSON: digest, folder, sha256 of every split's manifest
<first 16 digits of the digest>/<split>/…     manifest, shards, indices
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.data.shards import CorruptDataError, join
from unimrg_trainer.storage.base import NotFound, ObjectStore, put_once

SPLITS = ("train", "heldOut", "preview")

_MARKER = "PUBLISHED"


class Publication(BaseModel):
    """A complete data set. `prefix` holds its splits; `manifests` maps split → sha256 of its manifest."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    digest: str
    prefix: str
    manifests: dict[str, str]


def folder_of(digest: str) -> str:
    """Return the folder of a data set within a store."""
    return digest[:16]


def published(store: ObjectStore, digest: str) -> Publication | None:
    """Return the published data set of that digest, or None. Raises CorruptDataError for a broken marker."""
    return _read_marker(store, join(folder_of(digest), _MARKER))


def publish(store: ObjectStore, publication: Publication) -> None:
    """Publish a data set; several writers may do so. Raises CorruptDataError if another one has its digest."""
    key = join(folder_of(publication.digest), _MARKER)
    if not put_once(store, key, publication.model_dump_json().encode()) and _read_marker(store, key) != publication:
        raise CorruptDataError(
            f"{store.uri}/{key} is the marker of other shards under the same digest",
            remedy="delete this data set and prepare it again; a source of a package must not depend on chance",
        )


def find_publication(store: ObjectStore, digest: str | None = None) -> Publication:
    """Return the data set of that digest, or, without one, the only data set of the store.

    Raises UserError (INPUT_MISSING) if there is none, or if several could be meant.
    """
    if digest is not None:
        found = published(store, digest)
        if found is None:
            raise _absent(f"{store.uri} holds no finished data set {folder_of(digest)}")
        return found
    known = find_publications(store)
    if len(known) > 1:
        names = ", ".join(each.prefix for each in known)
        raise _absent(
            f"{store.uri} holds several data sets ({names}), and the job does not say which",
            "set spec.data.sources to those of the one you mean, or point spec.data.shards at a prefix with one",
        )
    if not known:
        raise _absent(f"{store.uri} holds no finished data set")
    return known[0]


def find_publications(store: ObjectStore) -> list[Publication]:
    """Return every finished data set of a store, by its folder. Raises CorruptDataError for a broken marker."""
    found = (_read_marker(store, join(folder, _MARKER)) for folder in store.folders())
    return [publication for publication in found if publication is not None]


def _read_marker(store: ObjectStore, key: str) -> Publication | None:
    try:
        content = store.get(key)
    except NotFound:
        return None
    try:
        return Publication.model_validate_json(content)
    except ValidationError as error:
        raise CorruptDataError(
            f"the marker {store.uri}/{key} is {'empty' if not content else 'not what was written'}",
            remedy="delete the marker and prepare the data again",
        ) from error


def _absent(message: str, remedy: str = "") -> UserError:
    return UserError(
        message,
        remedy=remedy or "set spec.data.sources so that it is prepared, or correct spec.data.shards",
        exit_code=ExitCode.INPUT_MISSING,
    )
