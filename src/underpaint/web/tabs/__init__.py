"""What each tab asks of the library, and how it shows the answer: values of controls in, what the page shows out."""

from __future__ import annotations

from collections.abc import Callable

from ...progress import Progress
from ..checks import Read, Values
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
    return TABS[tab](server_state, read, progress).made_from(read)
