"""Host memory that ran out: the limit, where it was set, and what to write there."""

from __future__ import annotations

import re

from unimrg_api.exit_codes import ExitCode
from unimrg_api.job import UniMRGJob
from unimrg_api.stages import Stage
from unimrg_operator.core.observation import Pod, Terminated
from unimrg_operator.core.trouble.finding import size_field

_QUANTITY = re.compile(r"(\d+)(?:\.\d+)?([KMGT]i?)?")


def is_out_of_memory(end: Terminated) -> bool:
    """Whether host memory ran out, as reported by the kernel or, where only a rank was killed, by the launcher."""
    reported = end.reason == "OOMKilled" or end.record.reason == "OutOfMemory"
    return end.exit_code == ExitCode.KILLED and reported


def memory_remedy(pod: Pod, definition: Stage, job: UniMRGJob) -> str:
    """Return the memory limit that a pod reached, the field that holds it, and a larger value to write there."""
    field = f"{size_field(definition, job)}.memory"
    smaller = ", or lower spec.training.batch.microBatchRows" if definition.distributed else ""
    if not pod.memory_limit:
        return f"; the node ran out of memory: set {field} in the site profile{smaller}"
    amount = _QUANTITY.fullmatch(pod.memory_limit)
    larger = f", e.g. to {2 * int(amount[1])}{amount[2] or ''}" if amount else ""
    return f" at the limit of {pod.memory_limit} ({field} in the site profile): raise it{larger}{smaller}"
