"""A thin transport to an API server: plain JSON in and out, every call with a time-out, errors as classes.

It stands on the official client's configuration and connection pool (kubeconfig, service account, token
rotation, TLS), and on nothing else of it: its models cost memory, its watch loses events and it repeats requests
that were already carried out.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import urllib3
from kubernetes.client import ApiClient, Configuration
from kubernetes.config import ConfigException, load_incluster_config
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError

from unimrg_operator.kube.errors import ConfigurationError, NotLeading, Unavailable, error_of
from unimrg_operator.kube.throttle import Priority

Object = dict[str, Any]
"""A Kubernetes object as plain JSON values."""

CONNECT_SECONDS = 5.0
REQUEST_SECONDS = 30.0
"""Longest silence of the API server in an ordinary request."""
SILENCE_MARGIN_SECONDS = 10.0
"""Added to a watch's own duration: a server that is silent for longer is dead."""
PAGE_SIZE = 200
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_ERROR_BYTES = 65536
_CHUNK_BYTES = 65536


class Resource(Protocol):
    """How the API addresses a kind of object. The core group is the empty string."""

    @property
    def group(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def plural(self) -> str: ...
    @property
    def kind(self) -> str: ...


class Watch:
    """The lines of one watch request as they come; closing it from another thread ends the iteration."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        """Yield whole lines without their end. What was cut off is yielded last, as it is.

        Raises Unavailable if the stream breaks or is silent for too long.
        """
        rest = b""
        try:
            for chunk in self._response.stream(_CHUNK_BYTES):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line for line in lines if line)
        except (HTTPError, OSError) as error:
            raise _unreachable(error) from error
        if rest:
            yield rest

    def interrupt(self) -> None:
        """Make an iteration in another thread end soon."""
        with contextlib.suppress(ValueError, RuntimeError, OSError):  # it has ended by itself
            self._response.shutdown()

    def close(self) -> None:
        """Give up the connection: a watch that was left early cannot be used for anything else."""
        self._response.close()


class Client:
    """Talks to one API server. Safe to use from several threads."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        pool_size: int = 32,
        silence_margin: float = SILENCE_MARGIN_SECONDS,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        """`pool_size` is how many connections are kept: watches and workers together.

        `request_seconds` is the longest silence of the API server in an ordinary request.
        """
        configuration.connection_pool_maxsize = pool_size
        # The official client reads the proxy's address from the environment and forgets what is exempt from it.
        configuration.no_proxy = os.environ.get("NO_PROXY") or os.environ.get("no_proxy")
        self._silence_margin = silence_margin
        self._request_seconds = request_seconds
        self._wait: Callable[[Priority], object] = lambda _: None
        self._may_write: Callable[[], bool] = lambda: True
        self._api = ApiClient(configuration, pool_threads=1)
        self._host = str(configuration.host).rstrip("/")
        self._pool: urllib3.PoolManager = self._api.rest_client.pool_manager
        self._pool.connection_pool_kw["socket_options"] = _socket_options()

    @classmethod
    def from_environment(
        cls,
        kubeconfig: Path | None = None,
        context: str | None = None,
        *,
        pool_size: int = 32,
        request_seconds: float = REQUEST_SECONDS,
    ) -> Client:
        """Connect as a kubeconfig says (the argument, else KUBECONFIG), else as the pod's service account.

        Raises ConfigurationError where none of them can be used.
        """
        configuration = Configuration()
        path = str(kubeconfig) if kubeconfig is not None else os.environ.get("KUBECONFIG", "")
        if context is not None and not path:
            raise ConfigurationError(f"a context ({context}) needs a kubeconfig, and none was given")
        try:
            if path:
                from kubernetes.config import load_kube_config  # with OAuth and all else that no pod needs

                load_kube_config(path, context, client_configuration=configuration, persist_config=False)
            else:
                load_incluster_config(client_configuration=configuration)
        except Exception as error:  # a file that is no kubeconfig makes the loader raise whatever it stumbles over
            where = f"the kubeconfig {path}" if path else "the service account of this pod"
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConfigurationError(f"{where} cannot be used: {reason}") from error
        return cls(configuration, pool_size=pool_size, request_seconds=request_seconds)

    @property
    def host(self) -> str:
        """Address of the API server."""
        return self._host

    def guard_writes(self, wait: Callable[[Priority], object], may_write: Callable[[], bool]) -> None:
        """Have every write wait for its turn, and then be sent only if it may be; else it raises NotLeading."""
        self._wait, self._may_write = wait, may_write

    def pages(
        self, resource: Resource, namespace: str, *, label_selector: str = "", field_selector: str = ""
    ) -> Iterator[Object]:
        """Yield the objects of a kind, page by page, as the list objects that the API server sends."""
        query = {"labelSelector": label_selector, "fieldSelector": field_selector, "limit": str(PAGE_SIZE)}
        while True:
            page = self._request("GET", _path(resource, namespace), query=query)
            yield page
            metadata = page.get("metadata")
            query["continue"] = str(metadata.get("continue") or "") if isinstance(metadata, dict) else ""
            if not query["continue"]:
                return

    def watch(
        self, resource: Resource, namespace: str, *, resource_version: str, seconds: int, label_selector: str = ""
    ) -> Watch:
        """Open a watch from a resource version that the server ends after `seconds`, with bookmarks."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(seconds),
            "labelSelector": label_selector,
        }
        path = _path(resource, namespace)
        return Watch(self._send("GET", path, query=query, read_seconds=seconds + self._silence_margin))

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """Return one object. Raises NotFound."""
        return self._request("GET", _path(resource, namespace, name))

    def create(self, resource: Resource, namespace: str, body: Object) -> Object:
        """Create an object and return it. Raises AlreadyExists, also where the reply to an earlier try was lost."""
        priority = Priority.EVENT if resource.kind == "Event" else Priority.ACTION
        return self._request("POST", _path(resource, namespace), body=body, priority=priority)

    def update(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        """Replace an object by `body`, which bears the version that it replaces, and return it.

        Raises Conflict if the object has changed since, NotFound if it is gone.
        """
        return self._request("PUT", _path(resource, namespace, name), body=body)

    def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str, grace_seconds: int | None = None
    ) -> None:
        """Delete the object of that name if it still has that uid; what it owns goes in the background.

        Raises NotFound, or Conflict for an object with another uid.
        """
        body: Object = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Background",
        }
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        self._request("DELETE", _path(resource, namespace, name), body=body)

    def patch_status(
        self, resource: Resource, namespace: str, name: str, status: Object, *, resource_version: str
    ) -> Object:
        """Merge `status` into the object's status if it is still at that version, and return the object.

        Raises Conflict if it has changed since, NotFound if it is gone.
        """
        body = {"metadata": {"resourceVersion": resource_version}, "status": status}
        path = f"{_path(resource, namespace, name)}/status"
        content_type = "application/merge-patch+json"
        return self._request("PATCH", path, body=body, content_type=content_type, priority=Priority.STATUS)

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._pool.clear()

    def _request(self, method: str, path: str, **options: Any) -> Object:
        """Return the object that answers a request; `options` are those of `_send`."""
        response = self._send(method, path, **options)
        try:
            content = json.loads(response.data)
        except (HTTPError, OSError) as error:
            raise _unreachable(error) from error
        except ValueError:
            content = None
        finally:
            response.release_conn()
        if not isinstance(content, dict):
            raise Unavailable(0, "Unreadable", f"the answer to {method} {path} is no JSON object")
        return content

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
        read_seconds: float | None = None,
        priority: Priority = Priority.ACTION,
    ) -> urllib3.BaseHTTPResponse:
        """Return the answer with its body unread. Raises ApiError for any but a good one."""
        if method != "GET":
            self._wait(priority)
            if not self._may_write():
                raise NotLeading(0, "NotLeading", "this replica does not lead (any more), so it writes nothing")
        headers = {"Accept": "application/json", "User-Agent": "unimrg-operator"}
        if body is not None:
            headers["Content-Type"] = content_type
        wanted = {key: value for key, value in (query or {}).items() if value}
        url = f"{self._host}{path}" + (f"?{urlencode(wanted)}" if wanted else "")
        try:
            self._api.update_params_for_auth(headers, [], ["BearerToken"])  # re-reads a token that rotates
            response = self._pool.request(
                method,
                url,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds or self._request_seconds),
                # Not even after a lost connection: the request may have been carried out.
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except (HTTPError, OSError, ConfigException) as error:
            raise _unreachable(error) from error
        if 200 <= response.status <= 299:
            return response
        content = b""
        with contextlib.closing(response), contextlib.suppress(HTTPError, OSError):
            content = response.read(_ERROR_BYTES)
        raise error_of(response.status, content, response.headers)


def own_namespace() -> str | None:
    """Return the namespace of the pod that this process runs in; None outside of a pod."""
    try:
        return _NAMESPACE_FILE.read_text().strip() or None
    except OSError:
        return None


def _path(resource: Resource, namespace: str, name: str = "") -> str:
    root = f"/apis/{resource.group}" if resource.group else "/api"
    path = f"{root}/{resource.version}/namespaces/{quote(namespace, safe='')}/{resource.plural}"
    return f"{path}/{quote(name, safe='')}" if name else path


def _unreachable(error: Exception) -> Unavailable:
    return Unavailable(0, type(error).__name__, f"no answer from the API server: {error}")


def _socket_options() -> list[Any]:
    """Let the kernel notice within a minute that the other side of a silent watch is gone."""
    tcp = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}
    keep_alive = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return [
        *HTTPConnection.default_socket_options,
        keep_alive,
        *((socket.IPPROTO_TCP, option, value) for option, value in tcp.items()),
    ]
