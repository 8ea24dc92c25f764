"""Code from elsewhere: packages that not every use needs, named with the extra that brings them, and functions that a
user names."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from .bounds import a


def library(name: str, extra: str, who: str) -> Any:
    """Import a module of an extra; ``who`` needs it, as in "The explorer needs".

    Raises:
        ImportError: it is not installed, or something that it needs is not.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0].replace("_", "-")
        why = "" if getattr(error, "name", None) == name.partition(".")[0] else f" ({error})"
        raise ImportError(f"{who} {package}{why}; install it with: pip install 'underpaint[{extra}]'") from None


def names_function(text: str) -> bool:
    """Whether a text has the form module:function, which no file of that name takes from it."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text) is not None and not Path(text).exists()


def user_function(text: str, what: str, expected: str = "is {}; expected a function") -> Any:
    """The function that a user names as module:function; modules of the current folder are found, as by `python -m`.

    Args:
        what: what it is to be, as in "The features".
        expected: what is wrong where it is {}, such as a list, in words.

    Raises:
        ValueError: there is none of that name, or it is no function.
    """
    place, _, attribute = text.partition(":")
    with _current_folder():
        try:
            function = getattr(import_module(place), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"{what} {text!r} cannot be imported ({error}); expected module:function.") from None
        except (Exception, SystemExit) as error:  # of the module's own lines
            why = f"its module {place} raised {type(error).__name__}: {error}"
            raise ValueError(f"{what} {text!r} cannot be imported; {why}.") from error
    if not callable(function):
        raise ValueError(f"{what} {text!r} {expected.format(a(type(function).__name__))}.")
    return function


@contextmanager
def code_of(what: str) -> Iterator[None]:
    """Mark an error of code from elsewhere with what that is, as in "The function my_module:f".

    It goes on as it is, and the command line makes one sentence of it.

    Raises:
        ValueError: the code would end the program.
    """
    try:
        yield
    except SystemExit as error:
        raise ValueError(f"{what} asked to end the program ({error}).") from error
    except Exception as error:
        vars(error).setdefault("raised_by", what)
        raise


@contextmanager
def _current_folder() -> Iterator[None]:
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path.remove(str(Path.cwd()))
