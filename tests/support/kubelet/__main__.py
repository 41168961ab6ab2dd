"""The kubelet's process: `python -m tests.support.kubelet KUBECONFIG FOLDER PODS`, commands as JSON on its input."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

from tests.support.kubelet.api import Api
from tests.support.kubelet.kubelet import Kubelet


def main() -> None:
    """Play the kubelet until the input ends; whatever it runs then ends at once."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(threadName)s %(message)s", stream=sys.stderr)
    # A kubelet that has lost a thread would let its test wait in vain.
    threading.excepthook = lambda failure: _give_up(failure.exc_value)
    kubeconfig, folder, pods_folder = map(Path, sys.argv[1:])
    kubelet = Kubelet(Api(kubeconfig), folder, pods_folder)
    kubelet.start()
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any]
        try:
            answer = {"result": getattr(kubelet, request.pop("do"))(**request)}
        except Exception as error:
            logging.exception("request failed")
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    kubelet.stop()
    # Not sys.exit, which would wait for requests of pods that nobody answers any more.
    os._exit(0)


def _give_up(failure: BaseException | None) -> None:
    logging.error("the kubelet gives up", exc_info=failure)
    os._exit(1)


if __name__ == "__main__":
    main()
