"""Agreement to stop: a signal that reaches one rank ends the loop of all ranks at the same step."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.distributed as dist


class StopFlag(Protocol):
    """Set from a signal handler (launch/signals.py)."""

    @property
    def requested(self) -> bool: ...


class StopAgreement:
    """Combines the ranks' flags, one step late, so that no step waits for the answer.

    `ask` starts a small all-reduce on the host group; the answer is taken by the next call.
    """

    def __init__(self, flag: StopFlag, group: dist.ProcessGroup) -> None:
        self._flag = flag
        self._group = group
        self._pending: tuple[dist.Work, torch.Tensor] | None = None

    def ask(self) -> bool:
        """True if any rank had been asked to stop when all ranks last called; a collective call."""
        answer = self.answer()
        vote = torch.tensor([int(self._flag.requested)])
        work = dist.all_reduce(vote, dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._pending = (work, vote)
        return answer

    def answer(self) -> bool:
        """Wait for the vote under way, if any."""
        if self._pending is None:
            return False
        work, vote = self._pending
        work.wait()
        self._pending = None
        return bool(vote)
