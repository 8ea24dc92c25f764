"""Tables between the marks of a page: what benchmarks that write into the book share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from underpaint.files import write_text


def put(found: str, page: Path, marks: tuple[str, str]) -> None:
    """Put a table between the marks of a page.

    Raises:
        SystemExit: the page does not have both, in order.
    """
    begin, end = marks
    before, begun, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not (begun and ended):
        raise SystemExit(f"{page} has no {begin} with {end} after it; put them where the table is to stand.")
    write_text(page, f"{before}{begin}\n{found}\n{end}{after}")


def show_or_write(about: str, marks: tuple[str, str], table: Callable[[], str]) -> None:
    """Print the table that a script makes, and put it into the page of its option --write, if there is one."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--write", type=Path, help="a page with the marks of the table")
    page = parser.parse_args().write
    found = table()
    print(found)
    if page is not None:
        put(found, page, marks)
