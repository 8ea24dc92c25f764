"""A picture of a page is a link to itself, so that it can be opened large: on a phone a figure is 350 pixels wide."""

from __future__ import annotations

import re
from typing import Any

#: A picture, and the link that it stands in, if any.
_PICTURE = re.compile(r'(<a\b[^>]*>\s*)?(<img\b(?:"[^"]*"|[^">])*?\bsrc="([^"]+)"(?:"[^"]*"|[^">])*>)')


def on_page_content(html: str, **_: Any) -> str:
    """Put every picture that leads nowhere into a link to its file."""
    return _PICTURE.sub(_linked, html)


def _linked(found: re.Match[str]) -> str:
    link, picture, file = found.groups()
    return found[0] if link else f'<a href="{file}" title="Open this picture large">{picture}</a>'
