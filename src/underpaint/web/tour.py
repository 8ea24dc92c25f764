"""A guided tour of six steps: what the controls are set to, which tab is asked, and what to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: The model of the tour: of the box, small, and one that agrees with the theory.
MODEL = "fashion-mnist"


@dataclass(frozen=True)
class Stage:
    """One step of the tour: where on the page it is (``page``), which ``tab`` is asked there, the ``settings`` of the
    controls that are not as at first, and the words beside it."""

    name: str
    page: str
    tab: str
    words: str
    settings: Mapping[str, Any] = field(default_factory=dict)


TOUR = (
    Stage(
        "Watch",
        "Paint",
        "Paint",
        "The network begins with noise and takes it away in 12 steps. Move the slider below the pictures, and look at "
        "the third one, the network's estimate of the finished picture. Its outline is there long before its details.",
    ),
    Stage(
        "Predict",
        "Theory",
        "Features",
        "No network runs here. A Gaussian, which knows only the mean and the covariance of the training images, makes "
        "a picture of the same noise by a formula. Its first estimates, at high noise, are much like the network's "
        "first ones. Below each is the pattern that appears just then: the strong ones first.",
    ),
    Stage(
        "Skip",
        "Teleport",
        "Teleport",
        "One step of that formula now replaces the first steps of the network. Above is full sampling, below is what "
        "comes out after the jump. Move the slider: the caption says how many calls are saved, and the two rows stay "
        "alike until the jump is too long.",
    ),
    Stage(
        "Nudge",
        "Perturb",
        "Perturb",
        "The state was pushed along the strongest pattern of the data, at five moments, and sampled on. Compare the "
        "columns: in the middle nothing was moved. The dashed line of the chart is what theory expects of each push.",
        {"direction": "data"},
    ),
    Stage(
        "Retrieve",
        "Retrieve",
        "Retrieve",
        "Below each estimate are the training images that are nearest to it. They change on the way, so a picture is "
        "not decided at the start. Look at the last column: the distances say whether the finished picture is a copy "
        "of one of them.",
    ),
    Stage(
        "Break",
        "Teleport",
        "Teleport",
        "The same jumps, but now the network is told to paint trousers, with a guidance of 8. Above are trousers; "
        "below, after a jump over 6 of the 12 steps, they are broken or gone. In step 3, without guidance, the same "
        "jump left the pictures alike: move the slider there and here. Guided sampling no longer follows the data, "
        "and the formula knows only the data, so it jumps to where the network finds something else.",
        {"label": "1", "guidance": 8},
    ),
)


def words(number: int) -> str:
    """What the page says at a step of the tour, from 1; 0 is before it. HTML, which names the step that comes next."""
    following = number % len(TOUR) + 1
    if number == 0:
        said = (
            "Each step sets the controls, runs, and says what to look at. Take them in order or pick one; close this "
            "box to look around by yourself, and open it again at any time."
        )
    else:
        stage = TOUR[number - 1]
        said = f"<b>Step {number} of {len(TOUR)}: {stage.name}.</b> {stage.words}"
    return f'<p data-next="{following}">{said}</p>'


def onward(number: int) -> str:
    """The words of the button that leads to the next step."""
    if number == 0:
        return "Begin the tour"
    return "Begin again" if number == len(TOUR) else f"Next: {TOUR[number].name}"
