"""Talks to a cluster's API server with the rights of a kubeconfig: all that the command line asks of one is here.

Whatever goes wrong on the way comes out as an error with a remedy. Credentials are never shown.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client
from kubernetes.config import ConfigException, kube_config

from unimrg_api.cluster import GROUP, PLURAL, TRAINER_CONTAINER, VERSION
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.redaction import clean

CONNECT_TIMEOUT, READ_TIMEOUT = 5, 30
"""Seconds."""
TEXT_LIMIT = 1024
"""Characters of a server's message that are shown."""
MOST_PODS = 64
"""Connections that are kept: one for each log that is followed."""

Object = dict[str, Any]
"""An object of the API as plain JSON values."""


class ServerError(UserError):
    """The API server refused a request. `code` is HTTP's; `status` the Status object, empty where there was none."""

    def __init__(self, message: str, *, remedy: str, exit_code: ExitCode, code: int, status: Object) -> None:
        super().__init__(message, remedy=remedy, exit_code=exit_code)
        self.code = code
        self.status = status


class Cluster:
    """One namespace of a cluster.

    Every method raises UserError: UNAVAILABLE where no answer comes, CREDENTIALS where rights are missing,
    ServerError for other refusals.
    """

    def __init__(self, api: Any, namespace: str) -> None:
        self.namespace = namespace
        self.server = clean(api.configuration.host, TEXT_LIMIT)
        self._objects = client.CustomObjectsApi(api)
        self._core = client.CoreV1Api(api)

    def create_job(self, manifest: Object, *, dry_run: bool) -> Object:
        """Create a UniMRGJob, unknown fields refused; a dry run is checked by the server and not kept."""
        options = {"dry_run": "All"} if dry_run else {}
        return self._ask(
            self._objects.create_namespaced_custom_object,
            *(GROUP, VERSION, self.namespace, PLURAL, manifest),
            field_validation="Strict",
            field_manager="unimrg",
            **options,
        )

    def job(self, name: str) -> Object:
        """Return a UniMRGJob. One that does not exist is a UserError (INPUT_MISSING)."""
        try:
            found = self._ask(self._objects.get_namespaced_custom_object, GROUP, VERSION, self.namespace, PLURAL, name)
        except ServerError as error:
            if error.code == 404 and error.status.get("details", {}).get("name") == name:
                raise UserError(
                    f"there is no UniMRGJob {name} in namespace {self.namespace} of {self.server}",
                    remedy="choose another namespace with -n, or list them: kubectl get unimrgjobs -A",
                    exit_code=ExitCode.INPUT_MISSING,
                ) from None
            raise
        return found

    def jobs(self, labels: Mapping[str, str] | None = None) -> list[Object]:
        """Return the UniMRGJobs of the namespace that carry all of these labels."""
        found = self._ask(
            self._objects.list_namespaced_custom_object,
            *(GROUP, VERSION, self.namespace, PLURAL),
            label_selector=_selector(labels or {}),
        )
        return [item for item in found.get("items") or [] if isinstance(item, dict)]

    def suspend_job(self, name: str, suspend: bool) -> Object:
        """Set `spec.suspend` of a UniMRGJob and nothing else; return the job."""
        patch = {"spec": {"suspend": suspend}}
        place = (GROUP, VERSION, self.namespace, PLURAL, name)
        return self._ask(self._objects.patch_namespaced_custom_object, *place, patch, field_manager="unimrg")

    def delete_job(self, name: str, uid: str) -> None:
        """Delete a UniMRGJob, if it still is the one with this uid; its children go with it."""
        place = (GROUP, VERSION, self.namespace, PLURAL, name)
        self._ask(self._objects.delete_namespaced_custom_object, *place, body={"preconditions": {"uid": uid}})

    def pods(self, labels: Mapping[str, str]) -> list[Object]:
        """Return the pods that carry all of these labels."""
        found = self._ask(self._core.list_namespaced_pod, self.namespace, label_selector=_selector(labels))
        return [item for item in found.get("items") or [] if isinstance(item, dict)]

    def log(self, pod: str, *, follow: bool, tail: int | None) -> Iterator[str]:
        """Yield the lines of the log of a pod's trainer, with their ends; to follow it means until the pod ends."""
        options = {} if tail is None else {"tail_lines": tail}
        with self._explained():
            response = self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=TRAINER_CONTAINER,
                follow=follow,
                _preload_content=False,
                _request_timeout=(CONNECT_TIMEOUT, None if follow else READ_TIMEOUT),
                **options,
            )
            try:
                for line in response:
                    yield line.decode("utf-8", "replace")
            finally:
                response.close()

    def _ask(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Object:
        with self._explained():
            # not parsed into the client's models, which refuse fields of newer servers
            timeout = (CONNECT_TIMEOUT, READ_TIMEOUT)
            response = method(*arguments, _preload_content=False, _request_timeout=timeout, **options)
            answer = _object(response.data)
        if not answer:
            raise self._unavailable("its answer is no JSON object", "check that the address is an API server's")
        return answer

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except client.ApiException as error:
            if not error.status:  # the client's own mark for a failed handshake
                raise self._unreachable(str(error.reason)) from None
            raise self._refusal(int(error.status), error.body or b"") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unreachable(str(error)) from None

    def _refusal(self, code: int, body: bytes | str) -> UserError:
        status = _object(body)
        text = clean(str(status.get("message") or ""), TEXT_LIMIT)
        exit_code = ExitCode.INPUT_MISSING if code == 404 else ExitCode.CONFIGURATION
        if code in (408, 429) or code >= 500:
            exit_code = ExitCode.UNAVAILABLE
        message = f"the API server at {self.server} answers {code}{': ' if text else ''}{text}"
        remedy = "try again in a while" if exit_code is ExitCode.UNAVAILABLE else ""
        if code == 401:
            message = f"the API server at {self.server} rejects these credentials"
            exit_code = ExitCode.CREDENTIALS
            remedy = "log in again, or choose another user of the kubeconfig with --context"
        elif code == 403:
            message, exit_code = f"the API server at {self.server} denies it: {text}", ExitCode.CREDENTIALS
            remedy = f"ask for this right in namespace {self.namespace}, or choose a namespace of yours with -n"
        elif code == 404 and not status:
            message, exit_code = f"the UniMRGJob CRD is not installed at {self.server}", ExitCode.UNAVAILABLE
            remedy = "unimrg crd | kubectl apply -f -"
        return ServerError(message, remedy=remedy, exit_code=exit_code, code=code, status=status)

    def _unreachable(self, reason: str) -> UserError:
        if "CERTIFICATE" in reason.upper() or "hostname" in reason:
            return self._unavailable("its certificate is not trusted", "check certificate-authority in the kubeconfig")
        if "timed out" in reason:
            return self._unavailable("it does not answer in time", "check the network, or try again in a while")
        return self._unavailable(
            clean(reason.rsplit(": ", 1)[-1].strip("'\")( "), TEXT_LIMIT),
            "check that it runs, that this is its address, and the way to it (VPN, proxy)",
        )

    def _unavailable(self, reason: str, remedy: str) -> UserError:
        message = f"the API server at {self.server} cannot be used: {reason}"
        return UserError(message, remedy=remedy, exit_code=ExitCode.UNAVAILABLE)


def connect(namespace: str | None, context: str | None, kubeconfig: Path | None) -> Cluster:
    """Return the cluster that a kubeconfig's context names; nothing is asked of it yet.

    The kubeconfig is the one given, else that of KUBECONFIG, else ~/.kube/config; the namespace is the one given,
    else the context's, else `default`. Raises UserError for a kubeconfig that is missing or wrong.
    """
    files = _kubeconfig_files(kubeconfig)
    settings = client.Configuration()
    settings.retries = False
    settings.connection_pool_maxsize = MOST_PODS
    settings.no_proxy = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")  # the client reads and forgets it
    errors = BufferingHandler(1000)  # the client only logs that a plugin gives no credentials, and goes on without any
    errors.setLevel(logging.ERROR)
    logging.root.addHandler(errors)
    try:
        loader = kube_config.KubeConfigLoader(
            kube_config.KubeConfigMerger(files).config, active_context=context, config_base_path=None
        )
        loader.load_and_set(settings)
        chosen = loader.current_context["context"]
    except Exception as error:
        raise _bad_kubeconfig(files, context, error) from None
    finally:
        logging.root.removeHandler(errors)
    if errors.buffer:
        text = clean("; ".join(record.getMessage() for record in errors.buffer), TEXT_LIMIT)
        raise UserError(
            f"the kubeconfig {files} gives no credentials: {text}",
            remedy="run the command under `exec` of its user by hand, and log in if it asks you to",
            exit_code=ExitCode.CREDENTIALS,
        )
    return Cluster(client.ApiClient(settings), namespace or chosen.get("namespace") or "default")


def _kubeconfig_files(kubeconfig: Path | None) -> str:
    """Return the kubeconfig's file, or several as the client takes them. Raises UserError if there is none."""
    named = str(kubeconfig) if kubeconfig is not None else os.environ.get("KUBECONFIG", "")
    files = named or str(Path.home() / ".kube" / "config")
    if not any(Path(file).expanduser().is_file() for file in files.split(os.pathsep) if file):
        raise UserError(
            f"there is no kubeconfig to reach a cluster with: {files} does not exist",
            remedy="give one with --kubeconfig or the variable KUBECONFIG",
            exit_code=ExitCode.INPUT_MISSING,
        )
    return files


def _bad_kubeconfig(files: str, context: str | None, error: Exception) -> UserError:
    message = f"the kubeconfig {files} cannot be used"
    if isinstance(error, ConfigException):
        text = clean(str(error), TEXT_LIMIT).removeprefix("Invalid kube-config file. ")
        named = f" (context {context})" if context else ""
        remedy = "kubectl config get-contexts" if context else "kubectl config view"
        return UserError(f"{message}{named}: {text}", remedy=f"look at it with `{remedy}`")
    # other messages may quote the file, and there are keys in it
    return UserError(f"{message}: {type(error).__name__}", remedy="look at it with `kubectl config view`")


def _selector(labels: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in labels.items())


def _object(data: bytes | str) -> Object:
    """Return the JSON object that an answer holds; empty if it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
