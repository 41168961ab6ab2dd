"""The nodes of the cluster, where the operator may see them (`--watch-nodes`): ready or not, and since when.

An optional right on the whole cluster. Without it, or while the watch is not in step, no node is known, and what is
decided rests on pods alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from unimrg_operator.app.first_seen import FirstSeen
from unimrg_operator.app.observe import observe_node
from unimrg_operator.backends.base import Resource
from unimrg_operator.core.observation import Node
from unimrg_operator.kube.cache import Change
from unimrg_operator.kube.client import Client, Object
from unimrg_operator.kube.reflector import Reflector

NODES = Resource("", "v1", "nodes", "Node")


class Nodes:
    """A cache of all nodes. `changed` is called with the name of a node that became ready, or is not any more."""

    def __init__(
        self, client: Client, changed: Callable[[str], object], *, clock: Callable[[], float] = time.time
    ) -> None:
        self.reflector = Reflector(client, NODES, "", self._tell, prune=prune_node)
        self._changed = changed
        self._clock = clock
        self._seen = FirstSeen()

    def start(self) -> None:
        """Begin to list and watch, until the process ends."""
        threading.Thread(target=self.reflector.run, name=str(self.reflector), daemon=True).start()

    def of(self, names: Collection[str | None]) -> tuple[Node, ...]:
        """Return the nodes of these names that are known.

        A state is as old as it was seen without a gap: what was last seen before an outage is no evidence after it.
        """
        if not self.reflector.synced:
            self._seen = FirstSeen()
            return ()
        items = [self.reflector.cache.get(name) for name in sorted({name for name in names if name})]
        nodes = [observe_node(item) for item in items if item is not None]
        now = self._clock()
        return tuple(
            replace(node, seen_since=self._seen.of(f"{node.name} {node.ready} {node.since}", now)) for node in nodes
        )

    def _tell(self, change: Change) -> None:
        before, after = (None if item is None else observe_node(item) for item in change)
        node = after or before
        if node is not None and before != after:
            self._changed(node.name)


def prune_node(item: Object) -> Object:
    """Keep of a node its name, its version and its condition Ready, without the time of each heartbeat."""
    metadata = item["metadata"]
    conditions = item.get("status", {}).get("conditions") or []
    ready = [{**entry, "lastHeartbeatTime": None} for entry in conditions if entry.get("type") == "Ready"]
    return {"metadata": {key: metadata[key] for key in ("name", "resourceVersion")}, "status": {"conditions": ready}}
