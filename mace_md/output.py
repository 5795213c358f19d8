"""The output folder of a command: never overwritten, held by one process, with the log in it."""

import errno
import logging
import logging.handlers
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mace_md.errors import InputError

LOCK = ".mace-md.lock"  # holds the id of the process that has the folder, and the name of its machine
_PID_WAIT = 0.5  # s; the holder writes its id just after it has the lock
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def room_explained(where: Path, advice: Callable[[], str]) -> Iterator[None]:
    """Turn a full (or read-only) disk into an InputError with the path and, from `advice`, what is safe and what to do.

    Other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        reason = error.strerror or str(error)
        raise InputError(f"{error.filename or where}: cannot be written ({reason}); {advice()}.") from error


def content_of(folder: Path) -> list[str]:
    """The names in `folder` but for its lock, sorted; none where it does not exist yet.

    Raises InputError when it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, and the output has to be a folder. Give another --output.")
    return sorted(path.name for path in folder.iterdir() if path.name != LOCK) if folder.exists() else []


@contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """The folder, made where it is missing, is this process's alone while open: what it looks at there stays as it is.

    The lock ends with the process, however that ends. A folder that is still empty at the end, and was made here, goes.
    Raises InputError when it cannot be written, or when another process has it: two would mix their results.
    """
    content_of(folder)
    made = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    try:
        handle = _take(folder)
    except OSError as error:
        _take_away(made)
        raise InputError(f"{folder}: cannot be written ({error.strerror}). Give another --output.") from error
    try:
        yield
    finally:
        with suppress(OSError):  # while it is locked: whoever opened it before finds out, and looks again
            (folder / LOCK).unlink()
        _take_away(made)
        os.close(handle)


def holder_of(folder: Path) -> str | None:
    """`process 1234` (with its machine, if that is another) where a process holds the folder, else None."""
    try:
        handle = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        return None if _lock(handle) else _holder(handle)
    finally:
        os.close(handle)


def _take(folder: Path) -> int:
    """An open lock file, locked, that is the one in the folder now."""
    for attempt in range(100):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another process has just taken its empty folder away
            if attempt < 99:
                continue
            raise
        if not _lock(handle):
            holder = _holder(handle)
            os.close(handle)
            raise InputError(
                f"{folder}: another process is running in this folder ({holder}). Wait for it, or stop it first."
            )
        if _is_there(handle, folder / LOCK):
            os.ftruncate(handle, 0)
            os.write(handle, f"{os.getpid()} {platform.node()}\n".encode())
            return handle
        os.close(handle)
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(folder))


def _lock(handle: int) -> bool:
    """Take the lock on an open file; it ends with the process. True where there are no locks."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows; network file systems without locks
        pass
    return True


def _is_there(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _holder(handle: int) -> str:
    end = time.monotonic() + _PID_WAIT
    while True:
        words = os.pread(handle, 300, 0).decode(errors="replace").split()
        if words or time.monotonic() > end:
            break
        time.sleep(0.01)
    if not words:
        return "its number is not known"
    machine = "" if words[1:] == [platform.node()] else f" on {' '.join(words[1:])}"
    return f"process {words[0]}{machine}"


def _take_away(folders: list[Path]) -> None:
    """Remove folders, the inner ones first, for as long as they are empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


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
    """Send the log, from its first line, to a file in the folder, which this process holds.

    Raises InputError when it cannot be written.
    """
    try:
        file = _LogFile(folder / log_name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}). Give another --output.") from error
    file.setFormatter(handler.formatter)
    handler.setTarget(file)
    handler.flush()
    handler.flushLevel = logging.DEBUG  # from now on each line goes down at once
