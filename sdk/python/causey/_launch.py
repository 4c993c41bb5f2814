"""`python flow.py run …`: hands over to the `causey` binary."""

from __future__ import annotations

import os
import sys

COMMANDS = ("run", "show", "check", "deploy", "resume", "logs", "dump")
_NOT_FOUND = """causey: the program `causey` is needed to run a flow, and was not found
hint: pip install causey
hint: or set CAUSEY_BIN to its path (looked beside {python} and in PATH)"""


def launch() -> None:
    """Replaces this process; returns never."""
    arguments = sys.argv[1:]
    file = sys.argv[0]
    command = next((argument for argument in arguments if argument in COMMANDS), None)
    if command is None:
        name = os.path.basename(file)
        usage = f"usage: python {name} run [--parameter value …]\n       python {name} resume [STEP] | show | check"
        print(usage, file=sys.stderr)
        sys.exit(2)
    arguments.remove(command)
    program = find_program()
    if program is None:
        print(_NOT_FOUND.format(python=sys.executable), file=sys.stderr)
        sys.exit(2)
    sys.stdout.flush()
    sys.stderr.flush()
    # The flow shall run under the Python the user called.
    environment = {"CAUSEY_PYTHON": sys.executable, **os.environ}
    os.execve(program, [program, command, file, *arguments], environment)


def find_program() -> str | None:
    given = os.environ.get("CAUSEY_BIN")
    if given:
        return given
    beside = os.path.join(os.path.dirname(sys.executable), "causey")
    if os.access(beside, os.X_OK):
        return beside
    from shutil import which

    return which("causey")
