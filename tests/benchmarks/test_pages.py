"""Tables that benchmarks put into the pages of the book."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

MARKS = "<!-- a -->", "<!-- b -->"


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return import_module("pages")


def test_a_table_takes_the_place_of_the_one_before(pages: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- a -->\nold\n<!-- b -->\nbelow\n", encoding="utf-8")
    pages.put("new σ", page, MARKS)
    assert page.read_text(encoding="utf-8") == "above\n<!-- a -->\nnew σ\n<!-- b -->\nbelow\n"


@pytest.mark.parametrize("text", ["nothing", "<!-- a --> only", "<!-- b --> before <!-- a -->"])
def test_a_page_without_the_marks_stays_as_it_is(pages: ModuleType, tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"page\.md has no <!-- a --> with <!-- b --> after it"):
        pages.put("new", page, MARKS)
    assert page.read_text(encoding="utf-8") == text


def test_a_page_on_a_full_disk_is_found_before_the_table_is_made(
    pages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, text = tmp_path / "page.md", "above <!-- a --> <!-- b --> below"
    page.write_text(text, encoding="utf-8")
    pages.check_page(page, MARKS)
    pages.check_page(None, MARKS)

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("underpaint.files._temporary", full)
    with pytest.raises(ValueError, match=r"Cannot write to the folder .*; give another place"):
        pages.check_page(page, MARKS)
    assert page.read_text(encoding="utf-8") == text
