"""Runs one program and ends with it: nothing that it started outlives it, nor it the process that asked for it.

`python -IS guard.py LOG COMMAND…`, standard library only. Standard input: a line with a number is a signal for the
program; the end of the input (whoever asked is gone, however it went) kills the whole tree. Standard output: the
program's pid, and at its end its status as `subprocess` counts (-9 for SIGKILL). As in a container, all that is left
of the tree dies with the main process, ranks in sessions of their own too: they become children of the guard.
"""

import ctypes
import os
import select
import subprocess
import sys
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
SIGKILL = 9


def main() -> None:
    """Run the program until it ends, or until nobody asks for it any more."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    log, *command = sys.argv[1:]
    with Path(log).open("ab") as output:
        try:
            program = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        except OSError as error:
            output.write(f"{error}\n".encode())
            _say(0)
            _say(127 if isinstance(error, FileNotFoundError) else 126)
            return
    _say(program.pid)
    end = os.pidfd_open(program.pid)
    poll = select.poll()
    poll.register(end, select.POLLIN)
    poll.register(0, select.POLLIN | select.POLLHUP)
    asked = b""
    while end not in (ready := [file for file, _ in poll.poll()]):
        if ready:
            data = os.read(0, 4096)
            *lines, asked = (asked + data).split(b"\n")
            for line in lines:
                program.send_signal(int(line))
            if not data:
                poll.unregister(0)
                program.send_signal(SIGKILL)
    status = program.wait()
    _kill_descendants()
    _say(status)


def _kill_descendants() -> None:
    """Kill children until none is left; a child's own children become ours as it dies."""
    while True:
        for process in _children(os.getpid()):
            os.kill(process, SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # After the name in brackets, which may hold anything: state and parent.
            if int((folder / "stat").read_text(errors="replace").rsplit(")", 1)[1].split()[1]) == parent:
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def _say(number: int) -> None:
    try:
        os.write(1, f"{number}\n".encode())
    except BrokenPipeError:
        return


if __name__ == "__main__":
    main()
