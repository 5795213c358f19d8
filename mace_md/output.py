"""The output folder of a command: never overwritten, held by one process, with the log in it."""

import logging
import logging.handlers
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mace_md.errors import InputError


def content_of(folder: Path) -> list[str]:
    """The names in `folder`, sorted; none where it does not exist yet. Raises InputError when it is a file."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, and the output has to be a folder. Give another --output.")
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def refuse_content(folder: Path, restart: bool = False, can_continue: bool = True) -> None:
    """Raise InputError when a new start in `folder` would lie beside, or on top of, what is in it."""
    present = content_of(folder)
    if present and not restart:
        shown = ", ".join(present[:3]) + (", ..." if len(present) > 3 else "")
        better = "continue it with --restart, or " if can_continue else ""
        raise InputError(
            f"{folder}: the output folder exists and is not empty ({shown}); nothing is overwritten. "
            f"Please {better}choose another --output."
        )


def _locked(file: logging.FileHandler) -> bool:
    """Take the lock on an open file; it ends with the process, however that ends. True where there are no locks."""
    try:
        import fcntl

        fcntl.flock(file.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows; network file systems without locks
        pass
    return True


@contextmanager
def held_log() -> Iterator[logging.handlers.MemoryHandler]:
    """Keep the log lines until the folder exists: a run refused before step 1 leaves no folder behind."""
    logger = logging.getLogger("mace_md")
    handler = logging.handlers.MemoryHandler(capacity=1_000_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        if handler.target is not None:
            handler.flush()
            handler.target.close()
        handler.close()


class _LogFile(logging.FileHandler):
    """A log. A full disk is reported by what cannot do without the room, not by a traceback for every line."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def open_folder(folder: Path, handler: logging.handlers.MemoryHandler, log_name: str = "run.log") -> None:
    """Create the folder and send the log, from its first line, to a file in it; the folder is this process's then.

    Raises InputError when it cannot be written, or when another process runs in it: two would mix their frames.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _LogFile(folder / log_name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}). Give another --output.") from error
    if not _locked(file):
        file.close()
        raise InputError(f"{folder}: another process is running in this folder. Wait for it, or stop it first.")
    file.setFormatter(handler.formatter)
    handler.setTarget(file)
    handler.flush()
    handler.flushLevel = logging.DEBUG  # from now on each line goes down at once
