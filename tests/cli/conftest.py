"""Makes the `unimrg` fixture known to the tests of the command line."""

from tests.support.command_line import unimrg

__all__ = ["unimrg"]
