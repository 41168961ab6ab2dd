"""Checks on the installed versions that each strategy trains as one process would: equal weights, or an error.

A small model with all that a strategy could get wrong (frozen parameters, a module used twice in a forward, rows that
do not divide among ranks, recomputed blocks) takes a few steps on the ranks of this process group, and beside it, in
plain PyTorch on every rank alone, with the rows of all ranks in one batch. The weights must agree.
"""

from __future__ import annotations

import importlib.metadata
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.spec_platform import StrategyName
from unimrg_trainer.checkpoint.state import LocalState, Piece, TensorInfo
from unimrg_trainer.engine.recompute import recompute_activations
from unimrg_trainer.engine.strategies.base import Strategy
from unimrg_trainer.engine.strategies.choose import build_strategy
from unimrg_trainer.faults import fault_of

logger = logging.getLogger(__name__)

KNOWN_GOOD = {"torch": ("2.13.0",), "deepspeed": ("0.19.8",)}
"""Versions on which the whole matrix passes in the tests; elsewhere a job checks its strategy before it trains."""

TOLERANCE = 1e-6
"""Largest difference of a weight of order one after `STEPS` steps in float32: sums are rounded in other orders."""

STEPS = 4
SKIPPED = 1
"""Step that is skipped, as by the numeric guard."""
CLIP_NORM = 0.5
WIDTH = 6


@dataclass(frozen=True)
class Pattern:
    """How a step uses the model. Each is one forward and one backward per micro-step, as in the training loop."""

    encoder_uses: int = 1
    """How often a module is used in one forward."""
    recompute: bool = False
    """Whether blocks are recomputed in the backward (non-reentrant checkpoints)."""
    micro_steps: int = 1

    def __str__(self) -> str:
        parts = [f"module used {self.encoder_uses}×", f"{self.micro_steps} micro-step(s)"]
        return ", ".join([*parts, "blocks recomputed"] if self.recompute else parts)


PATTERNS = [Pattern(*values) for values in product((1, 2), (False, True), (1, 2))]

HARDEST = Pattern(encoder_uses=2, recompute=True, micro_steps=2)


@dataclass(frozen=True)
class Outcome:
    """One cell of the matrix."""

    strategy: StrategyName
    case: str
    error: float
    """Largest difference of a weight from the oracle's; NaN if they are not comparable."""

    @property
    def passed(self) -> bool:
        return self.error <= TOLERANCE


class Block(nn.Module):
    """A residual block; its feed-forward network has the name that `recompute_activations` looks for."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 5), nn.GELU(), nn.Linear(5, WIDTH))

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = hidden + self.mlp(self.norm(hidden))
        return out


class CheckModel(nn.Module):
    """Rows [rows, 2, WIDTH], whose first number says which head they are for → each row's loss [rows]."""

    def __init__(self, pattern: Pattern) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.uses = pattern.encoder_uses
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.encoder = nn.Sequential(nn.Linear(WIDTH, 7), nn.Tanh(), nn.Linear(7, WIDTH))
        self.query = nn.Parameter(torch.randn(1, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.heads = nn.ModuleDict({"text": nn.Linear(WIDTH, 3), "image": nn.Linear(WIDTH, 2)})
        if pattern.recompute:
            recompute_activations(self, "Blocks")

    def forward(self, rows: Tensor) -> Tensor:
        hidden = self.encoder(self.frozen(rows[:, 0])) + self.query
        for block in self.blocks:
            hidden = block(hidden)
        if self.uses > 1:
            hidden = hidden + self.encoder(rows[:, 1])
        losses = [self.heads[name](hidden).square().sum(-1) for name in ("text", "image")]
        own: Tensor = torch.where(rows[:, 0, 0] > 0, losses[0], losses[1])
        return own


def make_optimizer(module: nn.Module) -> torch.optim.AdamW:
    """AdamW with two groups; the epsilon keeps rounding from being divided by a vanishing second moment."""
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for parameter in module.parameters():
        if parameter.requires_grad:
            groups[parameter.ndim > 1].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": 0.1, "rate_scale": 1.0},
            {"params": groups[False], "weight_decay": 0.0, "rate_scale": 1.0},
        ],
        lr=0.0,
        betas=(0.9, 0.95),
        eps=1e-4,
        fused=True,
    )


