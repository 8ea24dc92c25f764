"""The server: bound to this machine, nothing from outside it, nothing uploaded, nothing kept."""

from __future__ import annotations

import inspect
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.tunneling import CURRENT_TUNNELS

from .. import assets
from ..models.pipelines.hub import fetch, is_hub_id
from .layout import build
from .page import Page
from .server_state import ServerState

_STYLE = Path(__file__).parent / "page.css"
#: The browser is told to load nothing from elsewhere; gradio's own page needs inline and compiled scripts.
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'; form-action 'self'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
#: The largest message that is read, in bytes; what the page itself sends is a few thousand.
_LONGEST = 1 << 18
#: What this machine is called in requests.
_HOSTS = ("127.0.0.1", "localhost", "[::1]")
#: Services of gradio that this page has no use for.
_CLOSED = ("/upload", "/proxy=", "/vibe-", "/process_recording", "/component_server")

Message = MutableMapping[str, Any]


class Guard:
    """Middleware: closes what the page does not need, and adds headers that keep the browser at home."""

    def __init__(self, app: Callable[..., Awaitable[None]], share: bool = False) -> None:
        self.app, self.share = app, share

    async def __call__(self, scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        refusal = refused(scope, self.share) if scope["type"] == "http" else None
        if refusal is None:
            await self.app(scope, receive, guarded)
            return
        status, words = refusal
        await guarded({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": words})


def refused(scope: Message, share: bool = False) -> tuple[int, bytes] | None:
    """Status and words for a request that is not let in: for another host than this machine, as from a page elsewhere
    whose name was bound to this address (``share``: or gradio's tunnel); to a closed service; too long, or of a length
    not told."""
    if not _is_home(dict(scope["headers"]).get(b"host", b"localhost").decode("latin-1"), share):
        return 421, b"This page is for this machine alone; open it at the address that was printed."
    if any(part in scope["path"] for part in _CLOSED):
        return 403, b"This page takes no files."
    length = dict(scope["headers"]).get(b"content-length", b"" if scope["method"] == "POST" else b"0")
    if not length.isdigit():
        return 411, b"Say how long the message is."
    return (413, b"This message is too long.") if int(length) > _LONGEST else None


def _is_home(host: str, share: bool) -> bool:
    name = host.lower() if host.endswith("]") else host.lower().rpartition(":")[0] or host.lower()
    return name in _HOSTS or (share and name.endswith(".gradio.live"))


def start(server_state: ServerState, port: int | None = None, share: bool = False) -> tuple[gr.Blocks, str]:
    """Serve the page at 127.0.0.1 in the background, and begin with the first answers; the page and its address.

    Args:
        port: by default the first free one from 7860 on.
        share: also through a public tunnel of gradio's.

    Raises:
        OSError: the port is taken.
    """
    from starlette.middleware import Middleware

    blocks, page = build(server_state)
    blocks.queue(max_size=64)
    wanted: dict[str, Any] = {
        "server_name": "127.0.0.1",
        "server_port": port,
        "share": share,
        "prevent_thread_lock": True,
        "quiet": True,
        "show_error": True,
        "inbrowser": False,
        "footer_links": [],
        "run_history": False,
        "allowed_paths": [],
        "max_file_size": 1,
        "enable_monitoring": False,
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": False,
        "theme": _theme(),
        "css_paths": [_STYLE],
        "app_kwargs": {"middleware": [Middleware(Guard, share=share)]},
    }
    known = inspect.signature(blocks.launch).parameters  # gradio adds to them from version to version
    _, local, public = blocks.launch(**{name: value for name, value in wanted.items() if name in known})
    threading.Thread(target=_warm, args=(page,), daemon=True).start()
    return blocks, public or local


#: The book's sienna, from light to dark, and its paper and ink (docs/assets/book.css).
_SIENNA = ("#fbf1ec", "#f6dfd4", "#edbfaa", "#e9a586", "#e58a63", "#c1542c", "#a8431f", "#8a3719", "#6b2b14", "#4d1f0e",
           "#331409")  # fmt: skip
_LIGHT = {
    "body_background_fill": "#fdfbf7",
    "body_text_color": "#22223b",
    "button_primary_background_fill": "#a8431f",
    "button_primary_background_fill_hover": "#8a3719",
    "button_primary_text_color": "#ffffff",
}
_DARK = {
    "body_background_fill": "#16162a",
    "body_text_color": "#ecebf4",
    "body_text_color_subdued": "#b4b3c8",
    "background_fill_primary": "#22223b",
    "background_fill_secondary": "#1c1c32",
    "block_background_fill": "#22223b",
    "block_label_text_color": "#ecebf4",
    "block_title_text_color": "#ecebf4",
    "border_color_primary": "#3a3a5c",
    "button_primary_background_fill": "#a8431f",
    "button_primary_background_fill_hover": "#c1542c",
    "button_primary_text_color": "#ffffff",
    "button_secondary_background_fill": "#3a3a5c",
    "button_secondary_background_fill_hover": "#4a4a72",
    "button_secondary_text_color": "#ecebf4",
    "input_background_fill": "#2d2d4c",
    "slider_color": "#e58a63",
}


def _theme() -> Any:
    """Gradio's base theme in the book's colours, by light and in the dark, and the fonts of the visitor's system."""
    sans = [gr.themes.Font(name) for name in ("system-ui", "sans-serif")]
    mono = [gr.themes.Font(name) for name in ("ui-monospace", "monospace")]
    sienna = gr.themes.Color(*_SIENNA, name="sienna")
    theme = gr.themes.Base(primary_hue=sienna, neutral_hue="stone", font=sans, font_mono=mono)
    return theme.set(**_LIGHT, **{f"{name}_dark": colour for name, colour in _DARK.items()})


def _warm(page: Page) -> None:
    """Load the first model and make the first answers while the browser still opens the page."""
    if page.opens:
        with suppress(Exception):  # whoever opens the page is told
            page.began()
            page.opened("Theory")
            page.opened("Paint", files=True)


def serve(
    folders: tuple[str, ...],
    statistics: tuple[str, ...],
    port: int | None,
    share: bool,
    say: Callable[[str], None],
    device: str | None = None,
    dtype: str | None = None,
    calibrations: tuple[str, ...] = (),
) -> None:
    """Serve until interrupted; ``say`` is told the address. Models on the hub are fetched before.

    Raises:
        ValueError: a model, a file of statistics or of plans, a device or a dtype is not there.
        OSError: the port is taken.
    """
    server_state = ServerState(folders, statistics, device, dtype, calibrations)
    for place in folders:
        if place not in assets.names() and not Path(place).exists() and is_hub_id(place):
            fetch(place)
    blocks, address = start(server_state, port, share)
    say(address)
    with suppress(KeyboardInterrupt):
        while blocks.is_running:
            time.sleep(0.1)
    _leave(blocks, server_state)


def _leave(blocks: gr.Blocks, server_state: ServerState) -> None:
    """End the server within two seconds, whatever still runs: what it makes is kept nowhere."""
    closing = threading.Thread(target=blocks.close, kwargs={"verbose": False}, daemon=True)
    closing.start()
    ended = server_state.close(1.0)
    closing.join(0.5)
    for tunnel in CURRENT_TUNNELS:
        tunnel.kill()  # type: ignore[no-untyped-call]
    if not ended or closing.is_alive():
        sys.stdout.flush()
        os._exit(0)  # Python would wait for the thread that works
