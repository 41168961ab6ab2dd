"""The whole line, interrupted and run again: bit for bit the run that nobody disturbed, every point once.

Real processes: the command line, two ranks with dropout on.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from tests.support.checkpoints import read_whole
from tests.support.local_jobs import tiny_job
from tests.support.waiting import wait_until
from unimrg_trainer.checkpoint.reader import list_commits, read_manifest
from unimrg_trainer.checkpoint.tensors import CommitReader
from unimrg_trainer.storage import LocalStore

STEPS = 12
EVERY = 3
DISTURBANCE = Path(__file__).parents[1] / "support" / "disturbance"
COMMIT = ("reservation", "rank-0", "rank-1", "manifest", "COMMITTED")
"""What is written for a commit, in this order but for the two shares."""
CALLS = {
    "forward": "unimrg_trainer.engine.strategies.base StepModule forward 15",
    "between backward and step": "unimrg_trainer.engine.strategies.{module} {name} clip 5",
    "step": "unimrg_trainer.engine.strategies.base Strategy step 5",
    "save": "unimrg_trainer.engine.saving BackgroundSaver save 2",
}
"""Where a stop request may come; a step has two forwards, and the dry run two more."""
STRATEGIES = {
    "DDP": {"module": "ddp", "name": "DataParallel"},
    "FSDP2": {"module": "fsdp2", "name": "FullyShardedDataParallel"},
    "ZeRO1": {"module": "deepspeed", "name": "ZeRO"},
}
PATIENCE = 180.0


def write_job(folder: Path, strategy: str = "DDP") -> Path:
    folder.mkdir()
    _, file = tiny_job(
        folder,
        training__batch={"rowsPerObjective": 4, "cohortRows": 2, "microBatchRows": 1},
        training__optimizer={"learningRate": "1e-3"},
        training__schedule={"warmupSteps": 1, "totalSteps": STEPS},
        training__precision="FP32",
        trainer={"gpusPerNode": 0, "processesPerNode": 2, "strategy": strategy},
        checkpoint__everySteps=EVERY,
        checkpoint__keepLast=10,
        stages={"evaluate": {"mode": "Never"}},
    )
    return file


@dataclasses.dataclass
class Command:
    """`unimrg run` of a job in a terminal of its own."""

    process: subprocess.Popen[str]
    run: LocalStore

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def wait_for_commit(self, step: int) -> None:
        """Wait until `step` or a later one is committed."""
        self.wait_until(lambda: any(commit.step >= step for commit in list_commits(self.run)))

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Wait until the run comes to a point; fails if it ends before."""
        wait_until(lambda: reached() or self.process.poll() is not None, PATIENCE)
        assert reached(), "the run ended before"


def start(job: Path, **disturbance: str) -> Command:
    """Begin a run; `disturbance` is what `tests/support/disturbance` reads."""
    path = os.pathsep.join([str(DISTURBANCE), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "unimrg_cli.main", "run", str(job)],
        env={**os.environ, **({"PYTHONPATH": path} if disturbance else {}), **disturbance},
        text=True,
        start_new_session=True,
    )
    return Command(process, LocalStore(job.parent / "run"))


def parameters(run: LocalStore) -> tuple[int, dict[str, torch.Tensor]]:
    """Step and every tensor (weights and moments) of the newest commit."""
    commit = list_commits(run)[0]
    state = read_whole(CommitReader(run, commit, read_manifest(run, commit)))
    return state.step, state.tensors


def points(job: Path) -> Counter[tuple[str, int]]:
    """How often each (metric, step) stands in MLflow; asserts that there is one run and that it is finished."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{job.parent / 'run' / 'mlflow.db'}")
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments)
    assert [run.info.status for run in runs] == ["FINISHED"]
    counts: Counter[tuple[str, int]] = Counter()
    for key in runs[0].data.metrics:
        counts.update((key, point.step) for point in client.get_metric_history(runs[0].info.run_id, key))
    return counts


@pytest.fixture(scope="module")
def strategy(request: pytest.FixtureRequest) -> str:
    """DDP, unless a test names others."""
    return getattr(request, "param", "DDP")


@pytest.fixture(scope="module")
def undisturbed(strategy: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Final weights and moments of the run that nobody disturbed."""
    job = write_job(tmp_path_factory.mktemp("undisturbed") / "job", strategy)
    command = start(job)
    assert command.wait() == 0
    step, tensors = parameters(command.run)
    assert step == STEPS
    return tensors


