"""What people run with diffusers: recorded to the bit, loaded as a denoiser, teleported and solved, each by value."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import abilities
import pytest
import zoo
import zoo_more  # noqa: F401
from abilities import ABILITIES, Case
from diffusers.utils import logging

from underpaint.models.sounds import BANDS, WAVE, WIDTH

logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore:__array")
#: Those that differ most in what they do around their network; the others are slow together.
FEW = {
    *("flux2", "qwen_image", "z_image", "lumina2", "wan22", "ltx_image_to_video", "ltx_condition", "cogvideox"),
    *("stable_audio", "inpainting", "inpainting_without_mask", "deepfloyd", "image_to_image", "ltx2"),
    *("allegro", "cosmos", "cosmos2_image", "cosmos25", "latent_upscale", "omnigen", "prx_pixel", "prx_pixel_unit"),
    "hunyuan_image",
}


@cache
def case(name: str) -> Case:
    return Case(*zoo.ZOO[name]())


@pytest.mark.parametrize("ability", ABILITIES)
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FEW else pytest.mark.slow) for n in zoo.ZOO])
def test_an_ability_holds_or_is_refused_in_one_sentence(name: str, ability: str) -> None:
    refusal = zoo.REFUSED.get((name, ability))
    if refusal is not None:
        with pytest.raises(ValueError, match=refusal):
            ABILITIES[ability](case(name))
        return
    if not abilities.asked(case(name), ability):
        pytest.skip("there is nothing to compare it with")
    bound = 0.02 if (name, ability) in zoo.INEXACT else abilities.BOUND
    assert ABILITIES[ability](case(name)) <= bound


@pytest.mark.parametrize("name", ["qwen_image", "z_image", "lumina2", "ltx_condition", "deepfloyd"])
def test_guidance_has_its_halves(name: str) -> None:
    """guided = unconditional + w (conditional - unconditional), with w = 3, or 4 where 1 means none more; scaled by
    token where the pipeline does so."""
    seen = case(name).seen
    assert isinstance(seen.halves, tuple)
    cond, uncond = seen.halves
    assert float((cond - uncond).abs().max()) > 1e-3 * float(cond.abs().max())
    weight = 4 if name == "z_image" else 3
    if name not in ("qwen_image", "lumina2"):
        gap = seen.guided - (uncond + weight * (cond - uncond))
        assert float(gap.abs().max()) <= 1e-4 * float(seen.guided.abs().max())


def test_a_video_and_a_sound_come_out_as_such() -> None:
    video, sound = case("wan22"), case("stable_audio")
    assert video.seen.decode(video.seen.trajectory.x[-2:]).shape == (2, 1, 5, 3, 16, 16)
    assert video.model.images(video.seen.trajectory.final).shape == (1, 3, 16, 5 * 16)  # a strip of its frames
    assert sound.seen.decode(sound.seen.trajectory.x[-2:]).shape[:3] == (2, 1, 2)
    assert sound.model.images(sound.seen.trajectory.final).shape == (1, 1, WAVE + BANDS, WIDTH)


def test_the_table_in_the_book_is_what_the_tests_expect() -> None:
    """It is made by benchmarks/pipelines.py; what a new diffusers changes in it fails in the tests above."""
    page = (Path(__file__).parents[2] / "docs" / "guides" / "pipelines.md").read_text(encoding="utf-8")
    table = page[page.index("| pipeline |") :].partition("\n\n")[0]
    cells = [line.strip("| ").split(" | ") for line in table.splitlines()]
    assert cells[0] == ["pipeline", *ABILITIES]
    rows = dict(zip(zoo.ZOO, cells[2:], strict=True))
    for name, (title, *marks) in rows.items():
        assert title.startswith(type(zoo.ZOO[name]()[0]).__name__)
        for ability, mark in zip(ABILITIES, marks, strict=True):
            noted = (name, ability) in {**zoo.REFUSED, **zoo.INEXACT}
            assert mark.startswith("[") if noted else mark in "✓·"
