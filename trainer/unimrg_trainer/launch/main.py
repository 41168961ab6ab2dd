"""The entry point of the image: `unimrg-launch STAGE` runs one stage of the job that the environment describes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from unimrg_trainer.launch.signals import StopRequest


def main(arguments: Sequence[str] | None = None, *, rank_module: str | None = None) -> None:
    """Run the stage and end the process with its exit code. `rank_module` is what each rank runs.

    Signal handlers come first, so that a signal during the slow imports is not lost.
    """
    with StopRequest().installed() as stop:
        from unimrg_trainer.launch.pod import run_pod  # takes seconds

        code = run_pod(arguments, stop, rank_module)
    sys.exit(code)


if __name__ == "__main__":
    main()
