"""Why a job that is right runs on one machine only: notes for `unimrg validate`."""

from __future__ import annotations

from unimrg_api.job import UniMRGJob


def cluster_notes(job: UniMRGJob) -> list[str]:
    """Return one sentence for each reason why a job that is right runs on one machine only."""
    spec, trainer, batch = job.spec, job.spec.trainer, job.spec.training.batch
    notes = []
    places = {
        "spec.model.init": spec.model.init,
        "spec.data.source.photographs": spec.data.source.photographs if spec.data.source else None,
        **{f"spec.data.shards[{index}]": uri for index, uri in enumerate(spec.data.shards)},
        "spec.checkpoint.uri": spec.checkpoint.uri,
    }
    local = [path for path, uri in places.items() if uri is not None and uri.startswith("file://")]
    if local:
        notes.append(f"file:// is on this machine only: {', '.join(local)}; a cluster needs s3:// there")
    processes = trainer.nodes * (trainer.gpus_per_node or trainer.processes_per_node)
    cohorts = batch.rows_per_objective // batch.cohort_rows
    if cohorts % processes:
        possible = [count for count in range(1, cohorts + 1) if cohorts % count == 0]
        below = max(count for count in possible if count < processes)
        notes.append(
            f"spec.trainer asks for {processes} processes, and {cohorts} cohorts per objective "
            f"(rowsPerObjective / cohortRows) cannot be dealt to them evenly: use {below}, or set "
            f"rowsPerObjective: {processes * batch.cohort_rows}"
        )
    return notes
