"""Disturbs a process at a chosen place: Python runs this first in every process whose PYTHONPATH names this folder.

Where `TEST_PAUSE_KEY` is set, the first write of a local store whose key matches it (a regular expression) creates the
file `TEST_PAUSE_REACHED` and then waits for ever; the test kills a process there. Where `TEST_TERMINATE_AT` is set
(module, class, method and number of a call), rank 0 sends its launcher SIGTERM when that call begins.
Nothing in the product knows of it.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import signal
import sys
import time
from pathlib import Path


def _pause(module) -> None:
    key, reached = re.compile(os.environ["TEST_PAUSE_KEY"]), Path(os.environ["TEST_PAUSE_REACHED"])
    put = module.LocalStore.put

    def pausing_put(self, name, data, *, if_absent=False):
        if key.search(name):
            reached.touch()
            while True:
                time.sleep(60)
        return put(self, name, data, if_absent=if_absent)

    module.LocalStore.put = pausing_put


def _terminate(module) -> None:
    _, name, method, number = os.environ["TEST_TERMINATE_AT"].split()
    owner = getattr(module, name)
    call, calls = getattr(owner, method), [0]

    def terminating(*arguments, **named):
        calls[0] += 1
        if calls[0] == int(number):
            os.kill(os.getppid(), signal.SIGTERM)
        return call(*arguments, **named)

    setattr(owner, method, terminating)


class _Finder(importlib.abc.MetaPathFinder):
    """Calls `patch` with a module as soon as it is imported."""

    def __init__(self, module, patch) -> None:
        self.module, self.patch = module, patch

    def find_spec(self, name, path=None, target=None):
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            self.patch(module)

        spec.loader.exec_module = exec_module
        return spec


if "TEST_PAUSE_KEY" in os.environ:
    sys.meta_path.insert(0, _Finder("unimrg_trainer.storage.local", _pause))
if "TEST_TERMINATE_AT" in os.environ and os.environ.get("RANK") == "0":
    sys.meta_path.insert(0, _Finder(os.environ["TEST_TERMINATE_AT"].split()[0], _terminate))
