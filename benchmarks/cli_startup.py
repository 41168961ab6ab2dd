"""How long the command line takes to start, beside the import of Pydantic, which it cannot do without.

python benchmarks/cli_startup.py [--quick]

CPU time (user and system) of whole processes, in turns, the median of each: `unimrg --help`, `unimrg validate` of an
example, and `python -c "import pydantic"`. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from pathlib import Path

TARGETS = {"help": 2.0, "validate": 3.0}
"""Most times the time of importing Pydantic."""
_ROOT = Path(__file__).resolve().parents[1]
_UNIMRG = Path(sys.executable).with_name("unimrg")
COMMANDS = {
    "pydantic": [sys.executable, "-c", "import pydantic"],
    "help": [_UNIMRG, "--help"],
    "validate": [_UNIMRG, "validate", _ROOT / "examples" / "quickstart-s3.yaml"],
}


def seconds(command: list[str | Path]) -> float:
    """Return the CPU time of one run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 rounds instead of 25")
    rounds = 5 if parser.parse_args().quick else 25
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds + 1):
        for name, command in COMMANDS.items():
            taken[name].append(seconds(list(command)))
    medians = {name: statistics.median(values[1:]) for name, values in taken.items()}  # the first fills caches
    ratios = {name: round(medians[name] / medians["pydantic"], 2) for name in TARGETS}
    report = {
        "name": "cli_startup",
        "figures": {f"{name}Seconds": round(value, 3) for name, value in medians.items()},
        "ratio": ratios,
        "target": TARGETS,
        "holds": all(ratios[name] <= target for name, target in TARGETS.items()),
        "machine": f"{os.cpu_count()} x {platform.machine()}, Python {platform.python_version()}",
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
