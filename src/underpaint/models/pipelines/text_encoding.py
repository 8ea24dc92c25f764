"""Prompts are encoded by one thread at a time, and words that a tokenizer does not have are found.

A fast tokenizer of transformers keeps its padding as state. Threads that share one get, now and then and without an
error, a prompt that is padded as another thread asked (seen with transformers 5.23 and tokenizers 0.23.3).
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Iterator, Sequence
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


def tokenizers_of(pipe: Any) -> tuple[Any, ...]:
    """The parts of a pipeline that cut prompts into tokens."""
    return tuple(part for part in vars(pipe).values() if hasattr(part, "tokenize") and hasattr(part, "unk_token_id"))


@alone
def unknown_words(tokenizers: Sequence[Any], prompt: str, examples: Sequence[str] = ()) -> tuple[str, ...]:
    """Words of a prompt that each of the tokenizers cuts into single letters, or has only as its token for what is
    unknown: the network has not learnt what they mean. A tokenizer that has all words of the ``examples``, prompts that
    the network was trained on, in one piece each has every word of its training so; then any word in pieces is unknown.

    Words are of several letters, of scripts with capital and small ones: in others a letter may be a word. A tokenizer
    of single letters or bytes has no words, and knows all.
    """
    if not tokenizers:
        return ()
    spoken = [word for example in examples for word in _words(example)]
    whole = [bool(spoken) and all(len(_pieces(cut, word)) == 1 for word in spoken) for cut in tokenizers]

    def lacks(cut: Any, word: str, one: bool) -> bool:
        pieces = _pieces(cut, word)
        return len(pieces) != 1 and (one or all(len(piece) < 2 for piece in pieces))

    found = tuple(word for word in _words(prompt) if all(map(lacks, tokenizers, [word] * len(tokenizers), whole)))
    return found if found and all(map(_has_words, tokenizers)) else ()


def _has_words(tokenizer: Any) -> bool:
    """Whether any token is of several letters."""
    special = set(tokenizer.all_special_tokens)
    return any(len(_letters(tokenizer, token)) > 1 for token in tokenizer.get_vocab() if token not in special)


def _words(text: str) -> list[str]:
    """Each word once, in its order, without the ends of we'll, you're and I've."""
    found = re.findall(r"(?<![^\W\d_])(?!(?<=\w['\u2019])(?:ll|re|ve)\b)[^\W\d_]{2,}", text)
    return [word for word in dict.fromkeys(found) if word.lower() != word.upper()]


def _pieces(tokenizer: Any, word: str) -> list[str]:
    """The letters of each token of a word, without marks of where a word begins or ends; none of what is unknown."""
    tokens = tokenizer.tokenize(word)
    if tokenizer.unk_token_id in tokenizer.convert_tokens_to_ids(tokens):  # the token may be called as what was cut off
        return []
    letters = (_letters(tokenizer, token) for token in tokens)
    return [piece for piece in letters if piece]


def _letters(tokenizer: Any, token: str) -> str:
    """Those that a token stands for, which may be called by their bytes; a part of a letter is none."""
    return re.sub(r"</w>$|^##|\W", "", tokenizer.convert_tokens_to_string([token]))


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
