"""The objects of one kind in one namespace as last observed, by name and by an index."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable

from unimrg_operator.kube.client import Object

Change = tuple[Object | None, Object | None]
"""An object before and after; None: it was not, or is not any more."""


class Cache:
    """Safe to use from several threads. The objects are shared with whoever reads them: nobody changes them."""

    def __init__(self, index: Callable[[Object], str] = lambda _: "") -> None:
        """`index` says under which key `by` finds an object."""
        self._index = index
        self._lock = threading.Lock()
        self._objects: dict[str, Object] = {}
        self._names: defaultdict[str, set[str]] = defaultdict(set)

    def get(self, name: str) -> Object | None:
        """Return the object of that name, None if there is none."""
        with self._lock:
            return self._objects.get(name)

    def all(self) -> list[Object]:
        """Return every object."""
        with self._lock:
            return list(self._objects.values())

    def by(self, key: str) -> list[Object]:
        """Return the objects under a key of the index, by name."""
        with self._lock:
            return [self._objects[name] for name in sorted(self._names.get(key, ()))]

    def put(self, item: Object) -> Change:
        """Take in an object."""
        with self._lock:
            return self._put(item), item

    def add(self, item: Object) -> bool:
        """Take in an object unless one of its name is there; tell whether it was taken in."""
        with self._lock:
            if name_of(item) in self._objects:
                return False
            self._put(item)
            return True

    def exchange(self, resource_version: str, item: Object) -> bool:
        """Take in an object where the one of its name is still at that version; tell whether it was.

        So that what one has just written is not forgotten until the watch brings it, and nothing newer is lost.
        """
        with self._lock:
            present = self._objects.get(name_of(item))
            if present is None or version_of(present) != resource_version:
                return False
            self._put(item)
            return True

    def remove(self, name: str) -> Change:
        """Forget an object."""
        with self._lock:
            return self._remove(name), None

    def replace(self, items: Iterable[Object]) -> list[Change]:
        """Hold these objects and no others; return what differs from before, the vanished ones too."""
        with self._lock:
            fresh = {name_of(item): item for item in items}
            changes: list[Change] = [(self._remove(name), None) for name in set(self._objects) - set(fresh)]
            for item in fresh.values():
                before = self._put(item)
                if before is None or version_of(before) != version_of(item):
                    changes.append((before, item))
            return changes

    def _put(self, item: Object) -> Object | None:
        before = self._remove(name_of(item))
        self._objects[name_of(item)] = item
        self._names[self._index(item)].add(name_of(item))
        return before

    def _remove(self, name: str) -> Object | None:
        before = self._objects.pop(name, None)
        if before is not None:
            key = self._index(before)
            self._names[key].discard(name)
            if not self._names[key]:
                del self._names[key]
        return before


def name_of(item: Object) -> str:
    """Return an object's name. Raises KeyError or TypeError for what is no object."""
    return str(item["metadata"]["name"])


def version_of(item: Object) -> str:
    """Return an object's resource version. Raises KeyError or TypeError for what is no object."""
    return str(item["metadata"]["resourceVersion"])


def is_newer(item: Object, resource_version: str) -> bool:
    """Whether an object is newer than a version of its kind's collection; False where versions are no numbers."""
    version = version_of(item)
    if not (version.isdecimal() and resource_version.isdecimal()):
        return False
    return int(version) > int(resource_version)
