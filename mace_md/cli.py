"""The `mace-md` command: finds the sub-command, reads its options, and turns exceptions into messages and exit codes.

Exit codes: 0 done; 1 an error the user can mend; 2 usage; 3 stopped by a safety rule; 4 stopped by a time limit or a
signal, with a checkpoint; 130 interrupted from the keyboard. A sub-command is a module with `main(config)`; it and
everything heavy are imported only when it runs.
"""

import errno
import importlib
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import mace_md
from mace_md import config as config_module
from mace_md.console import complain, fitted, is_gone, stop_talking
from mace_md.errors import CleanStop, InputError, SafetyStop, UsageError
from mace_md.options.declare import flag, nearest
from mace_md.options.reading import load_config
from mace_md.options.writing import template

COMMANDS = {  # name: (module, its options, what it does)
    "run": ("mace_md.commands.run", "RunConfig", "run molecular dynamics with a MACE model in OpenMM"),
    "train": ("mace_md.commands.train", "TrainConfig", "train a MACE model on energies, forces and stress"),
    "relax": ("mace_md.commands.relax", "RelaxConfig", "relax a geometry, and the cell of a crystal, by a MACE model"),
    "export": ("mace_md.commands.export", "ExportConfig", "write a TorchScript potential.pt for one structure"),
    "evaluate": (
        "mace_md.commands.evaluate",
        "EvaluateConfig",
        "compare a model with labelled data: tables, JSON, parity plots",
    ),
    "analyze": ("mace_md.commands.analyze", "AnalyzeConfig", "numbers with intervals, figures and a page from runs"),
    "label": ("mace_md.commands.label", "LabelConfig", "give geometries the energies and forces of a model"),
    "models": ("mace_md.commands.models", "ModelsConfig", "list, fetch and describe published models"),
    "doctor": (
        "mace_md.commands.doctor",
        "DoctorConfig",
        "say what works here, what is missing, and the line that mends it",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `mace-md` with `argv` (the process's arguments when None) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except (InputError, SafetyStop, CleanStop) as stop:
        if "--debug" in words:
            raise
        complain(f"mace-md: {stop}")
        return stop.exit_code
    except KeyboardInterrupt:
        complain("mace-md: interrupted")
        return 130
    except BrokenPipeError:  # `mace-md models list | head`
        stop_talking(sys.stdout)
        return 0
    except OSError as error:
        if "--debug" in words or error.filename is None and error.errno != errno.ENOSPC:
            raise
        complain(f"mace-md: {error.filename or 'output'}: {error.strerror}")
        return 1


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"mace-md {mace_md.__version__}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        raise UsageError(f"unknown command '{name}'.{nearest(name, list(COMMANDS))} See `mace-md --help`.")
    module, class_name, description = COMMANDS[name]
    config_class = getattr(config_module, class_name)
    if "--print-config" in rest:
        print(template(config_class), end="")
        return 0
    config = load_config(config_class, rest, prog=f"mace-md {name}", description=description)
    with _log_to_stdout(quiet=getattr(config, "quiet", False)):
        return importlib.import_module(module).main(config) or 0


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = ["usage: mace-md COMMAND [options]", "", "MACE force fields inside OpenMM.", "", "commands:"]
    lines += [f"  {name:<{width}}  {description}" for name, (_, _, description) in COMMANDS.items()]
    lines += ["", "`mace-md COMMAND --help` shows the options of a command,"]
    lines += [f"`mace-md COMMAND {flag('print_config')} > run.toml` writes them to a file for --config."]
    lines += ["`mace-md --version` prints the version."]
    return "\n".join(lines)


class _Console(logging.StreamHandler):
    """Goes on silently when the reader of a pipe leaves (`mace-md run ... | head`), or the terminal is closed.

    The files are what a run is for. On a terminal, lines are fitted to its width.
    """

    def format(self, record: logging.LogRecord) -> str:
        return fitted(super().format(record), self.stream)

    def handleError(self, record: logging.LogRecord) -> None:
        if is_gone(sys.exc_info()[1]):
            stop_talking(sys.stdout)
        else:
            super().handleError(record)


@contextmanager
def _log_to_stdout(quiet: bool) -> Iterator[None]:
    """Send the package's log to standard output while a command runs; only warnings when `quiet` (files get it all)."""
    logger = logging.getLogger("mace_md")
    handler = _Console(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.setLevel(logging.WARNING if quiet else logging.INFO)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
