"""A contact sheet before the first step: the images that the model reads and learns, as its losses see them.

A map that was prepared wrongly, a codec that does not fit, a geometry that cuts: people see these at once, and losses
do not show them for hours.
"""

from __future__ import annotations

import logging
from pathlib import Path

from unimrg_trainer.engine.setup import Setup
from unimrg_trainer.engine.step_plan import MicroStep
from unimrg_trainer.engine.strategy import DTYPES
from unimrg_trainer.evaluation.pictures import Preview, contact_sheet_png

logger = logging.getLogger(__name__)

FILE_NAME = "contact_sheet.png"
ROWS_SHOWN = 4
"""Rows of each objective."""


def write_contact_sheet(setup: Setup, micro_step: MicroStep) -> Path | None:
    """Draw the first rows of a micro-step into results/, here and beside the checkpoints; None if there is no image.

    Frozen encoders run for it, the model does not.
    """
    batch = setup.family.prepare(micro_step.batch, setup.device, DTYPES[setup.job.spec.training.precision])
    shown: dict[str, list[Preview]] = {}
    for row, preview in zip(micro_step.rows, setup.family.preview(batch), strict=True):
        rows = shown.setdefault(row.objective, [])
        if len(rows) < ROWS_SHOWN and any(image is not None for image in preview):
            rows.append(preview)
    shown = {objective: rows for objective, rows in shown.items() if rows}
    if not shown:
        return None
    content = contact_sheet_png(shown, title=f"{setup.job.metadata.name}: what the first step reads and learns")
    path = setup.env.run_dir / "results" / FILE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    setup.run.put(f"results/{FILE_NAME}", content)
    logger.info("%s/results/%s shows what the first step reads and learns", setup.run.uri, FILE_NAME)
    return path
