"""Prompts are encoded by one thread at a time.

A fast tokenizer of transformers keeps its padding as state. Threads that share one get, now and then and without an
error, a prompt that is padded as another thread asked (seen with transformers 5.23 and tokenizers 0.23.3).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

#: One for all: two pipelines may share a tokenizer. Reentrant, since methods that encode call each other.
_ENCODING = threading.RLock()
#: The methods of diffusers' pipelines that read a prompt.
_METHODS = ("encode_prompt", "_encode_prompt")


def alone(encode: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which waits until no other thread encodes."""

    @functools.wraps(encode)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        with _ENCODING:
            return encode(*args, **kwargs)

    return guarded


@contextmanager
def encoding_alone(pipe: Any) -> Iterator[None]:
    """While it lasts, the pipeline encodes its prompts when no other thread of ours does."""
    names = [name for name in _METHODS if callable(getattr(pipe, name, None)) and name not in vars(pipe)]
    for name in names:
        vars(pipe)[name] = alone(getattr(pipe, name))
    try:
        yield
    finally:
        for name in names:
            del vars(pipe)[name]
