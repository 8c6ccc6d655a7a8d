"""Mistakes of the user, told in one line, apart from mistakes of the program, which show a traceback."""

import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input. The message says what, where, what was expected and found, and what to do."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a message on what was kept and how to go on."""


def brief(error: BaseException) -> str:
    """A library's message on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + "..."


def run(main: Callable[[], None]) -> None:
    """Runs a program: exit code 0; 2 and one line for a UserError; 1 where memory or standard output ends; 130 after
    Ctrl-C."""
    program = os.path.basename(sys.argv[0])
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        code, message = 2, str(error)
    except KeyboardInterrupt as error:
        code, message = 130, str(error) or "interrupted"
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "DefaultCPUAllocator" not in str(error):
            raise
        code, message = 1, f"out of memory: {brief(error)}; choose smaller shapes, a smaller batch or a shorter context"
    except OSError as error:
        # Files report their own errors as UserError; a full disk or a closed pipe behind standard output is left.
        if error.filename is not None:
            raise
        code, message = 1, f"standard output cannot be written: {error.strerror}"
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # else the interpreter flushes the broken one again
    else:
        return
    print(f"{program}: {message}", file=sys.stderr)
    sys.exit(code)
