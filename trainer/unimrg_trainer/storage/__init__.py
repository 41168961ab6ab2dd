"""Objects by key, in a folder or a bucket: the only way in which the trainer keeps or reads anything that lasts."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from unimrg_api.errors import UserError
from unimrg_api.spec_platform import StorageSpec
from unimrg_trainer.storage.base import ObjectStore
from unimrg_trainer.storage.local import LocalStore

__all__ = ["LocalStore", "ObjectStore", "open_store"]


def open_store(uri: str, storage: StorageSpec | None = None) -> ObjectStore:
    """Open the store rooted at an absolute `file:///…` or at an `s3://…` URI; nothing is created or asked for yet.

    `storage` says how `s3://` is spoken to; without it the environment does. Raises UserError (CONFIGURATION) for
    another scheme or a relative path.
    """
    scheme, separator, place = uri.partition("://")
    if separator and scheme == "file" and place.startswith("/"):
        return LocalStore(Path(unquote(place, errors="surrogateescape")))
    if scheme == "file":
        raise UserError(f"{uri} is not absolute", remedy="write file:/// and the whole path")
    if separator and scheme == "s3":
        from unimrg_trainer.storage.s3 import S3Store  # boto3 takes a while, and folders need none of it

        return S3Store(uri, storage)
    raise UserError(f"{uri} does not name a store", remedy="use file:///… or s3://BUCKET/PREFIX")
