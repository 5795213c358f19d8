"""The processes that gpu.py asks: started early, killed when they take too long, started again after an error."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
GIVE_UP = 3  # failures in a row, after which an engine is not asked again


def last_line(path: Path) -> str:
    """What a process said last on its standard error."""
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"


class Worker:
    """One process of gpu_tasks.py, or of `command`; `ask` gives its answer, whatever happens to the process."""

    def __init__(self, name: str, device: str, models: Path, command: list[str] | None = None) -> None:
        script = str(HERE / "gpu_tasks.py")
        self.command = command or [sys.executable, "-W", "ignore", script, name, device, str(models)]
        self.process: subprocess.Popen | None = None
        self.start()

    def start(self) -> None:
        handle, name = tempfile.mkstemp(prefix="mace-md-gpu-", suffix=".log")
        self.log = Path(name)
        environment = os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}  # e3nn 0.4.4 does not import without
        with os.fdopen(handle, "w") as errors:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
                start_new_session=True,
            )  # fmt: skip
        self.lines: queue.Queue = queue.Queue()
        threading.Thread(target=_listen, args=(self.process.stdout, self.lines), daemon=True).start()

    def ask(self, question: dict, limit: float) -> dict:
        """The answer within `limit` s; otherwise {"error", "kind"}: what the worker says, "died" or "time"."""
        if self.process is None:
            self.start()
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            line = self.lines.get(timeout=limit)
        except queue.Empty:
            said = last_line(self.log)
            self.stop()
            return {"error": f"no answer within {limit:.0f} s; last: {said}", "kind": "time"}
        except OSError:  # it was dead already
            line = None
        if line is None:
            return self._died()
        answer = json.loads(line)
        if "error" in answer:
            self.stop()
        return answer

    def _died(self) -> dict:
        said, code = last_line(self.log), self.process.wait()
        self.stop()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
        return {"error": f"the process died ({how}): {said}", "kind": "died"}

    def stop(self) -> None:
        """End the process and whatever it started."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process = None
        self.log.unlink(missing_ok=True)


def _listen(stream, lines: queue.Queue) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


class Workers:
    """All of them by name, and what is not worth asking again."""

    def __init__(self, workers: dict[str, Worker]) -> None:
        self._all = workers
        self._too_large: dict[tuple[str, str], int] = {}
        self._answers: dict[tuple[str, str], dict] = {}
        self._missing: dict[str, str] = {}
        self._failures: dict[str, int] = {}

    def ask(self, question, limit: float) -> dict:
        """As `Worker.ask`. Not asked: an engine that is missing or failed GIVE_UP times in a row, and boxes no smaller
        than one that had no memory, or no answer in time."""
        engine = " ".join([question.engine or question.task, *question.more.get("flags", {})])
        too_large = (engine, question.model)
        if engine in self._missing:
            return {"error": self._missing[engine], "kind": "missing"}
        if self._failures.get(engine, 0) >= GIVE_UP:
            return {"error": f"given up after {GIVE_UP} failures in a row", "kind": "failed"}
        if question.atoms and question.atoms >= self._too_large.get(too_large, question.atoms + 1):
            return dict(self._answers[too_large])
        answer = self._all[question.worker].ask(question.wire(), limit)
        kind = answer.get("kind")
        if kind in ("memory", "time") and question.atoms and question.task == "time":
            self._too_large[too_large] = question.atoms
            self._answers[too_large] = {"error": f"as with {question.atoms} atoms: {answer['error']}", "kind": kind}
        if kind == "missing":
            self._missing[engine] = answer["error"]
        elif kind != "memory":
            self._failures[engine] = self._failures.get(engine, 0) + 1 if kind else 0
        return answer

    def stop(self) -> None:
        for one in self._all.values():
            one.stop()
