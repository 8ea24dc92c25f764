"""Tables between the marks of a page: what benchmarks that write into the book share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from underpaint.files import check_targets, write_text


def around(page: Path, marks: tuple[str, str]) -> tuple[str, str]:
    """What stands before the first mark of a page, and after the second one.

    Raises:
        ValueError: there is no such page, or it does not have both, in order.
    """
    if not page.is_file():
        raise ValueError(f"There is no page {page}; expected one with the marks of the table.")
    begin, end = marks
    before, begun, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not (begun and ended):
        raise ValueError(f"{page} has no {begin} with {end} after it; put them where the table is to stand.")
    return before, after


def check_page(page: Path | None, marks: tuple[str, str]) -> None:
    """Refuse a page that a table could not be put into, before the table is made; None is none.

    Raises:
        ValueError: it does not have the marks, or cannot be written.
    """
    if page is not None:
        around(page, marks)
        check_targets(page)


def put(found: str, page: Path, marks: tuple[str, str]) -> None:
    """Put a table between the marks of a page.

    Raises:
        ValueError: the page does not have both, in order.
    """
    (before, after), (begin, end) = around(page, marks), marks
    write_text(page, f"{before}{begin}\n{found}\n{end}{after}")


def show_or_write(about: str, marks: tuple[str, str], table: Callable[[], str]) -> None:
    """Print the table that a script makes, and put it into the page of its option --write, if there is one."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--write", type=Path, help="a page with the marks of the table")
    page = parser.parse_args().write
    check_page(page, marks)
    found = table()
    print(found)
    if page is not None:
        put(found, page, marks)
