"""What each tab asks of the library, and how it shows the answer: values of controls in, what the page shows out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...progress import Progress
from ..checks import Read, Values, condition
from ..server_state import ServerState
from ..show import Answer
from .fewer_calls import solvers_tab, teleport_tab
from .morphing import morph_tab
from .neighbourhood import map_tab, perturb_tab, retrieve_tab
from .painting import features_tab, paint_tab, theory_tab

#: tab(desk, values, progress) -> what the page shows
Tab = Callable[[ServerState, Values, Progress], Answer]

TABS: dict[str, Tab] = {
    "Paint": paint_tab,
    "Theory": theory_tab,
    "Features": features_tab,
    "Teleport": teleport_tab,
    "Solvers": solvers_tab,
    "Perturb": perturb_tab,
    "Map": map_tab,
    "Morph": morph_tab,
    "Retrieve": retrieve_tab,
}


def ask(tab: str, server_state: ServerState, values: Values, progress: Progress) -> Answer:
    """A tab's answer, which knows the settings of the controls that it depends on: those that were read for it."""
    read = Read(values)
    answer = TABS[tab](server_state, read, progress).made_from(read)
    doubts = _doubts(server_state, answer.settings)
    return replace(answer, view=answer.view | {"words": [*doubts, *answer.view["words"]]}) if doubts else answer


def _doubts(server_state: ServerState, settings: Values) -> list[str]:
    """A sentence for each prompt that an answer was made from with words that the model does not know."""
    model = server_state.model(settings["model"]) if "model" in settings else None
    if model is None or model.embed is None:
        return []
    prompts = [condition(settings.get(name), model) for name in ("prompt", "toward", "other end")]
    return [doubt for prompt in dict.fromkeys(prompts) if isinstance(prompt, str) and (doubt := model.doubt(prompt))]
