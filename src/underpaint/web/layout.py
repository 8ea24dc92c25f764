"""What stands on the page: words, controls, tabs, and which button is connected to what."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from ..recipes.explorer.painting import SCHEDULES
from ..recipes.morph import WORDS
from .checks import DIRECTIONS, MAX_PICTURES, MAX_POINTS, MAX_SEEDS, MAX_STEPS
from .page import FITTED, Page
from .server_state import ServerState
from .tabs.fewer_calls import LEVELS
from .tabs.morphing import PATHS
from .tabs.painting import OWN
from .tour import TOUR, onward, words

_TITLE = """# underpaint
A diffusion model begins with noise and takes it away, step by step, until a picture stands. Much of what it does on
the way has a closed form. Here you can watch it paint, hold it against the theory, and skip what the theory already
knows."""

_WORDS = """- **State xₜ** = α · picture + σ · noise. **σ/α**, its noise-to-signal ratio, falls from about 100 to 0.
- **Estimate x̂₀**: the finished picture that the network expects when it is shown the state.
- **Principal components** u1, u2, …: the patterns in which the data's pictures differ, strongest first; **λ** is the
  variance of one.
- **The Gaussian** knows of the data their mean and covariance only. Its way from noise to picture is a formula; no
  network is run.
- **Calls** of the network are what time is spent on; with guidance, each look at the state costs two.
- **Seed**: which noise to begin with. **Guidance**: how strictly the prompt or class is followed. **Solver**: how steps
  are taken."""

_PAINT = """A picture on its way. The network's estimate of it settles from coarse to fine: outlines first, details
later; beside it, what the Gaussian makes of the same noise. **Try:** play it, or move the slider with the arrow keys,
and watch the bars fill from the top down. Then take another seed."""

_THEORY = """### When each component is painted
For Gaussian data all of the way is known: each principal component runs by itself, and the larger its
variance λ, the earlier it is painted. The thick curve is the λ you choose, the upright line the time. **Try:** move
log₁₀ λ and see the third chart; then take the schedule of another family of models."""

_FEATURES = """The Gaussian alone, without any network, makes a picture of the seed's noise, its strongest components
first. **Try:** compare it with the network's picture of the same seed under Paint."""

_TELEPORT = """At high noise the network agrees with the Gaussian, so one exact step of the Gaussian can replace many
calls. Compare full sampling, above, with a jump down to σ_skip and the network from there, below. **Try:** after the
run, move the slider: how far can it jump before another picture comes out?"""

_SOLVERS = """### Solvers at equal calls
The same seeds, by every solver with the same number of calls, from the start and after a jump; the number beside a name
is its distance from a fine solution of 50 steps. A calibrated plan was fitted beforehand: to the network, if its file
was given at the start (`--calibration`), or to the data alone. **Try:** a calibrated plan; fewer calls; and the model's
own levels, for the choice of levels often matters more than the solver."""

_PERTURB = """Does a push on the way matter? The state is nudged along one direction, at several times and by several
lengths, and sampled on. An early nudge can become another picture, a late one is merely added, one along noise dies
out; a prompt with guidance resists. **Try:** "random" for the direction, or a class or prompt with guidance 4; click a
picture to compare it."""

_MAP = """The pictures around one sample. A state on its way, or the finished sample, is moved along two directions.
**Try:** move it at 1, the finished sample: directions of images lead to other images, others to noise. Or choose
another prompt or class to blend into, from the top down."""

_MORPH = """From one sample to another. The straight line mixes the two pictures, so halfway there are both at once. The
other paths stay where the network knows pictures. **Try:** play it; then take another kind of path, or another class or
prompt for the other end."""

_RETRIEVE = """Does the model copy? Below its estimates are the training images nearest to them. The exact score knows
nothing but the training images and ends in one of them. **Try:** look where the network parts from it: there it makes
something new."""


def build(server_state: ServerState) -> tuple[gr.Blocks, Page]:
    """The page for the models on a desk."""
    page = Page(server_state)
    with gr.Blocks(title="underpaint", analytics_enabled=False) as blocks:
        gr.Markdown(_TITLE, elem_id="title")
        with gr.Accordion(f"A tour in {len(TOUR)} steps", open=True, elem_id="tour"):
            _tour(page)
        with gr.Accordion("Words used here", open=False, elem_id="words"):
            gr.Markdown(_WORDS)
        with gr.Group():
            _subject(page)
        with gr.Tabs(elem_id="tabs") as page.tabs:
            for name, layout in _LAYOUTS.items():
                with gr.Tab(name, id=name):
                    layout(page)
        _connect(page, blocks)
    return blocks, page


