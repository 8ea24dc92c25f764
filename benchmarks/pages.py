"""Tables between the marks of a page: what benchmarks that write into the book share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def written(page: str, found: str, marks: tuple[str, str]) -> str:
    """The page with the table between its marks."""
    begin, end = marks
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{found}\n{end}{rest.partition(end)[2]}"


def show_or_write(about: str, marks: tuple[str, str], table: Callable[[], str]) -> None:
    """Print the table that a script makes, and put it into the page of its option --write, if there is one."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--write", type=Path, help="a page with the marks of the table")
    page = parser.parse_args().write
    found = table()
    print(found)
    if page is not None:
        page.write_text(written(page.read_text(encoding="utf-8"), found, marks), encoding="utf-8")
