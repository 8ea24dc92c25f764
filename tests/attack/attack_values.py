"""Values of options by type: what a user may type by mistake, and what nobody would.

Each value says whether it can be right at all. ``fits`` is False for what has to be refused wherever an option of this
type takes it, and None for what one option takes and another does not: then whatever comes of it must be sound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

HUGE = (10**9 + 1, 10**11, 2**31, 2**63, 2**64, 10**30)


@dataclass(frozen=True)
class Value:
    """What stands after an option."""

    text: str
    fits: bool | None = False


Grammar = Callable[[Random], Iterator[Value]]


def whole(rng: Random) -> Iterator[Value]:
    """For a whole number."""
    yield from (Value(text) for text in ("", " ", "x", "1.5", "nan", "inf", "1e3", "0x10", "--", "1 2", "²", "None"))
    yield from (Value(str(sign * number)) for number in HUGE for sign in (1, -1))
    yield from (Value(str(number)) for number in (-1, -2, -rng.randrange(3, 10**6), rng.randrange(10**12, 10**15)))
    yield from (Value(str(number), None) for number in (0, 1, 2, 3))


def real(rng: Random) -> Iterator[Value]:
    """For a number."""
    yield from (Value(text) for text in ("", "x", "nan", "inf", "-inf", "1e400", "-1e400", "1,5", "1 2", "²", "--"))
    yield from (Value(text) for text in ("1e300", "-1e300", "1e39", f"{rng.uniform(1, 9)}e{rng.randrange(30, 300)}"))
    yield from (Value(text, None) for text in ("0", "-0.0", "1e-320", "-1", "1e6", str(rng.uniform(-4, 4))))


def numbers(rng: Random) -> Iterator[Value]:
    """For numbers with commas between them."""
    for value in real(rng):
        if value.text != "1,5":
            yield value
            yield Value(f"1,{value.text}", value.fits)
    yield from (Value(text) for text in (",", "1,", ",1", "1,,2", "1;2", "1,nan,2", ",".join(["1"] * 100_000)))


def ranges(rng: Random) -> Iterator[Value]:
    """For numbers and ranges, such as seeds."""
    yield from (Value(text) for text in ("", " ", ",", "-", "a", "1-", "-1", "3-1", "1--2", "1,,2", "1,", "0x1-0x3"))
    yield from (Value(text) for text in ("1,1", "0-3,2", "²-³", "1.5", "nan", "0-inf", "1e3", "0:3", "0-3-5", "[0,1]"))
    yield from (Value(f"0-{number}") for number in (*HUGE, 10**7))
    yield from (Value(str(number)) for number in (2**64, 10**30, rng.randrange(2**64, 2**80)))
    yield from (Value(f"{number}-{number + 1}") for number in (2**64, 10**30))
    yield Value("9" * 5000)
    yield from (Value(text, None) for text in ("0", "0-1", "1,0", " 2 , 3 "))


def words(rng: Random) -> Iterator[Value]:
    """For one name of several."""
    letters = "".join(rng.choice("abcdefgh") for _ in range(9))
    yield from (
        Value(text) for text in ("", " ", letters, "None", "__class__", "a\nb", "[red]x[/red]", "[/]", "ä" * 300)
    )
    yield from (Value(text) for text in ("../" * 9, "x" * 100_000, "\x1b[31mx", "0", "-1", "a,b", ","))


def prompts(rng: Random) -> Iterator[Value]:
    """For a prompt; the models that are attacked with it take none."""
    yield from (Value(text) for text in ("", "a dog", "[/]", "a\nb", "x" * 100_000, f"ü{rng.random()}", "\x1b[31mx"))


def sizes(rng: Random) -> Iterator[Value]:
    """For the size of pictures."""
    yield from (Value(text) for text in ("", "x", "0", "-1", "8x", "x8", "8x8x8", "8.5", "nan", "0x8", "08", "8 8"))
    yield from (Value(text) for number in HUGE for text in (str(number), f"{number}x1", f"8x{number}"))
    yield Value(str(rng.randrange(1, 9)), None)


def memories(rng: Random) -> Iterator[Value]:
    """For memory."""
    yield from (
        Value(text) for text in ("", "GB", "x", "-1GB", "nan", "nanGB", "inf", "1.2.3GB", "8XB", "0", "0GB", ".")
    )
    yield from (Value(text) for text in ("8GBB", "1e3GB", "8 G B", "." * 9))
    yield from (Value(text, None) for text in ("8GB", "1kB", "1TB", "9" * 400 + "TB", f"{rng.random()}MB"))


def nudged(rng: Random) -> Iterator[Value]:
    """For a direction."""
    yield from words(rng)
    kinds = ("x0", "eps", "data", "random")
    yield from (Value(f"{kind}:{number}") for kind in kinds for number in ("", "x", "-1", "1.5", "nan", 10**11, 10**30))
    yield from (Value(f"{kind}:0") for kind in kinds[:3])
    yield from (Value(text) for text in ("x0:1:2", ":1", "x1:1", "missing.safetensors"))
    yield Value(rng.choice(("x0:1", "eps:1", "random:3", "random")), None)