def _connect(page: Page, blocks: gr.Blocks) -> None:
    """Every button to its work. Long work is done in turn; closed forms never wait for it.

    Requests wait for their turn in the server's state, which knows whose they are, not in gradio's queue, which takes
    them as they come. Those that wait there hold a thread each, of 40 that gradio has.
    """
    private: dict[str, Any] = {"api_visibility": "private"}
    work: dict[str, Any] = {**private, "concurrency_id": "work", "concurrency_limit": 24}
    quick: dict[str, Any] = {**private, "concurrency_id": "quick", "concurrency_limit": 12}
    controls, runs = page.controls, dict[str, list[Any]]()
    for tab, (run, _) in page.buttons.items():
        answers = page.answers[tab]
        runs[tab] = [run.click(page.running(tab), page.inputs, answers, show_progress_on=answers[0], **work)]
    toured = [*controls.values(), page.tabs, page.guide, page.onward, *page.stages]
    for number, (stage, button) in enumerate(zip(TOUR, page.stages, strict=True), 1):
        answers = page.answers[stage.tab]
        ready = button.click(page.touring(number), None, toured, show_progress="hidden", **work)
        event = ready.success(page.running(stage.tab), page.inputs, answers, show_progress_on=answers[0], **work)
        for told in (ready, event):  # before there is an answer the page may be too short
            told.success(None, js=_SHOW.replace("VIEW", f"{stage.tab.lower()}-view"), queue=False, **private)
        runs[stage.tab].append(event)
    page.onward.click(None, js=_ONWARD, queue=False, **private)
    for tab, (_, stop) in page.buttons.items():
        stop.click(page.stopping(tab), None, None, cancels=runs[tab], queue=False, show_progress="hidden", **private)
    changes = [control.change for control in controls.values()]
    gr.on(changes, None, list(controls.values()), None, js=page.listening, queue=False, **private)
    shaped = [controls[name] for name in FITTED]
    controls["model"].input(page.fitting, controls["model"], shaped, show_progress="minimal", **quick)
    view, files = page.answers["Theory"]
    gr.on(
        [controls[name].change for name in ("model", "schedule", "variance", "at")],
        page.quick("Theory"),
        page.inputs,
        view,
        show_progress="hidden",
        trigger_mode="always_last",
        **quick,
    )
    page.figure.click(page.quick("Theory", files=True), page.inputs, files, **quick)
    blocks.load(page.fitting, controls["model"], shaped, show_progress="hidden", **quick)
    if page.opens:
        blocks.load(partial(page.opened, "Theory"), None, view, **quick)
        view, files = page.answers["Paint"]
        first = blocks.load(page.began, None, [controls["seed"], view], show_progress_on=view, **work)
        first.success(partial(page.opened, "Paint", files=True), None, files, **work)
    blocks.unload(page.leaving)


#: What the button to the next step of the tour does: it presses that step's own.
_ONWARD = """() => {
    const next = document.querySelector("#tour-words [data-next]").dataset.next;
    document.getElementById(`tour-${next}`).click();
    return [];
}"""

#: Bring the answer of the tab that a step of the tour opened to just below the words of the tour, which stay in sight.
#: Where gradio's container hides what overflows it, nothing in it is sticky.
_SHOW = """() => {
    document.querySelector(".gradio-container").style.setProperty("overflow", "clip", "important");
    setTimeout(() => {
        const answer = document.getElementById("VIEW");
        const box = document.getElementById("tour");
        const kept = getComputedStyle(box).position === "sticky" ? box.offsetHeight + 12 : 0;
        if (answer) window.scrollTo({ top: answer.getBoundingClientRect().top + scrollY - kept, behavior: "smooth" });
    }, 300);
    return [];
}"""


def _tour(page: Page) -> None:
    """A button for each step, the words of the one that was taken, and the way on."""
    with gr.Row(elem_id="tour-steps"):
        for number, stage in enumerate(TOUR, 1):
            button = gr.Button(f"{number} {stage.name}", size="sm", min_width=84, elem_id=f"tour-{number}")
            page.stages.append(button)
    page.guide = gr.HTML(words(0), elem_id="tour-words")
    page.onward = gr.Button(onward(0), size="sm", elem_id="tour-next")


def _subject(page: Page) -> None:
    """What every tab is about."""
    add, first = page.controls, page.server_state.first
    prompts = page.server_state.prompts(first)
    with gr.Row():
        add["model"] = gr.Dropdown(list(page.server_state.places), value=first, label="Model", scale=1, min_width=200)
        add["prompt"] = gr.Dropdown(
            prompts,
            value=prompts[0] if prompts else "",
            label="Prompt",
            info="Choose one or write your own; empty is whatever the model likes.",
            allow_custom_value=True,
            scale=3,
            min_width=260,
            visible=bool(prompts),
        )
        add["label"] = gr.Dropdown(
            ["any"], value="any", label="Class", allow_custom_value=True, visible=False, min_width=140
        )
    with gr.Row():
        add["seed"] = gr.Number(0, label="Seed", min_width=100)
        add["steps"] = gr.Slider(4, MAX_STEPS, 12, step=1, label="Steps", min_width=160)
        add["guidance"] = gr.Slider(0, 15, 1, step=0.5, label="Guidance", min_width=160)
        add["solver"] = gr.Dropdown(
            ["ddim", "heun", "dpmpp-2m", "dpmpp-3m"], value="ddim", label="Solver", min_width=120
        )