def _rate(step: int) -> float:
    return 0.01 * (step + 1)


def _rows(step: int, world_size: int) -> Tensor:
    """All ranks' rows of a step, [rows, 2, WIDTH], and as many for worlds of 1, 2 and 4."""
    generator = torch.Generator().manual_seed(100 + step)
    return torch.randn(2 * math.lcm(4, world_size), 2, WIDTH, generator=generator)


def oracle(pattern: Pattern, steps: int, world_size: int) -> dict[str, Tensor]:
    """Return the weights after `steps` steps of one process that has every rank's rows, in plain PyTorch."""
    model = CheckModel(Pattern(pattern.encoder_uses))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if parameter.ndim > 1]
    others = [parameter for parameter in trained if parameter.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        eps=1e-4,
        foreach=False,
    )
    for step in range(steps):
        if step == SKIPPED:
            for state in optimizer.state.values():
                state["step"] += 1
            continue
        model(_rows(step, world_size)).mean().backward()
        norm = math.sqrt(
            sum(float(parameter.grad.square().sum()) for parameter in trained if parameter.grad is not None)
        )
        for parameter in trained:
            assert parameter.grad is not None
            parameter.grad *= min(1.0, CLIP_NORM / (norm + 1e-6))
        for group in optimizer.param_groups:
            group["lr"] = _rate(step)
        optimizer.step()
        optimizer.zero_grad()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def build(name: StrategyName, pattern: Pattern, device: torch.device) -> Strategy:
    """Wrap the model. Ranks other than 0 begin with other weights, as in a job that reads published ones."""
    model = CheckModel(pattern)
    if dist.get_rank():
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
    return build_strategy(name, model, make_optimizer, "FP32", device)


def train(strategy: Strategy, pattern: Pattern, first: int, last: int) -> None:
    """Take the steps from `first` until `last`, after a dry run as the training loop does one.

    The loss of the step that is skipped is not a number on the last rank.
    """
    _forward_backward(strategy, pattern, first)
    strategy.discard()
    for step in range(first, last):
        _forward_backward(strategy, pattern, step)
        strategy.clip(CLIP_NORM)
        skip = torch.tensor(step == SKIPPED, device=strategy.device)
        strategy.step(_rate(step), skip if step <= SKIPPED else None)


def _forward_backward(strategy: Strategy, pattern: Pattern, step: int) -> None:
    rows = _rows(step, strategy.world_size)
    own = rows.chunk(strategy.world_size)[strategy.rank]
    parts = own.chunk(pattern.micro_steps)
    for index, part in enumerate(parts):
        poisoned = step == SKIPPED and strategy.rank == strategy.world_size - 1
        weights = torch.full((len(part),), math.nan if poisoned else 1 / len(rows), dtype=torch.float64)
        strategy.forward_backward(part.to(strategy.device), weights, sync_gradients=index == len(parts) - 1)


class MemoryReader:
    """A checkpoint in memory, of the pieces of all ranks. Raises AssertionError unless they cover each tensor once."""

    def __init__(self, states: Iterable[LocalState]) -> None:
        states = list(states)
        (self.step,) = {state.step for state in states}
        pieces: dict[str, list[Piece]] = {}
        for piece in (piece for state in states for piece in state.pieces):
            pieces.setdefault(piece.name, []).append(piece)
        self._flat: dict[str, Tensor] = {}
        self.tensors: Mapping[str, TensorInfo] = {}
        for name, found in pieces.items():
            found.sort(key=lambda piece: piece.start)
            ends = [0, *(piece.start + len(piece.values) for piece in found)]
            shape = found[0].shape
            assert [piece.start for piece in found] == ends[:-1] and ends[-1] == math.prod(shape), name
            self._flat[name] = torch.cat([piece.values for piece in found])
            self.tensors = {**self.tensors, name: TensorInfo(shape, self._flat[name].dtype)}

    def read(self, name: str, start: int = 0, count: int | None = None) -> Tensor:
        end = None if count is None else start + count
        return self._flat[name][start:end]

    def weights(self) -> dict[str, Tensor]:
        """Return the whole weights by parameter."""
        return {
            name.removeprefix("model/"): self._flat[name].view(info.shape)
            for name, info in self.tensors.items()
            if name.startswith("model/")
        }


