"""Formulas as MathML, which browsers draw by themselves: nothing is fetched, and no script runs."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

#: What pymdownx.arithmatex makes of $...$ and $$...$$.
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.DOTALL)


#: What the converter leaves to styles that browsers do not have: a script letter, the space about a function, and bars
#: of a norm that keep their height.
_MENDED = {
    '<mi mathvariant="script">N</mi>': "<mi>&#x1D4A9;</mi>",
    "<mi>log</mi>": '<mo form="prefix" lspace="0.1em" rspace="0.17em">log</mo>',
    "<mo>&#x02016;</mo>": '<mo stretchy="false" lspace="0" rspace="0">&#x02016;</mo>',
}


def on_page_content(content: str, **_: Any) -> str:
    """Put MathML in place of LaTeX in the page that mkdocs has rendered."""
    return _FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    block = found[1] == "div"
    formula = convert(html.unescape(found[2]).strip(), display="block" if block else "inline")
    for made, mended in _MENDED.items():
        formula = formula.replace(made, mended)
    return f'<div class="formula">{formula}</div>' if block else formula
