"""The command `evolve`: one file per subcommand, everything heavy imported when it is needed.

Exit status: 0 done, 1 it failed (one line on stderr says why), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status. Never prints a traceback.

    Set `EVOLVE_TRACEBACK=1` to see one, for a report.
    """
    from evolve.cli.plain import plain_output

    with plain_output():
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    import typer

    from evolve.cli.app import app

    try:
        status = app(args=argv, prog_name="evolve", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a pipe that was closed is expected
    except typer.Exit as exit_:
        return exit_.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except (BrokenPipeError, SystemExit) as end:
        # typer makes status 1 of a closed pipe, but `evolve log … | head` has only had enough.
        if not any(isinstance(one, BrokenPipeError) for one in (end, end.__context__)):
            raise
        _drop_stdout()
        return 0
    except Exception as error:
        # Wrong usage (unknown option, missing argument). By what it can do and not by class:
        # some versions of typer carry their own copy of click, others import it.
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show()
            return int(error.exit_code)
        if os.environ.get("EVOLVE_TRACEBACK"):
            raise
        print(f"evolve: {_line(error)}", file=sys.stderr)
        return 1
    return int(status or 0)


def _drop_stdout() -> None:
    """Send what is still buffered nowhere: at exit it would be flushed into the closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _line(error: Exception) -> str:
    from evolve.errors import EvolveError
    from evolve.journal.decision import printable
    from supernet.errors import SupernetError

    told = printable(str(error)) or "no reason given"
    # Our own errors say it all; of someone else's the kind helps, and how to see more.
    if isinstance(error, (EvolveError, SupernetError, ValueError, OSError, ImportError)):
        return told
    return f"{type(error).__name__}: {told} (EVOLVE_TRACEBACK=1 shows where)"
