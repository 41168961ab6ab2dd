"""A contact sheet before the first step: the input and target images of the first rows, as the model gets them.

A wrongly prepared map, a wrong codec or a cropped image is visible there at once, but in the losses only after hours.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

from unimrg_trainer.engine.rows import cohorts_of_rank
from unimrg_trainer.engine.setup import Setup
from unimrg_trainer.engine.step_plan import StepPlanner
from unimrg_trainer.evaluation.pictures import Preview, contact_sheet_png

logger = logging.getLogger(__name__)

FILE_NAME = "contact_sheet.png"
ROWS_SHOWN = 4
"""Rows of each objective."""


def write_contact_sheet(setup: Setup, planner: StepPlanner) -> Path | None:
    """Draw the first rows of step 0 into results/, here and in the run's store; None if there is no image or no room.

    It reads as few cohorts as hold these rows and runs the frozen encoders, but not the model.
    """
    rows_shown = min(planner.micro_batch_rows, ROWS_SHOWN)
    preview_planner = replace(planner, micro_batch_rows=rows_shown)  # how a step is split changes no row
    cohorts = cohorts_of_rank(planner.shape, 0, 0, setup.world_size)
    count = math.ceil(rows_shown / planner.shape.cohort_rows)
    micro_step = preview_planner.plan_cohorts(cohorts[:count], 0).micro_steps[0]
    batch = setup.family.prepare(micro_step.batch, setup.device, setup.parameter_dtype)
    shown: dict[str, list[Preview]] = {}
    for row, preview in zip(micro_step.rows, setup.family.preview(batch), strict=True):
        rows = shown.setdefault(row.objective, [])
        if len(rows) < ROWS_SHOWN and any(image is not None for image in preview):
            rows.append(preview)
    shown = {objective: rows for objective, rows in shown.items() if rows}
    if not shown:
        return None
    content = contact_sheet_png(shown, title=f"{setup.job.metadata.name}: inputs and targets of the first step")
    path = setup.env.run_dir / "results" / FILE_NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:  # it costs no training
        logger.warning("the contact sheet could not be written: %s", error)
        return None
    setup.run_store.put(f"results/{FILE_NAME}", content)
    logger.info("%s/results/%s shows inputs and targets of the first step", setup.run_store.uri, FILE_NAME)
    return path
