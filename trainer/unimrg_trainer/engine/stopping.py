"""Agreement to stop: a signal that reaches one rank ends the loop of all ranks at the same step."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.distributed as dist


class StopFlag(Protocol):
    """Set from a signal handler (launch/signals.py)."""

    @property
    def requested(self) -> bool: ...


class CollectiveStopFlag:
    """Combines the ranks' flags with an asynchronous all-reduce on a gloo process group, read a step later."""

    def __init__(self, flag: StopFlag, group: dist.ProcessGroup) -> None:
        self._flag = flag
        self._group = group
        self._pending: tuple[dist.Work, torch.Tensor] | None = None
        self.agreed = False
        """Whether a call has returned that a rank's flag was set: the same on every rank."""

    def poll(self) -> bool:
        """Start an all-reduce of the flags; return whether any rank's was set at the last call. A collective call."""
        previous = self.wait_pending()
        flag = torch.tensor([int(self._flag.requested)])
        work = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._pending = (work, flag)
        return previous

    def wait_pending(self) -> bool:
        """Wait for the pending all-reduce, if any, and return its result."""
        if self._pending is None:
            return False
        work, flag = self._pending
        work.wait()
        self._pending = None
        self.agreed = self.agreed or bool(flag)
        return bool(flag)
