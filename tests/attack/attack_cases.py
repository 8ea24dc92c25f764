"""Cases for the command line: each command as it works, with one of its options given a value of the grammar.

Options are found in the application itself, so that a new one is attacked by its type without a word here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import attack_files as files
import attack_values as values
import numpy as np
from attack_files import Made
from attack_values import Value


@dataclass(frozen=True)
class Case:
    """One call of the command line.

    Attributes:
        what: in words; unique.
        arguments: of `underpaint`; relative paths are in an empty folder.
        fits: False if it has to be refused, None if it may be taken.
        prepare: makes the files that it needs in that folder.
        kept: files that ``prepare`` makes there.
    """

    what: str
    arguments: tuple[str, ...]
    fits: bool | None = False
    prepare: Callable[[Path], None] | None = None


#: command -> arguments with which it does a little; {model}, {data} ... are places in `workplace`
BASE = {
    "report": "--model {model} --data {data} --seeds 0-7 --steps 12 --out result",
    "trajectory": "--model {model} --seeds 0-1 --steps 4 --gaussian {gaussian} --out result",
    "compare": "--model {model} --data {data} --seeds 0-1 --steps 4 --images 8 --local 0 --out result",
    "retrieve": "--model {model} --data {data} --seeds 0-1 --steps 4 --samples 2 --out result",
    "regimes": "--model {model} --data {data} --seeds 0-1 --steps 4 --images 4 --levels 2 --out result",
    "perturb": "--model {model} --seeds 0-1 --steps 4 --magnitudes 1 --gaussian {gaussian} --out result",
    "map": "--model {model} --steps 4 --points 3 --gaussian {gaussian} --out result",
    "sample": "--model {model} --seeds 0-1 --steps 4 --out result.png",
    "calibrate": "{model} --calls 3 --seeds 0-1 --held-out 5-6 --fine 20 --effort 2 --gaussian {gaussian} "
    "--out result.json",
    "bench": "--model {model} --calls 3 --seeds 4-5 --tuning 0-1 --fine 8 --grids log --solvers DDIM,exponential "
    "--gaussian {gaussian} --no-parquet --out result",
    "stats": "{data} --out result.safetensors",
    "convert": "{snapshot} --out result.safetensors",
    "spectrum": "--scheduler DDIM --steps 3 --eigenvalues 1,0.1 --out result",
}
#: What an option needs beside it in order to be read.
_WITH = {
    ("sample", "--teleport"): "--gaussian {gaussian}",
    ("sample", "--calibration"): "--gaussian {gaussian} --steps 3",
    ("sample", "--gaussian"): "--teleport 5",
    ("sample", "--guidance"): "--model {classes} --class 1",
    ("trajectory", "--guidance"): "--model {classes} --class 1",
    ("perturb", "--guidance"): "--model {classes} --class 1",
    ("map", "--guidance"): "--model {classes} --class 1",
    ("calibrate", "--calibration"): "--calls 3",
    ("bench", "--calibration"): "--solvers calibrated",
    **{
        ("bench", option): "--samples 4 --reference {reference}"
        for option in ("--own", "--steps", "--solver", "--features")
    },
    **{("compare", option): "--local 100" for option in ("--released", "--shared", "--tune-shared")},
    ("convert", "--config"): "",
    ("spectrum", "--config"): "",
}
_RANGES = {"--seeds", "--tuning", "--calls", "--held-out", "--at"}
_PROMPTS = {"--prompt", "--negative", "--toward"}
_TEXTS = {
    "--magnitudes": values.numbers,
    "--eigenvalues": values.numbers,
    "--size": values.sizes,
    "--memory": values.memories,
    "--along": values.nudged,
}
_SEEDS = ("--seed",)


def cases(work: Path, rng: Random) -> Iterator[Case]:
    """All cases of a seed, by command and option, and the models, sources and data that commands take as arguments."""
    for name, base in BASE.items():
        plain = base.format(**places(work)).split()
        yield Case(f"{name}: as it is", (name, *plain, "--json"), None)
        for option, kind in options(name):
            if not option:
                listed = _arguments(name, plain, work, rng)
            else:
                listed = _options(name, plain, option, kind, work, rng) if kind is not bool else iter(())
            yield from (case for case in listed if case.fits is False or name not in _LONG)


def options(command: str) -> Iterator[tuple[str, type]]:
    """(option, type of one value) of a command; "" stands for an argument."""
    from typer.models import ArgumentInfo

    from underpaint.cli import app

    (found,) = [known for known in app.registered_commands if command in (known.name, known.callback.__name__)]
    for hint in get_type_hints(found.callback, include_extras=True).values():
        if get_origin(hint) is Annotated:
            kind, info = get_args(hint)
            names = [] if isinstance(info, ArgumentInfo) else [info.default, *(info.param_decls or ())]
            listed = [part for part in _parts(kind) if part is not type(None)]
            yield next((name for name in names if isinstance(name, str) and name[:2] == "--"), ""), listed[0]


def _parts(kind: Any) -> list[Any]:
    """The types that a union or a list is of; the type itself otherwise."""
    return [part for one in get_args(kind) for part in _parts(one)] or [kind]


def _options(name: str, plain: list[str], option: str, kind: type, work: Path, rng: Random) -> Iterator[Case]:
    beside = _WITH.get((name, option), "").format(**places(work)).split()
    rest = _without(_without(plain, option), *[text for text in beside if text.startswith("--")])
    for value in _values(option, kind, rng):
        what = f"{name} {option} {value.text[:40]!r}"
        yield Case(what, (name, *rest, *beside, f"{option}={value.text}", "--json"), value.fits)
    for made in _files(name, option, work, rng):
        place = f"given{made.ending or _ENDINGS.get(option, '')}"
        yield Case(
            f"{name} {option} {made.what}",
            (name, *rest, *beside, option, place, "--json"),
            made.fits,
            lambda folder, made=made, place=place: made.make(folder / place),
        )
    if option == "--out":
        yield from _targets(name, rest, plain[-1])


def _arguments(name: str, plain: list[str], work: Path, rng: Random) -> Iterator[Case]:
    """For the place that a command takes first."""
    option = {"stats": "--data", "calibrate": "--model", "convert": "source"}[name]
    for made in _files(name, option, work, rng):
        place = f"given{made.ending or _ENDINGS.get(option, '')}"
        yield Case(
            f"{name} {made.what}",
            (name, place, *plain[1:], "--json"),
            made.fits,
            lambda folder, made=made, place=place: made.make(folder / place),
        )


def _reals(rng: Random) -> Iterator[Value]:
    return (v for v in values.real(rng) if v.text not in ("1,5", "1 2", "1e400"))


def _values(option: str, kind: type, rng: Random) -> Iterator[Value]:
    if option in _RANGES or (option == "--steps" and kind is str):
        yield from values.ranges(rng)
    elif option in _TEXTS:
        yield from _TEXTS[option](rng)
    elif option in _PROMPTS:
        yield from values.prompts(rng)
    elif option in _SEEDS:
        yield from (
            Value(v.text, None if v.text.isdecimal() and int(v.text) < 2**32 else v.fits) for v in values.whole(rng)
        )
    elif kind is int:
        yield from values.whole(rng)
    elif option == "--teleport":  # what lies above the first level skips nothing, and the summary says so
        yield from (
            Value(v.text, None if v.text[:1].isdecimal() and float(v.text) > 1e6 else v.fits) for v in _reals(rng)
        )
    elif kind is float:
        yield from values.real(rng)
    elif option not in _ENDINGS and option != "--out":
        yield from values.words(rng)


_ENDINGS = {
    "--calibration": ".json",
    "--gaussian": ".safetensors",
    "--reference": ".npz",
    "--data": ".npy",
    "--model": "",
    "--config": ".json",
    "--checkpoint": "",
    "source": ".pkl",
}


#: Commands that read the files of an option soonest; the others are given only what is no such file at all.
_READERS = {"sample", "stats", "convert", "bench --reference", "compare --data", "bench --calibration"}
#: Commands that take their time: what they may take is left out.
_LONG = {"report", "calibrate", "bench"}


def _files(command: str, option: str, work: Path, rng: Random) -> Iterator[Made]:
    if option in _ENDINGS and option != "--checkpoint":
        yield from files.wrong_kinds()
    if not {command, f"{command} {option}"} & _READERS:
        return
    if option == "--calibration":
        yield from files.json_files(json.loads((work / "plans.json").read_text()), rng)
    if option == "--gaussian":
        yield from files.safetensors_files(work / "gaussian.safetensors", rng)
    if option in ("--gaussian", "--reference"):
        yield from files.moment_files(192, rng)
    if option == "--data":
        yield from files.array_files(np.load(work / "data.npy"), rng)
    if option == "--model":
        yield from _models(work, rng)
    if option == "source":
        yield from files.damaged((work / "snapshot.pkl").read_bytes(), rng, 40)


def _models(work: Path, rng: Random) -> Iterator[Made]:
    """Folders of diffusers and converted EDM networks with one thing wrong."""
    from shutil import copytree

    odd = [None, True, -1, 0, 0.5, "", "x", "x" * 1000, [], {}, [None], {"x": None}, "\x00mark"]
    for part in ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json", "underpaint.json"):
        content = json.loads((work / "model" / part).read_text())
        for made in files.json_files(content, rng, 25, odd):

            def make(path: Path, made: Made = made, part: str = part) -> None:
                copytree(work / "model", path)
                (path / part).unlink()
                made.make(path / part)

            yield Made(f"{part}: {made.what}", make, None)
    weights = "unet/diffusion_pytorch_model.safetensors"
    for made in files.damaged((work / "model" / weights).read_bytes(), rng, 4):

        def cut(path: Path, made: Made = made) -> None:
            copytree(work / "model", path)
            made.make(path / weights)

        yield Made(f"weights: {made.what}", cut, None)
    for made in files.safetensors_files(work / "edm.safetensors", rng, 25, odd, tensors=2):
        yield Made(f"EDM {made.what}", made.make, None, ".safetensors")


def _targets(name: str, rest: list[str], place: str) -> Iterator[Case]:
    """Where nothing can be written."""

    def taken(folder: Path) -> None:
        (folder / "taken").write_text("a file")
        (folder / "folder.png").mkdir()
        (folder / "folder.safetensors").mkdir()
        (folder / "folder.json").mkdir()

    ending = Path(place).suffix
    targets = [f"taken/{place}", f"taken/a/b/{place}", "x" * 300 + ending, f"/dev/null/{place}", f"/proc/{place}"]
    targets += [f"folder{ending}"] if ending else ["taken"]
    for target in targets:
        yield Case(f"{name} --out {target[:30]}", (name, *rest, "--out", target, "--json"), False, taken)


def _without(arguments: list[str], *options: str) -> list[str]:
    """Arguments without some options and what stands after them."""
    for option in options:
        if option in arguments:
            at = arguments.index(option)
            arguments = arguments[:at] + arguments[at + 2 :]
    return arguments


def places(work: Path) -> dict[str, str]:
    """What `workplace` has made, by name."""
    names = {"model": "model", "classes": "classes", "data": "data.npy", "gaussian": "gaussian.safetensors"}
    names |= {"snapshot": "snapshot.pkl", "reference": "reference.npz", "plans": "plans.json"}
    return {name: str(work / place) for name, place in names.items()}


def workplace(work: Path) -> None:
    """Small models, data, statistics and plans, all whole."""
    import torch
    from snapshots import CONFIGS, randomised, snapshot, write_pickle
    from tiny import tiny_ddpm

    from underpaint.data.store import save_gaussian
    from underpaint.models.networks.edm import build_edm
    from underpaint.noise import DDPM, NoiseLevel
    from underpaint.recipes.convert import convert
    from underpaint.sampling.fitted import Calibration, Plan, fingerprint, write_calibration
    from underpaint.theory.gaussian import Gaussian

    tiny_ddpm(work / "model")
    (work / "model" / "underpaint.json").write_text(json.dumps({"name": "tiny", "data": "none", "pixel_unshuffle": 1}))
    tiny_ddpm(work / "classes", classes=4)
    (work / "classes" / "underpaint.json").write_text(json.dumps({"name": "tiny", "null_class": 3}))
    rows = torch.randn(40, 192, generator=torch.Generator().manual_seed(0)).mul(0.3).clamp(-1, 1)
    np.save(work / "data.npy", rows.unflatten(1, (3, 8, 8)).numpy())
    gaussian = Gaussian.fit(rows)
    save_gaussian(work / "gaussian.safetensors", gaussian, count=40, data="noise")
    np.savez(work / "reference.npz", mu=gaussian.mean.numpy(), sigma=rows.T.cov().numpy())
    level = DDPM().grid(4)
    plan = Plan(
        level, torch.full((3, 3, 4), 0.01, dtype=torch.float64), errors={"fit": 0.1, "held_out": 0.1, "plain": 0.2}
    )
    about = {"seeds": [0], "gaussian": fingerprint(gaussian)}
    write_calibration(
        work / "plans.json", Calibration((plan, Plan(NoiseLevel(level.alpha, level.sigma), None, "ddim")), about)
    )
    config = CONFIGS["DDPM++"]
    write_pickle(work / "snapshot.pkl", snapshot(randomised(build_edm(config)), config))
    convert(work / "snapshot.pkl", work / "edm.safetensors")
