"""Names of a job and its children on a cluster: group, labels, annotations, and what a child is called."""

from __future__ import annotations

from unimrg_api.stages import StageName

GROUP = "training.unimrg.dev"
VERSION = "v1alpha1"
PLURAL = "unimrgjobs"
SINGULAR = "unimrgjob"
SHORT_NAME = "umj"

JOB_LABEL = f"{GROUP}/job"
"""On every child and pod: the job's name."""
STAGE_LABEL = f"{GROUP}/stage"
"""On every child and pod: check, prepare, train, evaluate or finish."""
ATTEMPT_LABEL = f"{GROUP}/attempt"
"""On every child and pod: the number of the stage's attempt, from 1."""
SPEC_DIGEST_ANNOTATION = f"{GROUP}/spec-digest"
"""On every child: the digest of the job's spec that it was rendered from."""
LEDGER_ANNOTATION = f"{GROUP}/ledger"
"""On every child: what cannot be derived once older children are gone (`status.Ledger` as JSON)."""

TRAINER_CONTAINER = "pytorch"
"""Name of the container that runs our launcher, in every stage; Training Operator demands it of PyTorchJobs."""
PROGRESS_PORT = "progress"
"""Name of the port at which the launcher of node 0 serves GET /progress and /metrics."""
NODE_RANK_LABEL = "training.kubeflow.org/replica-index"
"""Training Operator's label on the pods of a PyTorchJob: the node's rank."""


def child_name(job: str, stage: StageName, attempt: int) -> str:
    """Return the name of the child that is `attempt` of a stage: the same after any crash.

    At most 40 + 14 characters, so that the names of its pods stay within 63.
    """
    return f"{job}-{stage}-{attempt}"
