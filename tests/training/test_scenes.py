"""Scenes that prompts describe: what a caption says, and nothing else, is kept."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

TRAINING = Path(__file__).parents[2] / "training"


@pytest.fixture
def scenes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TRAINING))
    return import_module("scenes")


def test_a_caption_describes_its_scene(scenes: ModuleType) -> None:
    rng, kinds = np.random.default_rng(0), set()
    for _ in range(300):
        scene = scenes.draw_scene(rng)
        caption = scene.caption(rng)
        if caption.rpartition(", ")[2].endswith(("left", "right", "middle", "top", "bottom")):
            caption = caption.rpartition(", ")[0]
        again = scenes.described(rng, caption)
        assert sorted(placed.name for placed in again.objects) == sorted(placed.name for placed in scene.objects)
        assert (again.kind, again.colours) == (scene.kind, scene.colours)
        kinds.add((scene.kind, len(scene.objects)))
    assert len(kinds) == 9


def test_its_places_are_drawn_as_those_of_any_scene(scenes: ModuleType) -> None:
    """Means of centre and size over 2,000 scenes of two objects, by either way, to five standard errors."""
    rng = np.random.default_rng(1)
    free = [scenes.draw_scene(rng, (0.0, 1.0, 0.0)) for _ in range(2000)]
    bound = [scenes.described(rng, "a fox and a pine tree on a blue background") for _ in range(2000)]
    known, found = (
        np.array([[place for placed in scene.objects for place in (placed.x, placed.y, placed.size)] for scene in some])
        for some in (free, bound)
    )
    assert (abs(known.mean(0) - found.mean(0)) < 5 * known.std(0) * (2 / 2000) ** 0.5).all()
    assert (abs(known.std(0) / found.std(0) - 1) < 0.1).all()


@pytest.mark.parametrize(
    "prompt",
    [
        "a unicorn on a blue background",
        "a fox and a fox on a blue background",
        "a fox on a mauve background",
        "a fox, a frog, a penguin and an octopus on a blue background",
        "a fox on a blue background, fox on the left",
        "a fox",
    ],
)
def test_other_prompts_are_refused(scenes: ModuleType, prompt: str) -> None:
    with pytest.raises(ValueError, match="no caption of one to three objects"):
        scenes.described(np.random.default_rng(0), prompt)
