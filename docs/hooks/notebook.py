"""The notebook examples/first_steps.ipynb, run when the book is built, as the page first_steps.md.

What running it gives is kept as that of the gallery's scripts is.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import nbformat
from gallery import EXAMPLES, KEPT, alt, mark  # mkdocs looks beside this file
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient

from underpaint.files import write_text

NOTEBOOK = EXAMPLES / "first_steps.ipynb"


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the page, its pictures and the notebook itself."""
    cells, pictures, words = [], {}, ""
    for number, cell in enumerate(_executed(NOTEBOOK).cells):
        if cell.cell_type == "markdown":
            words = cell.source
            cells.append(words)
        else:
            shown, drawn = _outputs(cell, f"{NOTEBOOK.stem}-{number}", words)
            cells += [f"```python\n{cell.source}\n```", *shown]
            pictures |= drawn
    if not pictures:
        raise PluginError(f"{NOTEBOOK} has drawn nothing; does something it imports change the backend of matplotlib?")
    cells.append(f"This page is a notebook: [{NOTEBOOK.name}]({NOTEBOOK.name}), run when the book was built.")
    files.append(File.generated(config, f"{NOTEBOOK.stem}.md", content="\n\n".join(cells) + "\n"))
    files.append(File.generated(config, NOTEBOOK.name, content=NOTEBOOK.read_text(encoding="utf-8")))
    for name, content in pictures.items():
        files.append(File.generated(config, name, content=content))
    return files


def _executed(path: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs."""
    kept = KEPT / f"{path.stem}-{mark(path)}.ipynb"
    if not kept.is_file():
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, kernel_name="python3").execute()
        write_text(kept, nbformat.writes(notebook))
    return nbformat.read(kept, as_version=4)


def _outputs(cell: nbformat.NotebookNode, stem: str, words: str) -> tuple[list[str], dict[str, bytes]]:
    """What a cell printed, returned and drew, in Markdown, and the pictures by name; ``words`` stand above it."""
    heading, _, body = words.partition("\n\n")
    shown: list[str] = []
    drawn: dict[str, bytes] = {}
    for output in cell.outputs:
        if output.get("name") == "stderr":  # warnings of the machine at hand
            continue
        data = output.get("data", {})
        if "image/png" in data:
            name = f"{stem}.png" if not drawn else f"{stem}-{len(drawn)}.png"
            drawn[name] = base64.b64decode(data["image/png"])
            shown.append(f"![{alt(heading.lstrip('# '), body)}]({name})")
        elif text := output.get("text") or data.get("text/plain"):
            shown.append(f"```text\n{text.rstrip()}\n```")
    return shown, drawn
