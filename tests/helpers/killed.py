"""Run commands in processes that are killed at a moment: a server that has imported everything once, and forks.

As a script it reads one JSON object a line: ``arguments``, ``folder`` to run in, and when to be killed: before the
``event``-th change of a file there (from 1), or after ``seconds``; null for not at all. It answers with the exit status
and the number of changes that were made.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

#: Audit events that change files -> which of their arguments are paths. "open" counts where it is to write.
CHANGES = {"open": (0,), "os.rename": (0, 1), "os.remove": (0,), "os.rmdir": (0,), "os.mkdir": (0,)}


class Commands:
    """The server, from a test's side."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, folder: Path, *arguments: str, event: int | None = None, seconds: float | None = None) -> Any:
        """Status (negative for a signal), changes, and what was printed on standard error."""
        asked = {"folder": str(folder), "arguments": arguments, "event": event, "seconds": seconds}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def serve() -> None:
    import diffusers  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import sklearn.cluster  # noqa: F401

    from underpaint.cli import app  # noqa: F401
    from underpaint.figures import benchmark, comparison, geometry, maps, perturbation, report_page, retrieval  # noqa: F401
    from underpaint.recipes import calibrate, convert, map, perturb, retrieve, sample  # noqa: F401
    from underpaint.recipes.report import build  # noqa: F401
    from underpaint.recipes.statistics import sources  # noqa: F401

    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        play(asked, write)
    os.close(write)
    with os.fdopen(read) as said:
        words = said.read()
    _, status = os.waitpid(child, 0)
    changes, _, rest = words.partition("\n")
    return {"status": os.waitstatus_to_exitcode(status), "changes": int(changes or 0), "said": rest}


def play(asked: dict[str, Any], write: int) -> None:
    """Be the command, and never return."""
    os.chdir(asked["folder"])
    root, counted = str(Path.cwd()), 0

    def watch(event: str, given: tuple[Any, ...]) -> None:
        nonlocal counted
        if event not in CHANGES or (event == "open" and not (given[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return
        paths = [given[i] for i in CHANGES[event] if isinstance(given[i], str | os.PathLike)]
        if not any(str(Path.cwd() / path).startswith(root) for path in paths):
            return
        counted += 1
        if counted == asked["event"]:
            os.kill(os.getpid(), signal.SIGKILL)

    printed = os.memfd_create("printed")
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    sys.argv = ["underpaint", *asked["arguments"]]
    if asked["seconds"] is not None:
        threading.Timer(asked["seconds"], os.kill, (os.getpid(), signal.SIGKILL)).start()
    sys.addaudithook(watch)
    from underpaint.cli import main

    code = 0
    try:
        main()
    except SystemExit as left:
        code = int(left.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os.lseek(printed, 0, 0)
    os.write(write, f"{counted}\n".encode() + os.read(printed, 60_000))
    os._exit(code)


if __name__ == "__main__":
    serve()
