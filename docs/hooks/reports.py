"""The pages of reports: what `underpaint report` found on each model, with its figures, from what is stored.

``python docs/hooks/results.py report/results.json`` stores numbers and words in docs/results/MODEL.json, and the
figures that lie beside that file as small pictures in docs/results/figures/MODEL.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mkdocs.structure.files import File, Files
from reference import cell, in_lines  # mkdocs looks beside this file
from results import STORED, command, reports


def on_config(config: Any, **_: Any) -> Any:
    """Put the pages into the navigation, after the claims."""
    (findings,) = (part["Findings"] for part in config.nav if "Findings" in part)
    findings.insert(1, {"Reports": [{name: f"reports/{name}.md"} for name in reports()]})
    return config


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pages."""
    for name, report in reports().items():
        files.append(File.generated(config, f"reports/{name}.md", content="\n\n".join(page(name, report)) + "\n"))
    return files


def page(name: str, report: dict[str, Any]) -> Iterator[str]:
    """The parts of a report's page."""
    summary = report.get("summary")
    yield f"# The report on {name}"
    if summary:
        yield f"{cell(summary['verdicts'])}. {cell(summary['numbers'])}"
    yield f"[What each claim is, and what was found](../claims.md#on-{name.lower()}), made by"
    yield f"```bash\n{in_lines(command(report))}\n```"
    for plate in report.get("plates") or ():
        yield f"## {plate['title']}"
        yield from _columns(name, plate, report["setup"].get("condition", ""))
    if report.get("left_out"):
        yield "## Left out, and why"
        yield "\n".join(f"- {cell(part)}: {cell(why)}." for part, why in report["left_out"].items())
    if not report.get("plates"):
        yield "This report was stored before figures were. The command makes a page with all of them."


def _columns(name: str, plate: dict[str, Any], condition: str) -> Iterator[str]:
    """The figure with its caption, after that of the network that is asked for nothing, if there is one."""
    both = "plain_caption" in plate
    known = [("-plain", "plain_caption", "asked for nothing")] if both else []
    for suffix, caption, about in (*known, ("", "caption", condition)):
        if both:
            yield f"### {about[:1].upper()}{about[1:]}"
        picture, title = f"{plate['name']}{suffix}.webp", f"{plate['title']}{f', {about}' if both else ''}"
        if (STORED / "figures" / name / picture).is_file():
            place = f"../results/figures/{name}/{picture}"
            yield f"[![{title}]({place})]({place})"
        if not suffix or plate[caption] != plate["caption"]:
            yield cell(plate[caption])
