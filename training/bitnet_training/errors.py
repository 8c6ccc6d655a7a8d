"""Mistakes of the user, told in one line, apart from mistakes of the program, which show a traceback."""

import sys
from typing import Callable


class UserError(Exception):
    """Bad input. The message says what, where, what was expected and found, and what to do."""


def run(main: Callable[[], int | None]) -> None:
    """Runs a program: exit code 2 and one line for a UserError, 130 after Ctrl-C."""
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print(f"{sys.argv[0].rsplit('/', 1)[-1]}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
