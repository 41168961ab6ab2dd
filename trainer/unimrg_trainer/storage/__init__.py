"""Objects by key, in a folder today: the only way in which the trainer keeps or reads anything that lasts."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from unimrg_api.errors import UserError
from unimrg_trainer.storage.base import ObjectStore
from unimrg_trainer.storage.local import LocalStore

__all__ = ["LocalStore", "ObjectStore", "open_store"]


def open_store(uri: str) -> ObjectStore:
    """Open the store rooted at an absolute `file:///…` URI; nothing is created before the first write.

    Raises UserError (CONFIGURATION) for another scheme or a relative path.
    """
    scheme, separator, place = uri.partition("://")
    if separator and scheme == "file" and place.startswith("/"):
        return LocalStore(Path(unquote(place)))
    if scheme == "file":
        raise UserError(f"{uri} is not absolute", remedy="write file:/// and the whole path")
    if separator and scheme == "s3":
        raise UserError(
            f"{uri}: this version has no S3 client and keeps objects in folders only",
            remedy="use file:///…, on a cluster under a volume that all pods mount",
        )
    raise UserError(f"{uri} does not name a store", remedy="use file:///…")
