"""The site profile: what depends on the cluster and not on the experiment, in one small file of its administrator."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from unimrg_api.errors import JobError, UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.explain import Finding, closest, show, to_problem
from unimrg_api.fields import RULE_ERROR, Spec, Violation
from unimrg_api.introspection import Location, View, fields_of, view_at
from unimrg_api.load import parse_location, value_at
from unimrg_api.spec_platform import OBJECT_NAME_PATTERN
from unimrg_api.yaml_source import read_yaml

_LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
_LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"

Cpu = Annotated[
    str, Field(pattern=r"^([1-9][0-9]{0,3}(\.[0-9]{1,3})?|0\.[0-9]{0,2}[1-9]|[1-9][0-9]{0,6}m)$", max_length=16)
]
Bytes = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5}(\.[0-9]{1,3})?(M|G|T|Mi|Gi|Ti)$", max_length=16)]
ObjectName = Annotated[str, Field(pattern=OBJECT_NAME_PATTERN, max_length=253)]
LabelKey = Annotated[str, Field(pattern=_LABEL_KEY, max_length=317)]
LabelValue = Annotated[str, Field(pattern=_LABEL_VALUE, max_length=63)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=253)]

_SET_BY_US = re.compile(
    r"(UNIMRG|PET|MASTER|TORCHELASTIC)_.*|RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|GROUP_RANK|NODE_RANK|HOME|USER"
)
_SECRET = re.compile(
    r"(?i)AWS_(ACCESS|SECRET|SESSION).*|MLFLOW_TRACKING_USERNAME|(.*_)?(TOKEN|PASSWORD|SECRET|API_KEY)"
)


class Toleration(Spec):
    """A taint that GPU pods put up with."""

    key: LabelKey | None = None
    """Key of the taint. Absent, with operator Exists: every key."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Whether the taint's value has to be `value` (Equal) or may be any (Exists)."""
    value: LabelValue | None = None
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint. Absent: every effect."""

    def violations(self) -> Iterator[Violation]:
        """A value belongs to Equal, and so does a key."""
        if self.operator == "Exists" and self.value:
            message = "a toleration with operator Exists takes no value"
            yield Violation("value", message, "take it out, or use operator: Equal", frozenset({"value", "operator"}))
        if self.operator == "Equal" and self.key is None:
            message = "a toleration with operator Equal needs the taint's key"
            yield Violation("key", message, "name it, or use operator: Exists", frozenset({"key", "operator"}))


class PodResources(Spec):
    """What one pod asks for, and at the same time the most that it gets.

    A limit on CPUs makes the number of threads the same on every node, and bit-exact resume needs that.
    """

    cpu: Cpu
    """CPU cores, as a text: "8", "0.5" or "500m"."""
    memory: Bytes
    """Memory, as a text with a unit: "900Gi". What lies in /dev/shm counts."""


class ResourcesSpec(Spec):
    """What pods ask for, by what they do."""

    gpu_pod: PodResources = PodResources(cpu="16", memory="128Gi")
    """Pods that train or evaluate on GPUs."""
    cpu_pod: PodResources = PodResources(cpu="2", memory="4Gi")
    """Pods that prepare data, and those that train or evaluate without GPUs."""
    small_pod: PodResources = PodResources(cpu="1", memory="1Gi")
    """Pods that check a job or finish it."""


class SiteProfile(Spec):
    """What depends on the cluster and not on the experiment. Every field has a default."""

    backend: Annotated[str, Field(pattern=OBJECT_NAME_PATTERN, max_length=63)] = "pytorchjob"
    """What makes the pods of a training: pytorchjob, or an entry point of the group unimrg.backends."""
    image: Annotated[str, Field(pattern=r"^[!-~]+$", max_length=512)] | None = None
    """Image of jobs that name none."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When nodes pull it."""
    image_pull_secrets: Annotated[list[ObjectName], Field(max_length=8)] = Field(default=[])
    """Names of the Secrets, in the jobs' namespace, with which images are pulled."""
    gpu_resource: Annotated[str, Field(pattern=_LABEL_KEY, max_length=253)] = "nvidia.com/gpu"
    """What the cluster calls a GPU."""
    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=16)] = Field(default={})
    """Labels of the nodes for GPU pods."""
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = Field(default=[])
    """Taints of the nodes for GPU pods."""
    resources: ResourcesSpec = ResourcesSpec()
    """CPUs and memory of a pod."""
    shared_memory: Bytes = "64Gi"
    """Most that lies in /dev/shm; never more than the pod's memory."""
    cache_size: Bytes = "50Gi"
    """Most that lies in /cache: weights, decoded data."""
    environment: Annotated[dict[VariableName, Annotated[str, Field(max_length=4096)]], Field(max_length=64)] = Field(
        default={}
    )
    """Further environment variables of every pod, e.g. NCCL_SOCKET_IFNAME. No secrets."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of every pod."""

    def violations(self) -> Iterator[Violation]:
        """No variable is one that the operator or a Secret sets."""
        for name in self.environment:
            path = f"environment.{name}"
            if _SET_BY_US.fullmatch(name):
                yield Violation(path, f"{name} is set by the operator", "take it out", frozenset({path}))
            elif _SECRET.fullmatch(name):
                remedy = "put it into a Secret that the job names in spec.storage or spec.tracking.mlflow"
                yield Violation(path, f"{name} is a secret, and this file is not", remedy, frozenset({path}))


