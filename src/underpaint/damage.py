"""Why a file cannot be read, in words of ours: those of the libraries that read it tell its user nothing."""

from __future__ import annotations

import re
from typing import Any


class Unfit(ValueError):
    """What is wrong with a file, or with an item of data: a part of a sentence, told as it is."""


#: Errors of libraries, by the names of their classes -> what they mean, after the name of what is read.
_MEANINGS = {
    "UnidentifiedImageError": "is damaged, or no picture of a kind that is read",
    "DecompressionBombError": "has more pixels than are unpacked",
    "DecompressionBombWarning": "has more pixels than are unpacked",
    "NotImplementedError": "is packed in a way that is not known here",
    "MemoryError": "does not fit into the memory",
}


def out_of_memory(error: Exception) -> bool:
    """Whether an error, also one of torch's, says that the memory is full."""
    full = isinstance(error, RuntimeError) and re.search("allocate memory|out of memory", str(error))
    return isinstance(error, MemoryError) or bool(full)


def reason(error: Any) -> str:
    """What is wrong, after the name of what is read: in the words of `Unfit`, of the system where it cannot be opened,
    and else of what an error of this class means."""
    if isinstance(error, Unfit):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be opened ({error.strerror})"
    if isinstance(error, RuntimeError) and "encrypted" in str(error):
        return "is encrypted"
    known = (_MEANINGS[cls.__name__] for cls in type(error).__mro__ if cls.__name__ in _MEANINGS)
    return next(known, "is damaged, or not what its name says")
