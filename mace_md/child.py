"""Child processes: this same program in another process, which takes nothing from the current folder and ends with us.

Python puts the current folder first on the path of imports (`-c`, `-m`): a `random.py` or `select.py` that a user has
there would be executed in place of the standard library's, a `mace_md.py` in place of this package. A child therefore
starts with `-P`, and takes this package from where the present process has it.

Its standard input is a lifeline: a pipe of which only this process holds the other end. Whatever ends this process,
`kill -9` included, ends the lifeline, and the child asks itself to stop as SIGTERM does.
"""

import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

PACKAGE = Path(__file__).parent
GRACE = 60.0  # s from a lost lifeline to the end of a child that does not stop by itself, as in one very long step
_BEGIN = """\
import sys, importlib.util as machinery
spec = machinery.spec_from_file_location("mace_md", {init!r}, submodule_search_locations=[{package!r}])
sys.modules["mace_md"] = package = machinery.module_from_spec(spec)
spec.loader.exec_module(package)
from mace_md.child import watch_lifeline
watch_lifeline()
"""


def run_module(module: str, *words: str) -> list[str]:
    """The command of a child that does what `python -m module words` does here. Its standard input is a `lifeline`."""
    begin = _BEGIN + "from mace_md.child import run_as_main\nrun_as_main()\n"
    return [*_interpreter(), "-c", _located(begin), module, *words]


def run_code(code: str) -> list[str]:
    """The command of a child that runs Python code with this package in reach. Its standard input is a `lifeline`."""
    return [*_interpreter(), "-W", "ignore", "-c", _located(_BEGIN) + code]


def environment() -> dict[str, str]:
    """The variables of a child: what it starts is kept from the current folder too, which an empty entry stands for."""
    variables = os.environ | {"PYTHONSAFEPATH": "1"}
    entries = [entry for entry in variables.pop("PYTHONPATH", "").split(os.pathsep) if entry not in ("", ".")]
    return variables | ({"PYTHONPATH": os.pathsep.join(entries)} if entries else {})


def path_of(file: IO[bytes]) -> str:
    """The path under which a child reads an open file without a name, which it gets with `pass_fds`."""
    return f"/dev/fd/{file.fileno()}"


@contextmanager
def lifeline() -> Iterator[int]:
    """The standard input for children, any number of them: it ends with the block, or with this process."""
    reading, writing = os.pipe()  # neither end is inherited but as the standard input that it is given as
    try:
        yield reading
    finally:
        os.close(writing)
        os.close(reading)


def finished(command: list[str], timeout: float, **options) -> subprocess.CompletedProcess:
    """`subprocess.run` of a command of this module, to its end; its output is text. Raises what that raises."""
    with lifeline() as standard_input:
        return subprocess.run(
            command, stdin=standard_input, env=environment(), capture_output=True, text=True, timeout=timeout,
            check=False, **options,
        )  # fmt: skip


def _interpreter() -> list[str]:
    flags = ["-P"]
    flags += ["-E"] if sys.flags.ignore_environment else []
    flags += ["-s"] if sys.flags.no_user_site else []
    return [sys.executable, *flags]


def _located(code: str) -> str:
    return code.format(init=str(PACKAGE / "__init__.py"), package=str(PACKAGE))


# --- in the child ---


def run_as_main() -> None:
    """Run the module that the first word of the command line names, as the program."""
    module = sys.argv.pop(1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def watch_lifeline() -> None:
    """Stop when the standard input ends; from now on it is empty for everything else."""
    kept = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_stop_at_the_end_of, args=(kept,), daemon=True, name="lifeline").start()


def _stop_at_the_end_of(handle: int) -> None:
    while os.read(handle, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)
