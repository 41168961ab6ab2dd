"""One stage in a pod: from the environment to an exit code, with progress served and a termination record written."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import get_args

from unimrg_api.environment import PodEnvironment, ports
from unimrg_api.errors import UserError
from unimrg_api.stages import StageName
from unimrg_api.termination import TerminationRecord
from unimrg_trainer.launch.logs import FORMAT
from unimrg_trainer.launch.progress_server import serve_progress
from unimrg_trainer.launch.reports import write_termination
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.launch.stages import RANK_MODULE, execute
from unimrg_trainer.local_folders import provide_home

logger = logging.getLogger(__name__)


def run_pod(arguments: Sequence[str] | None, stop: StopRequest, rank_module: str | None = None) -> int:
    """Run the stage that the arguments name and return its exit code; the caller has installed `stop`."""
    parser = argparse.ArgumentParser(
        prog="unimrg-launch", description="Run one stage of the job given by UNIMRG_* variables."
    )
    parser.add_argument("stage", choices=get_args(StageName))
    stage = parser.parse_args(arguments).stage
    logging.basicConfig(level=logging.INFO, format=FORMAT, stream=sys.stderr)
    provide_home()
    try:
        env = PodEnvironment.from_environ(os.environ)
    except UserError as error:
        logger.error("%s", error)
        path = os.environ.get("UNIMRG_TERMINATION_LOG")
        fallback = PodEnvironment(termination_log=Path(path)) if path else PodEnvironment()
        record = TerminationRecord(reason="InvalidEnvironment", exit_code=int(error.exit_code), message=str(error))
        write_termination(fallback, record)
        return int(error.exit_code)
    server = serve_progress(env.run_dir, env.pod_ip, ports(env.uid, env.attempt)[1])
    with server if env.node_rank == 0 else nullcontext():
        end = execute(stage, env, stop, echo=True, rank_module=rank_module or RANK_MODULE)
    logger.info("%s ended with %d (%s) %s", stage, end.code, end.record.reason, end.record.message)
    return int(end.code)