def _paint(page: Page) -> None:
    gr.Markdown(_PAINT)
    page.asked("Paint", "Paint")


def _theory(page: Page) -> None:
    gr.Markdown(_FEATURES)
    page.asked("Features", "Let the Gaussian paint this seed")
    gr.Markdown(_THEORY)
    with gr.Row():
        page.controls["schedule"] = gr.Dropdown([OWN, *SCHEDULES], value=OWN, label="Schedule", min_width=200)
        page.controls["variance"] = gr.Slider(-4, 3, 1.5, step=0.1, label="log₁₀ λ", min_width=200)
        page.controls["at"] = gr.Slider(0, 1, 0.5, step=0.01, label="Time: noise (0) to image (1)", min_width=200)
    page.answer("Theory", "The new ones follow by themselves.")
    page.figure = gr.Button("Figure and downloads", size="sm", elem_id="theory-figure")


def _teleport(page: Page) -> None:
    gr.Markdown(_TELEPORT)
    add = page.controls
    with gr.Row():
        add["seeds"] = gr.Slider(1, MAX_SEEDS, 2, step=1, label="Seeds, from the chosen one on", min_width=200)
        add["tolerance"] = gr.Slider(
            0.01, 1, 0.1, step=0.01, label="Allowed error, standard deviations of the data", min_width=200
        )
    page.asked("Teleport", "Jump and compare")
    gr.Markdown(_SOLVERS)
    with gr.Row():
        add["calls"] = gr.Slider(2, 30, 6, step=1, label="Calls of the denoiser", min_width=200)
        add["landing"] = gr.Slider(-0.5, 1.5, 1, step=0.1, label="Jumps land on log₁₀ σ/α", min_width=200)
        add["levels"] = gr.Dropdown(list(LEVELS), value=next(iter(LEVELS)), label="Levels", min_width=160)
        plans = list(page.server_state.plans(page.server_state.first))
        add["plan"] = gr.Dropdown(plans, value=plans[0], label="Calibrated plan", min_width=200)
    page.asked("Solvers", "Compare solvers")


def _perturb(page: Page) -> None:
    gr.Markdown(_PERTURB)
    add = page.controls
    with gr.Row():
        add["direction"] = gr.Dropdown(list(DIRECTIONS), label="Principal component of", min_width=200)
        add["number"] = gr.Slider(1, 50, 1, step=1, label="Which (a seed, if random)", min_width=160)
        add["magnitude"] = gr.Slider(1, 32, 8, step=1, label="Longest nudge, in σ", min_width=160)
    with gr.Row():
        add["from"] = gr.Slider(0, 1, 0, step=0.05, label="First nudge: noise (0) to image (1)", min_width=160)
        add["to"] = gr.Slider(0, 1, 0.8, step=0.05, label="Last nudge", min_width=160)
    page.asked("Perturb", "Nudge")


def _map(page: Page) -> None:
    gr.Markdown(_MAP)
    add = page.controls
    with gr.Row():
        for axis, title, first in (("across", "Across", 1), ("down", "Up", 2)):
            kinds, words = list(DIRECTIONS), f"{title}: component of"
            add[axis] = gr.Dropdown(kinds, value="path of the estimate", label=words, min_width=260)
            add[f"{axis} number"] = gr.Slider(1, 20, first, step=1, label=f"{title}: which", min_width=120)
    with gr.Row():
        add["enter"] = gr.Slider(0, 1, 0.35, step=0.05, label="Moved at: noise (0) to image (1)", min_width=160)
        add["span"] = gr.Slider(0.05, 2, 0.5, step=0.05, label="Farthest, share of its length", min_width=160)
        add["points"] = gr.Slider(3, MAX_POINTS, 5, step=2, label="Pictures to a side", min_width=160)
        add["toward"] = gr.Dropdown([], value="", label="Blend into", allow_custom_value=True, min_width=200)
    page.asked("Map", "Map")


def _morph(page: Page) -> None:
    gr.Markdown(_MORPH)
    add = page.controls
    with gr.Row():
        add["other seed"] = gr.Number(8, label="Seed of the other end", min_width=140)
        add["other end"] = gr.Dropdown(
            [], value="", label="Prompt or class of the other end", allow_custom_value=True, min_width=200
        )
    with gr.Row():
        add["path"] = gr.Dropdown(list(PATHS), value=WORDS["principal"], label="Path", min_width=200)
        add["pictures"] = gr.Slider(3, MAX_PICTURES, 9, step=1, label="Pictures on the way", min_width=160)
    page.asked("Morph", "Go from one to the other")


def _retrieve(page: Page) -> None:
    gr.Markdown(_RETRIEVE)
    page.controls["neighbours"] = gr.Slider(1, MAX_SEEDS, 3, step=1, label="Training images to show")
    page.asked("Retrieve", "Look up")


_LAYOUTS = {
    "Paint": _paint,
    "Theory": _theory,
    "Teleport": _teleport,
    "Perturb": _perturb,
    "Map": _map,
    "Morph": _morph,
    "Retrieve": _retrieve,
}