def assert_goes_on_to_the_same_end(job: Path, undisturbed: dict[str, torch.Tensor]) -> None:
    """Run again: resumes after the first commit, ends in the same bits, and MLflow has every point once."""
    command = start(job)
    assert command.wait() == 0
    log = (job.parent / "run" / "logs" / "attempt-2" / "train" / "rank-0.log").read_text()
    resumed = re.search(r"resumed from step (\d+)", log)
    assert resumed is not None and int(resumed[1]) >= EVERY
    step, tensors = parameters(command.run)
    assert step == STEPS
    assert tensors.keys() == undisturbed.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], undisturbed[name])] == []
    counts = points(job)
    assert {step for key, step in counts if key == "train/loss"} == set(range(1, STEPS + 1))
    assert {place: n for place, n in counts.items() if n != 1} == {}


@pytest.mark.slow
def test_after_a_termination_it_commits_and_goes_on(tmp_path: Path, undisturbed: dict[str, torch.Tensor]) -> None:
    job = write_job(tmp_path / "job")
    command = start(job)
    command.wait_for_commit(EVERY)
    command.process.send_signal(signal.SIGTERM)
    code = command.wait()
    if code == 0:
        pytest.fail("the run was over before the signal; it has too few steps for this machine")
    assert code == 85
    assert EVERY <= list_commits(command.run)[0].step < STEPS
    assert_goes_on_to_the_same_end(job, undisturbed)


@pytest.mark.slow
def test_killed_inside_a_commit_the_one_before_stands(tmp_path: Path, undisturbed: dict[str, torch.Tensor]) -> None:
    """SIGKILL of the launcher alone, while rank 0 writes the manifest."""
    job = write_job(tmp_path / "job")
    reached = tmp_path / "reached"
    command = start(job, TEST_PAUSE_KEY=f"step-{2 * EVERY:08d}/.*manifest", TEST_PAUSE_REACHED=str(reached))
    command.wait_until(reached.exists)
    command.process.kill()
    assert command.wait() == -signal.SIGKILL
    assert [commit.step for commit in list_commits(command.run)] == [EVERY]
    assert_goes_on_to_the_same_end(job, undisturbed)


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES, indirect=True)
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("place", COMMIT)
def test_a_rank_killed_anywhere_in_a_commit_costs_no_bit(
    tmp_path: Path, undisturbed: dict[str, torch.Tensor], strategy: str, victim: int, place: str
) -> None:
    job, reached = write_job(tmp_path / "job", strategy), tmp_path / "reached"
    key = f"step-{2 * EVERY:08d}(/.*|-|/){place}"
    command = start(job, TEST_PAUSE_KEY=key, TEST_PAUSE_REACHED=str(reached))
    command.wait_until(reached.exists)
    rank_process(command, victim).kill()
    assert command.wait() not in (0, 85)
    assert [commit.step for commit in list_commits(command.run)] == [EVERY]
    assert_goes_on_to_the_same_end(job, undisturbed)


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES, indirect=True)
@pytest.mark.parametrize("call", CALLS)
def test_a_stop_request_at_any_part_of_a_step_costs_no_bit(
    tmp_path: Path, undisturbed: dict[str, torch.Tensor], strategy: str, call: str
) -> None:
    job = write_job(tmp_path / "job", strategy)
    command = start(job, TEST_TERMINATE_AT=CALLS[call].format(**STRATEGIES[strategy]))
    assert command.wait() == 85
    assert EVERY <= list_commits(command.run)[0].step < STEPS
    assert_goes_on_to_the_same_end(job, undisturbed)


def rank_process(command: Command, rank: int) -> psutil.Process:
    children = psutil.Process(command.process.pid).children(recursive=True)
    return next(child for child in children if child.environ().get("RANK") == str(rank))
