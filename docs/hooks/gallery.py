"""The gallery: the scripts of examples/ are run when the book is built, and what they print and draw becomes its pages.

A script begins with a docstring in Markdown, whose first line is the title, and saves its figures as PNG files into
the current folder. ``MODEL = "name"`` at its top says that it needs that model of the box, and ``PACKAGE = "name"``
that package; where the one or the other is not here, the page says so. Results are kept under build/gallery, and made
anew when the script, the package's version or the weights of the model change. Groups and their order are those of the
navigation in mkdocs.yml.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import logging
import os
import re
import runpy
import time
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

import underpaint
from underpaint import assets
from underpaint.figures.style import ACCENT, COLOURS, QUIET, RC
from underpaint.files import write_text

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES, KEPT = ROOT / "examples", ROOT / "build" / "gallery"
#: The look of the library's own figures.
LOOK = RC | {"axes.prop_cycle": matplotlib.cycler(color=[*COLOURS.values(), ACCENT, QUIET])}
log = logging.getLogger("mkdocs.hooks.gallery")


@dataclass(frozen=True)
class Example:
    """A script, and what running it gave; ``missing`` says what it needs and was not here."""

    name: str
    title: str
    words: str
    code: str
    missing: str | None = None
    output: str = ""
    pictures: tuple[Path, ...] = ()


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pages, the pictures and the scripts themselves."""
    groups = _groups(config.nav)
    names = [name for listed in groups.values() for name in listed]
    present = {path.stem for path in EXAMPLES.glob("*.py")}
    if present != set(names):
        raise PluginError(f"The gallery of mkdocs.yml and examples/ differ in {', '.join(present ^ set(names))}.")
    examples = {name: _example(EXAMPLES / f"{name}.py") for name in names}

    def add(place: str, content: str | bytes) -> None:
        files.append(File.generated(config, f"gallery/{place}", content=content))

    for name, example in examples.items():
        add(f"{name}.md", _page(example))
        add(f"{name}.py", (EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))
        for picture in example.pictures:
            add(picture.name, picture.read_bytes())
    add("index.md", _index(groups, examples))
    return files


def _groups(nav: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    """The gallery's part of the navigation: title of a group -> names of its scripts."""
    (listed,) = (item["Gallery"] for item in nav if "Gallery" in item)
    groups = [group for group in listed if isinstance(group, dict)]
    return {title: [Path(page).stem for page in pages] for group in groups for title, pages in group.items()}


def _example(path: Path) -> Example:
    """Read a script, and run it unless that was done before."""
    code = path.read_text(encoding="utf-8")
    tree = ast.parse(code)
    title, _, words = (ast.get_docstring(tree) or "").partition("\n")
    if not title:
        raise PluginError(f"{path} has no docstring to make a page of.")
    body = "\n".join(code.splitlines()[tree.body[0].end_lineno :]).strip()
    model, package = (_constant(tree, name) for name in ("MODEL", "PACKAGE"))
    if missing := _missing(model, package):
        return Example(path.stem, title, words.strip(), body, missing)
    folder = KEPT / f"{path.stem}-{mark(path, model or 'fashion-mnist')}"
    if not (folder / "result.json").is_file():
        _run(path, folder)
    output = json.loads((folder / "result.json").read_text(encoding="utf-8"))["output"]
    return Example(path.stem, title, words.strip(), body, None, output, tuple(sorted(folder.glob("*.png"))))


def _constant(tree: ast.Module, name: str) -> str | None:
    """What a script assigns to a name, if anything."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return str(ast.literal_eval(node.value))
    return None


def _missing(model: str | None, package: str | None) -> str | None:
    """What of a script's needs is not here."""
    if model is not None and assets.folder(model) is None:
        return f"the model `{model}`, which was not in the box"
    if package is not None and not any(metadata.distributions(name=package)):
        return f"the package `{package}`, which was not installed"
    return None


def mark(path: Path, model: str = "fashion-mnist") -> str:
    """Changes when the script, the package's version or the weights of the model do."""
    digest = hashlib.sha256(path.read_bytes() + underpaint.__version__.encode())
    for file in sorted((assets.folder(model) or path).rglob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _run(path: Path, folder: Path) -> None:
    """Run a script in a folder of its own, in the look of the library's figures, and keep what it prints."""
    folder.mkdir(parents=True, exist_ok=True)
    printed, here, began = io.StringIO(), Path.cwd(), time.monotonic()
    os.chdir(folder)
    try:
        with redirect_stdout(printed), matplotlib.rc_context(LOOK):
            runpy.run_path(str(path), run_name="__main__")
    except Exception as error:
        raise PluginError(f"{path} failed: {error!r}") from error
    finally:
        os.chdir(here)
        plt.close("all")
    log.info("Ran %s in %.0f s", path.relative_to(ROOT), time.monotonic() - began)
    write_text(folder / "result.json", json.dumps({"output": printed.getvalue()}))


def _page(example: Example) -> str:
    missing = (
        f"!!! note\n    This script needs {example.missing} when the book was built: what it draws and prints is not "
        "here."
    )
    parts = [
        "---\nhide: [toc]\n---",
        f"# {example.title}",
        example.words,
        missing if example.missing else "",
        *(f"![{alt(example.title, example.words)}]({picture.name})" for picture in example.pictures),
        f"It prints\n\n```text\n{example.output.rstrip()}\n```" if example.output.strip() else "",
        f"## The script\n\n```python\n{example.code}\n```",
        f"[Download {example.name}.py]({example.name}.py)",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def alt(title: str, words: str) -> str:
    """What stands for a picture where it is not seen: its title, and the first sentence of what is said of it."""
    sentence = re.split(r"(?<=[.?])\s", " ".join(words.split("\n\n")[0].split()))[0]
    return re.sub(r"[\[\]`*]|\(\S+\.md\S*\)", "", f"{title}. {sentence}".strip())


def _index(groups: dict[str, list[str]], examples: dict[str, Example]) -> str:
    """A page of small pictures."""
    words = (
        "Each page shows a script, what it draws and what it prints. All of them were run when this book was built, "
        "offline, on the models in the box; `python examples/NAME.py` does the same and writes the pictures into the "
        "current folder."
    )
    lines = ["---\nhide: [toc]\n---", "# Gallery", words]
    for title, names in groups.items():
        lines += [f"## {title}", '<div class="gallery" markdown>']
        for name in names:
            link, pictures = f"{name}.md", examples[name].pictures
            shown = f"[![{examples[name].title}]({pictures[0].name})]({link})" if pictures else ""
            lines.append(f"<div markdown>\n\n{shown}\n\n[{examples[name].title}]({link})\n\n</div>")
        lines.append("</div>")
    return "\n\n".join(lines) + "\n"
