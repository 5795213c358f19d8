"""The exceptions that are for people, each with its exit code. Everything else is a bug and keeps its traceback."""


class InputError(ValueError):
    """Something the user gave cannot be used: the message says what is wrong, with the value found, and what to do."""

    exit_code = 1


class UsageError(InputError):
    """An option is unknown, malformed, or contradicts another one."""

    exit_code = 2


class SafetyStop(RuntimeError):
    """A safety rule ended a run that had started; what it wrote so far is on disk."""

    exit_code = 3


class CleanStop(RuntimeError):
    """A time limit or a signal ended a run, with a checkpoint from which `--restart` continues."""

    exit_code = 4