def gathered(strategy: Strategy, step: int) -> MemoryReader:
    """Return the state of all ranks, on every rank."""
    states: list[LocalState | None] = [None] * strategy.world_size
    dist.all_gather_object(states, strategy.export_state(step))
    return MemoryReader(state for state in states if state is not None)


def difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return the largest difference of a weight, NaN if a weight is missing or is not a number."""
    if found.keys() != expected.keys():
        return math.nan
    worst = torch.stack([(found[name] - tensor).abs().max() for name, tensor in expected.items()])
    return float(worst.max())


def check_contract(name: StrategyName, pattern: Pattern, device: torch.device) -> Outcome:
    """Train from scratch. A collective call."""
    strategy = build(name, pattern, device)
    train(strategy, pattern, 0, STEPS)
    found = gathered(strategy, STEPS).weights()
    strategy.close()
    return Outcome(name, str(pattern), difference(found, oracle(pattern, STEPS, strategy.world_size)))


def check_resume(source: StrategyName, target: StrategyName, device: torch.device) -> Outcome:
    """Train half of the steps with one strategy and go on with another from its state. A collective call."""
    strategy = build(source, HARDEST, device)
    train(strategy, HARDEST, 0, STEPS // 2)
    reader = gathered(strategy, STEPS // 2)
    strategy.close()
    strategy = build(target, HARDEST, device)
    strategy.import_state(reader)
    train(strategy, HARDEST, STEPS // 2, STEPS)
    found = gathered(strategy, STEPS).weights()
    strategy.close()
    return Outcome(target, f"resumed from {source}", difference(found, oracle(HARDEST, STEPS, strategy.world_size)))


def check_strategy(name: StrategyName, device: torch.device) -> Iterator[Outcome]:
    """Yield what a job's strategy must pass: every pattern, and to resume from itself and from DDP."""
    for pattern in PATTERNS:
        yield check_contract(name, pattern, device)
    for source in dict.fromkeys((name, "DDP")):
        yield check_resume(source, name, device)


def unknown_versions(name: StrategyName) -> list[str]:
    """Return the installed packages that this strategy needs in a version that was not tested, `name version` each."""
    needed = ["torch", *(["deepspeed"] if name.startswith("ZeRO") else [])]
    installed = {package: importlib.metadata.version(package) for package in needed}
    return [
        f"{package} {version}"
        for package, version in installed.items()
        if version.partition("+")[0] not in KNOWN_GOOD[package]
    ]


def require_working(name: StrategyName, device: torch.device) -> None:
    """Run the checks of a strategy on versions that were not tested. A collective call.

    Raises UserError (83) if a cell is not the oracle's, or the strategy cannot run it.
    """
    unknown = unknown_versions(name)
    if not unknown:
        return
    logger.info("%s was not tested with strategy %s: checking it", ", ".join(unknown), name)
    try:
        failed = [outcome for outcome in check_strategy(name, device) if not outcome.passed]
    except Exception as error:
        if isinstance(error, UserError) or fault_of(error) is not None:
            raise  # this says nothing about the versions
        failed = [Outcome(name, f"could not run: {error!r}", math.nan)]
        raise failure(failed) from error
    if failed:
        raise failure(failed)


def failure(failed: list[Outcome]) -> UserError:
    """Return the error for cells that are not the oracle's."""
    first = failed[0]
    known = ", ".join(f"{package} {' or '.join(versions)}" for package, versions in KNOWN_GOOD.items())
    off = (
        "" if math.isnan(first.error) else f": a weight is off by {first.error:.1e}, where {TOLERANCE:.0e} is rounding"
    )
    return UserError(
        "the installed versions do not train as one process does; checks that failed: "
        f"{len(failed)}, the first of them {first.strategy} ({first.case}){off}",
        remedy=f"install {known}, or use another spec.trainer.strategy",
        exit_code=ExitCode.STRATEGY_CHECK,
    )
