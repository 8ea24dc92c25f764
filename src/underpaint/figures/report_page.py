"""Write a report to a folder: figures, every number as JSON, and one self-contained page."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, PackageLoader, select_autoescape
from matplotlib.figure import Figure

from ..files import replacing_in
from ..recipes.report.build import Report
from ..recipes.report.claims import HIGH_NOISE, Claim, count_verdicts, pooled
from ..recipes.shared.results import to_json
from .folder import LAST
from .report import REPORT_FIGURES, ReportFigure
from .style import RC
from .svg import draw_svg


def write_report(
    report: Report, folder: str | Path, progress: Callable[[str, int], Callable[[], None]]
) -> dict[str, Any]:
    """Write index.html, figures/*.png and *.svg, and results.json into a folder; return what results.json holds.

    All is first written aside and takes its place at the end, the page last, so that an interruption or a full disk
    leaves what was there before.

    Raises:
        OSError: the folder cannot be written.
    """
    advance = progress("drawing", len(REPORT_FIGURES))
    said = summary(report)
    warning = "" if report.check.sound else f"{report.check.short} "
    finding = {"finding": f"{warning}{said['verdicts']}. {said['numbers']}"}
    results: dict[str, Any] = finding | to_json(report) | {"summary": said, "plates": []}
    with replacing_in(folder, LAST) as draft:
        (draft / "figures").mkdir()
        shown: list[dict[str, Any]] = []
        for plate in REPORT_FIGURES:
            columns = list(_columns(report, plate, draft / "figures"))
            if columns:
                title = f"{len(shown) + 1}. {plate.title}"
                shown.append({"name": plate.name, "title": title, "columns": columns})
                plain = {"plain_caption": columns[0]["caption"]} if len(columns) > 1 else {}
                known = {"name": plate.name, "title": title, "caption": columns[-1]["caption"]}
                results["plates"].append(known | plain)
            advance()
        (draft / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False), encoding="utf-8")
        environment = Environment(
            loader=PackageLoader("underpaint.figures", "."), autoescape=select_autoescape(default=True)
        )
        page = environment.get_template("report.html.j2").render(
            report=report,
            plates=shown,
            setup=report.setup,
            verdicts=results["summary"]["verdicts"],
            numbers=results["summary"]["numbers"],
            pairs=pairs(report),
        )
        (draft / "index.html").write_text(page, encoding="utf-8")
    return results


def _columns(report: Report, plate: ReportFigure, folder: Path) -> Iterator[dict[str, str]]:
    """The figure of what the report is about, after that of the network that is asked for nothing, if there is one."""
    for part, suffix in ((report.plain if plate.measured else None, "-plain"), (report, "")):
        figure = None if part is None else plate.draw(part)
        if part is not None and figure is not None:
            name = f"{plate.name}{suffix}"
            drawn, about = _save(figure, folder / name), "asked for nothing" if suffix else part.setup["condition"]
            yield {
                "name": name,
                "about": about,
                "caption": plate.caption(part),
                "image": base64.b64encode(drawn.encode()).decode(),
            }


def summary(report: Report) -> dict[str, str]:
    """What stands on top of the page: how many claims hold, and the findings."""
    verdicts = count_verdicts(report.claims) if report.claims else "No claim is judged"
    if report.plain is None:
        return {"verdicts": verdicts, "numbers": _numbers(report)}
    about = {"asked for nothing": report.plain, report.setup["condition"]: report}
    counted = [f"{name}: {count_verdicts(part.claims)}" for name, part in about.items()]
    numbers = [f"{name}: {_numbers(part)}" for name, part in about.items()]
    return {"verdicts": _sentence("; ".join(counted)), "numbers": " ".join(map(_sentence, numbers))}


def pairs(report: Report) -> list[tuple[Claim | None, Claim]]:
    """Each claim of what was asked for, after the same of the network that is asked for nothing."""
    plain = {claim.statement: claim for claim in report.plain_claims}
    return [(plain.get(claim.statement), claim) for claim in report.claims]


def _numbers(report: Report) -> str:
    """The findings in one line."""
    two = 100 * float(report.geometry.shares["x"].mean[1])
    words = [f"two principal components hold {two:.4g} % of the variance of a trajectory"]
    part, high = report.agreement, report.agreement.level.ratio[:-1] >= HIGH_NOISE
    if bool(high.any()):
        share = float(pooled(part.shares["Gaussian"], part.signal, high).mean())
        words.append(f"the Gaussian {explains(share)} of the denoised image at σ/α ≥ {HIGH_NOISE:g}{_few(report)}")
    emerged = float((report.emergence.measured_half / report.emergence.predicted_half).nanmedian())
    words.append(f"features appear at {emerged:.2g} times the predicted σ/α (median)")
    return f"{_sentence('; '.join(words))}."


def explains(share: float) -> str:
    """Of a share of the variance about the data mean: "explains 92.1 %"; where it is below 0, the mean is nearer."""
    percent = round(100 * share, 1)
    return f"explains {percent:g} %" if percent > 0 else "explains nothing"


def _few(report: Report) -> str:
    """Where the Gaussian was fitted to fewer images than they have numbers: that these are too few."""
    subject = report.subject
    count, numbers = subject.rows.shape
    if not subject.fitted or count > numbers:
        return ""
    more = "a larger --samples" if subject.own else "more data, or --gaussian,"
    return (
        f" (it is fitted to {count:,} images of {numbers:,} numbers each, which are too few; {more} may explain more)"
    )


def _sentence(words: str) -> str:
    """With a capital letter."""
    return words[:1].upper() + words[1:]


def _save(figure: Figure, stem: Path) -> str:
    """Write a figure as PNG and as SVG, and return the SVG."""
    drawn = draw_svg(figure)
    stem.with_suffix(".svg").write_bytes(drawn.encode())
    with matplotlib.rc_context(RC):
        figure.savefig(stem.with_suffix(".png"))
    return drawn