def load_profile(path: Path | None) -> SiteProfile:
    """Read a profile from a YAML (or JSON) file; None, or a file without content, is the profile of defaults.

    Raises UserError: JobError with all problems, each with its line and column; exit code INPUT_MISSING where
    the file cannot be read.
    """
    if path is None:
        return SiteProfile()
    try:
        data = path.read_bytes()
    except OSError as error:
        message = f"the site profile {path} cannot be read: {error.strerror or error}"
        raise UserError(message, remedy="check its path", exit_code=ExitCode.INPUT_MISSING) from None
    if all(line.split(b"#")[0].strip() in (b"", b"---") for line in data.splitlines()):
        return SiteProfile()
    document = read_yaml(data)
    if document.problems:
        raise JobError(document.problems, source=str(path))
    try:
        return SiteProfile.model_validate(document.value, by_alias=True, by_name=False)
    except ValidationError as error:
        findings = _findings(error, document.value)
        raise JobError([to_problem(finding, document.positions) for finding in findings], source=str(path)) from None


def _findings(error: ValidationError, document: Any) -> Iterator[Finding]:
    for item in error.errors(include_url=False):
        location: Location = item["loc"]
        if item["type"] == RULE_ERROR:
            for violation in item["ctx"]["violations"]:
                place = (*location, *parse_location(violation.path))
                shown = None if location == () else value_at(document, place)  # a variable may hold a secret
                yield Finding(place, shown, violation.message, violation.remedy, at_key=True, absent=shown is None)
        elif item["type"] == "missing":
            remedy = f"add it: {_description(location)}"
            yield Finding(location, None, "the field is missing, and there is no default for it", remedy, absent=True)
        elif item["type"] == "extra_forbidden":
            yield _unknown(location)
        elif location[-1:] == ("[key]",):  # pydantic's mark that a key is wrong, not its value
            message = f"{show(location[-2])} is not a possible name here"
            yield Finding(location[:-1], None, message, _description(location[:-2]), at_key=True, absent=True)
        else:
            yield _wrong(location, item["type"], item["input"], item["msg"])


def _unknown(location: Location) -> Finding:
    parent = view_at(SiteProfile, location[:-1])
    known = list(fields_of(parent.model)) if parent is not None and parent.model is not None else []
    guess = closest(str(location[-1]), known)
    remedy = f"did you mean {guess}?" if guess is not None else f"known fields here: {', '.join(known)}"
    message = f"there is no field {str(location[-1])!r} here"
    return Finding(location, None, message, remedy, at_key=True, absent=True)


def _wrong(location: Location, kind: str, value: Any, text: str) -> Finding:
    """Explain a value of the wrong form; `kind` and `text` are pydantic's type and message."""
    view = view_at(SiteProfile, location) or View("text")
    remedy = _description(location)
    if value is None:
        return Finding(location, None, "the field has no value (null)", "give it one, or leave it out", absent=True)
    if view.kind == "text" and kind == "string_type":
        number = isinstance(value, int | float) and not isinstance(value, bool)
        message = f"must be a text, not {'a number' if number else 'something else'}"
        remedy = f'write it in quotes: "{value}"' if number else remedy
    elif view.kind == "choice":
        message, remedy = "is not one of the values that are known", f"write one of: {', '.join(view.choices)}"
    elif view.kind == "model":
        message, remedy = "must hold fields", f"put fields below it: {', '.join(fields_of(view.model or SiteProfile))}"
    elif kind == "string_pattern_mismatch":
        message = "does not have the form that is wanted"
    else:
        message = text[:1].lower() + text[1:]
    return Finding(location, value, message, remedy)


def _description(location: Location) -> str:
    """What the field at a place, or the one around it, says about itself."""
    for end in range(len(location), 0, -1):
        view = view_at(SiteProfile, location[:end])
        if view is not None and view.description:
            return view.description[:1].lower() + view.description[1:].rstrip(".")
    return "see the example in examples/site-profile.yaml"
