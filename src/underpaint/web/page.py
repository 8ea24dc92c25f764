"""What happens on the page: which control holds what, where answers go, and what a button starts and stops."""

from __future__ import annotations

import html
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from .. import assets
from ..progress import silent
from .checks import Values
from .server_state import ServerState, Stopped, watched
from .show import Answer, View
from .tabs import ask
from .tour import MODEL, TOUR, onward, words

#: Controls that are fitted to the model.
FITTED = ("prompt", "label", "guidance", "toward", "other end", "plan")
_SCRIPT = (Path(__file__).parent / "result.js").read_text(encoding="utf-8")
_LOG = logging.getLogger(__name__)


class Page:
    """The controls by name, the answers by tab, and how the one reaches the other."""

    def __init__(self, server_state: ServerState) -> None:
        self.server_state = server_state
        self.controls: dict[str, Any] = {}
        self.answers: dict[str, list[gr.HTML]] = {}
        self.buttons: dict[str, tuple[gr.Button, gr.Button]] = {}
        self.figure: gr.Button
        #: the tabs, the tour's words, the button to its next step, and those to each of its steps
        self.tabs: gr.Tabs
        self.guide: gr.HTML
        self.onward: gr.Button
        self.stages: list[gr.Button] = []

    def answer(self, tab: str, again: str) -> None:
        """The places of a tab's view and of its files; ``again`` says what brings them up to date."""
        names = [f"{tab.lower()}-{part}" for part in ("view", "files")]
        self.answers[tab] = [
            gr.HTML(html_template="", js_on_load=_SCRIPT, apply_default_css=False, elem_id=name, again=again)
            for name in names
        ]

    def asked(self, tab: str, words: str) -> None:
        """A button that asks a tab, one that stops it, and the place of the answer."""
        with gr.Row():
            run = gr.Button(words, variant="primary", scale=3, elem_id=f"{tab.lower()}-run")
            stop = gr.Button("Stop", scale=1, min_width=90, elem_id=f"{tab.lower()}-stop")
        self.buttons[tab] = run, stop
        self.answer(tab, f"Press “{words}” for the new ones.")

    @property
    def opens(self) -> bool:
        """Whether the page begins with answers: for a model in the box, which is small."""
        return assets.folder(self.server_state.places[self.server_state.first]) is not None

    @property
    def inputs(self) -> set[Any]:
        return set(self.controls.values())

    def values(self, given: dict[Any, Any]) -> Values:
        """What the controls say, by name."""
        return {name: given[control] for name, control in self.controls.items()}

    @property
    def listening(self) -> str:
        """What the browser does with the controls' values, in their order, at each change: answers look whether they
        are still theirs (result.js)."""
        names = json.dumps({name: control.label for name, control in self.controls.items()}, ensure_ascii=False)
        return f"""(...values) => {{
            const labels = {names};
            const now = Object.fromEntries(Object.keys(labels).map((name, k) => [name, values[k]]));
            window.underpaint = {{ labels, now }};
            document.dispatchEvent(new Event("underpaint-settings"));
            return [];
        }}"""

    def defaults(self, model: str) -> Values:
        """The controls as they stand at first, with a seed that is not on a border between two pictures."""
        first = {name: control.value for name, control in self.controls.items()}
        state = self.server_state
        return first | {"model": model, "seed": state.steady_seed(model), "plan": state.plans(model)[0]}

    def opening(self, tab: str) -> Answer:
        """A tab's answer to the controls as they stand at first: the same for everybody, so it is made once."""
        state = self.server_state

        def answered() -> Answer:
            return ask(tab, state, self.defaults(state.first), silent)

        return state.keep(("opening", tab), lambda: state.work(answered))

    def began(self) -> tuple[int, View]:
        """The seed that the page begins with, and its painting."""
        with sentences():
            answer = self.opening("Paint")
            return answer.settings["seed"], answer.view

    def opened(self, tab: str, files: bool = False) -> View:
        """The view, or the files, of that answer."""
        with sentences():
            answer = self.opening(tab)
            if not files:
                return answer.view
            return self.server_state.keep(("opening files", tab), lambda: self.server_state.work(answer.files))

    def running(self, tab: str) -> Callable[..., Iterator[tuple[View, View]]]:
        """The work of a tab, with progress, which Stop or leaving the page ends: its view, then its files."""

        def run(given: dict[Any, Any], request: gr.Request, progress: gr.Progress = gr.Progress()) -> Any:  # noqa: B008
            def tell(done: int, total: int, what: str) -> None:
                progress((done, total), desc=what)

            state, visitor = self.server_state, _visitor(request)
            with sentences(), state.run(visitor, tab) as stopped:
                values = self.values(given)
                answer = state.work(lambda: ask(tab, state, values, watched(stopped, tell)), visitor, stopped)
                yield answer.view, {}
                yield gr.skip(), state.work(answer.files, visitor, stopped)

        return run

    def quick(self, tab: str, files: bool = False) -> Callable[[dict[Any, Any], gr.Request], View]:
        """A tab that is answered at once, its view or its files alone."""

        def run(given: dict[Any, Any], request: gr.Request) -> View:
            def answered() -> View:
                answer = ask(tab, self.server_state, self.values(given), silent)
                return answer.files() if files else answer.view

            with sentences():
                return self.server_state.quick(answered, _visitor(request))

        return run

    def stopping(self, tab: str) -> Callable[..., None]:
        def stop(request: gr.Request) -> None:
            self.server_state.stop(_visitor(request), tab)

        return stop

    def leaving(self, request: gr.Request) -> None:
        self.server_state.stop(_visitor(request))

    def touring(self, number: int) -> Callable[[gr.Request], list[Any]]:
        """A step of the tour, from 1: all controls as it wants them, its tab, its words, and where it leads on."""
        stage, state = TOUR[number - 1], self.server_state

        def go(request: gr.Request) -> list[Any]:
            with sentences():
                values = {**state.work(lambda: self.defaults(MODEL), _visitor(request)), **stage.settings}
            fitted = dict(zip(FITTED, self.fitting(MODEL), strict=True))
            kinds = ["primary" if k == number else "secondary" for k in range(1, len(TOUR) + 1)]
            return [
                *({**fitted.get(name, gr.update()), "value": values[name]} for name in self.controls),
                gr.update(selected=stage.page),
                words(number),
                gr.update(value=onward(number)),
                *(gr.update(variant=kind) for kind in kinds),
            ]

        return go

    def fitting(self, name: str) -> list[Any]:
        """The controls of `FITTED` as the chosen model takes them."""
        with sentences():
            model, names = self.server_state.model(name), self.server_state.class_names(name)
        takes, prompts = model.embed is not None, self.server_state.prompts(name)
        labels = [
            (f"{label}: {shown}" if shown != str(label) else shown, str(label)) for label, shown in enumerate(names)
        ]
        prompt = gr.update(visible=takes, choices=prompts, value=prompts[0] if prompts else "")
        label = gr.update(visible=bool(labels) and not takes, choices=["any", *labels], value="any")
        guidance = gr.update(visible=takes or bool(labels), value=1)
        toward = gr.update(visible=takes or bool(labels), choices=prompts if takes else labels, value="")
        plans = self.server_state.plans(name)
        return [prompt, label, guidance, toward, toward, gr.update(choices=list(plans), value=plans[0])]


@contextmanager
def sentences() -> Iterator[None]:
    """What a visitor can mend becomes one sentence on the page; anything else an apology, and a line in the log."""
    try:
        yield
    except Stopped:
        raise gr.Error("As you asked.", title="Stopped", duration=2, print_exception=False) from None
    except (ValueError, OSError, ImportError) as error:
        _LOG.info("A run on the page was refused", exc_info=True)
        words = html.escape(str(error))
        raise gr.Error(words, duration=None, title="This cannot be done", print_exception=False) from None
    except Exception:
        _LOG.exception("A run on the page failed")
        words = "Something went wrong on the server, and it is not your doing; its log says what."
        raise gr.Error(words, duration=None, print_exception=False) from None


def _visitor(request: gr.Request) -> str:
    return str(request.session_hash)
