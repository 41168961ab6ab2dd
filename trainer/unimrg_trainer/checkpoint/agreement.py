"""How the ranks of a job come to one decision: each gets the values of all.

The checkpoint protocol needs nothing else of a process group. `on_all_ranks` makes any rank's failure everyone's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch.distributed as dist

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.checkpoint.manifest import CheckpointError

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Agreement(Protocol):
    """A group of ranks that call the same methods in the same order."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's value, by rank, on every rank. Values are small: numbers, text, records.

        Raises CheckpointError (COMMUNICATION) if a rank is gone or does not answer.
        """
        ...


class TorchAgreement:
    """Agreement over a gloo group of its own, so that it can run beside the training's collectives.

    The group's time-out is how long a slow rank is waited for.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self.rank = dist.get_rank(group)
        self.world_size = dist.get_world_size(group)

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.world_size
        try:
            dist.all_gather_object(values, value, group=self._group)
        except RuntimeError as error:
            # gloo says the same for a peer that died and for one that is too slow
            raise CheckpointError(
                f"rank {self.rank} lost the connection to the other ranks: {str(error).splitlines()[0]}",
                exit_code=ExitCode.COMMUNICATION,
            ) from error
        return values


@dataclass(frozen=True)
class Failure:
    """Why one rank could not do its part; plain values, so that every rank can report it."""

    message: str
    remedy: str
    exit_code: int


def on_all_ranks(agreement: Agreement, what: str, part: Callable[[], T]) -> list[T]:
    """Run `part` on every rank and return all results, by rank.

    If it raises on any rank, every rank raises the same CheckpointError: it says `what` failed, on which
    ranks and why, with the first one's exit code (PROGRAM for an error that is not a UserError).
    """
    cause: Exception | None = None
    own: tuple[T | None, Failure | None]
    try:
        own = part(), None
    except UserError as error:
        cause, own = error, (None, Failure(error.message, error.remedy, int(error.exit_code)))
    except Exception as error:
        logger.exception("%s failed on rank %d", what, agreement.rank)
        cause, own = error, (None, Failure(f"{type(error).__name__}: {error}", "", int(ExitCode.PROGRAM)))
    parts = agreement.gather(own)
    failures = [(rank, failure) for rank, (_, failure) in enumerate(parts) if failure is not None]
    if failures:
        first = failures[0][1]
        where = "" if agreement.world_size == 1 else "rank {}: "
        raise CheckpointError(
            f"{what} failed: " + "; ".join(where.format(rank) + one.message for rank, one in failures),
            remedy=first.remedy,
            exit_code=ExitCode(first.exit_code),
        ) from cause
    return [value for value, _ in parts]


def on_first_rank(agreement: Agreement, what: str, part: Callable[[], T]) -> T:
    """Run `part` on rank 0 only and return its result on every rank; its failure is everyone's."""
    results: list[Any] = on_all_ranks(agreement, what, part if agreement.rank == 0 else lambda: None)
    result: T = results[0]
    return result
