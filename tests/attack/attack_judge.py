"""What became of a case: refused in one good sentence, taken with sound results, or a fault of some kind."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attack_cases import Case

#: Words of libraries and of Python, which tell a user nothing; a sentence has none of them.
_LEAKS = re.compile(
    r"allow_pickle|long long|[Cc]orrupt snappy|object has no attribute|unsupported operand|NoneType|not subscriptable|"
    r"not iterable|__\w+__|positional argument|keyword argument|Errno|size_t|\bstrides?\b|\bnumel\b|ufunc|broadcast|"
    r"must be real number|Traceback|RuntimeError|TypeError|KeyError|IndexError|list index|mat1|aten::|at::|c10|"
    r"maximum recursion|int64_t|Integer string|string conversion|could not convert string|invalid literal|"
    r"expected scalar type|_C\.|0x[0-9a-f]{6}|<[a-z]+ object|can't convert|cannot convert|unhashable|slice indices|"
    r"must be a sequence|argument must be|not supported between|Overflow|arguments? '|is not a valid|Expecting "
)
#: Of the processor, so that a busy machine makes no faults, and ten times as many by the clock.
SECONDS, BYTES = 60, 6 * 2**30


@dataclass(frozen=True)
class Verdict:
    """``fault`` is None, or one of: traceback, silent, half file, late, poor sentence, not finite, hang."""

    fault: str | None
    words: str
    refused: bool = False


class _Hang(BaseException):
    """It took too long."""


def judge(case: Case, folder: Path) -> Verdict:
    """Run one case of the command line in an empty folder."""
    if case.prepare is not None:
        case.prepare(folder)
    before = listing(folder)
    code, out, err, calls = _run(case.arguments, folder)
    said = " ".join(err.split())
    refused = code != 0
    if code in ("traceback", "hang"):
        return Verdict(str(code), said[-300:], True)
    if refused:
        if listing(folder) != before:
            return Verdict("half file", f"{sorted(set(listing(folder)) - set(before))}: {said[-200:]}", True)
        if calls and case.fits is False:
            return Verdict("late", f"after {calls} layers: {said[-200:]}", True)
        for own in case.arguments:  # the user's own words are no library's
            text = own.partition("=")[2] or own
            err = err.replace(text, "...") if len(text) > 5 else err
        fault = poor(err) if code == 2 else f"exit code {code}"
        return Verdict(fault, said[-300:], True)
    if case.fits is False:
        return Verdict("silent", (out or said)[:200])
    return Verdict(_unsound(out, folder), out[:200])


def poor(err: str) -> str | None:
    """Why a message is no good sentence; None if it is one."""
    if err.startswith("Usage:") or "Usage: " in err[:200]:  # of the parser of options: its own words
        return None
    lines = [line for line in err.splitlines() if line.startswith("underpaint: ")]
    if len(lines) != 1 or err.rstrip().splitlines()[-1] != lines[0]:
        return "poor sentence: not one line"
    return weak(lines[0].removeprefix("underpaint: "))


def weak(sentence: str) -> str | None:
    """Why a sentence is no good; None if it is."""
    leak = _LEAKS.search(sentence)
    if leak is not None:
        return f"poor sentence: {leak[0]}"
    if not 12 <= len(sentence) <= 700:
        return f"poor sentence: of {len(sentence)} characters"
    return None


def listing(folder: Path) -> list[str]:
    """All that a folder holds."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _unsound(out: str, folder: Path) -> str | None:
    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        for text in [out, *(path.read_text() for path in folder.rglob("result*/**/*.json"))]:
            json.loads(text, parse_constant=refuse)
    except ValueError as error:
        return f"not finite: {error}"
    return None


def _run(arguments: tuple[str, ...], folder: Path) -> tuple[int | str, str, str, int]:
    """(exit code, standard output, standard error, layers of networks that were run)."""
    import torch

    from underpaint.cli import main

    out, err, calls = io.StringIO(), io.StringIO(), 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    hook = torch.nn.modules.module.register_module_forward_pre_hook(count)
    code: int | str = 0
    argv, sys.argv = sys.argv, ["underpaint", *arguments]
    try:
        with (
            _inside(folder),
            bounded(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except _Hang:
        code = "hang"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        code = "traceback"
        last = traceback.extract_tb(error.__traceback__)[-1]
        err.write(f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"[-250:])
    finally:
        sys.argv = argv
        hook.remove()
    return code, out.getvalue(), err.getvalue(), calls


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    here = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(here)


@contextlib.contextmanager
def bounded(seconds: int = SECONDS, room: int = BYTES) -> Iterator[None]:
    """With an end to time and memory, so that a case without bounds fails and does not take the machine with it."""

    def ring(*_: Any) -> None:
        raise _Hang

    def size() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

    limits = resource.getrlimit(resource.RLIMIT_AS)
    known = Path("/proc/self/statm").is_file()
    handlers = {kind: signal.signal(kind, ring) for kind in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(10 * seconds)
    if known:
        resource.setrlimit(resource.RLIMIT_AS, (size() + room, limits[1]))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for kind, handler in handlers.items():
            signal.signal(kind, handler)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def judge_call(call: Callable[[], Any], fits: bool | None) -> Verdict:
    """Run one call of the Python interface: it is refused in a ValueError, or gives numbers that are finite."""
    try:
        with bounded(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = call()
    except ValueError as error:
        return Verdict(weak(str(error)), str(error), True)
    except _Hang:
        return Verdict("hang", "", True)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return Verdict("traceback", f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})", True)
    if fits is False:
        return Verdict("silent", repr(result)[:100])
    return Verdict(None if finite(result) else "not finite", repr(result)[:100])


def finite(value: Any) -> bool:
    """Whether all numbers in a result are."""
    import torch

    if isinstance(value, torch.Tensor):
        return bool(torch.isfinite(value).all())
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list | tuple):
        return all(map(finite, value))
    return True
