"""Stops a process inside a commit: Python runs this first in every process whose PYTHONPATH names this folder.

Where `TEST_PAUSE_KEY` is set, the first write of a local store whose key matches it (a regular expression) creates the
file `TEST_PAUSE_REACHED` and then waits for ever; the test kills the process there. Nothing in the product knows of it.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import sys
import time
from pathlib import Path

MODULE = "unimrg_trainer.storage.local"


def _patch(module) -> None:
    key, reached = re.compile(os.environ["TEST_PAUSE_KEY"]), Path(os.environ["TEST_PAUSE_REACHED"])
    put = module.LocalStore.put

    def pausing_put(self, name, data, *, if_absent=False):
        if key.search(name):
            reached.touch()
            while True:
                time.sleep(60)
        return put(self, name, data, if_absent=if_absent)

    module.LocalStore.put = pausing_put


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            _patch(module)

        spec.loader.exec_module = exec_module
        return spec


if "TEST_PAUSE_KEY" in os.environ:
    sys.meta_path.insert(0, _Finder())
