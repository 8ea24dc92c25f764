"""What the search finds first: guides before the reference, and public names before what is inside the package."""

from __future__ import annotations

from typing import Any

#: Beginning of a page's address -> by how much its matches weigh more than those of other pages; the first that fits.
#: A match in a title weighs 1,000 times one in the text, and titles of the reference are names such as
#: `DDPM.stable_diffusion`: they come after a guide's text.
BOOSTS = {
    "guides/": 4.0,
    "index.md": 4.0,
    "reference/names/": 0.003,
    "reference/inside/": 0.0005,
    "reference/": 0.3,
}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> None:
    """Set the weight, unless the page sets one of its own."""
    boost = next((value for start, value in BOOSTS.items() if page.file.src_uri.startswith(start)), 1.0)
    page.meta.setdefault("search", {}).setdefault("boost", boost)
