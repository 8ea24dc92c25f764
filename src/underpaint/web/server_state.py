"""What the server keeps: the models on offer, loaded once, and which runs were asked to stop. Nothing of what a visitor
asks for or gets."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from .. import assets
from ..data.named import known_classes
from ..data.store import load_gaussian
from ..devices import find_dtype
from ..models.checking.check import Check
from ..models.model import Model
from ..models.networks.diffusers import read_notes
from ..models.pipelines.hub import is_hub_id
from ..progress import Progress
from ..recipes.explorer.nearest_images import TrainingImages, load_training_images
from ..recipes.explorer.plans import plan_from_data
from ..recipes.explorer.steady import moved_by_other_noise, steadiest
from ..recipes.shared.check import check_case
from ..recipes.shared.request import Conditioning, Request, Sampler, load_on, own_device, prepare
from ..sampling.fitted import Calibration, read_calibration
from .checks import MAX_SEEDS, MAX_STEPS, Values, condition, integer, number, seed
from .tour import MODEL
from .turns import Turns

T = TypeVar("T")

#: Calibrated plans on offer, beside a file's: none, and one that is made while the visitor waits.
NO_PLAN, MADE_PLAN = "none", "made of the data now, in some seconds"
#: Among how many seeds the page looks for the first two of a row, in how many steps.
STEADY_SEEDS, STEADY_STEPS = 6, 8
#: How long progress waits before it is told again.
TELL_SECONDS = 0.3


class Stopped(Exception):
    """The visitor asked to stop, or left."""


class ServerState:
    """Models by name, and the runs of visitors.

    Args:
        folders: models given at the start, beside those in the box: places that `load_model` takes.
        statistics: files of the data's Gaussian, for the first folder, the second, and so on.
        device, dtype: names of the networks'; None for the usual ones.
        calibrations: files of calibrated plans, for the first folder, the second, and so on.

    Raises:
        ValueError: a place, device or dtype that does not exist, statistics or plans that cannot be read, or more of
            them than folders.
    """

    def __init__(
        self,
        folders: tuple[str, ...] = (),
        statistics: tuple[str, ...] = (),
        device: str | None = None,
        dtype: str | None = None,
        calibrations: tuple[str, ...] = (),
    ) -> None:
        own_device(device), find_dtype(dtype)  # what there is none of is found before the page is served
        self._where = device, dtype
        for files, what in ((statistics, "statistics"), (calibrations, "calibrated plans")):
            if len(files) > len(folders):
                raise ValueError(f"Got {len(files)} files of {what} for {len(folders)} models; give a --model each.")
        for place in folders:
            if not (place in assets.names() or (place and Path(place).exists()) or is_hub_id(place)):
                raise ValueError(
                    f"There is no model {place!r}: give a folder that exists, or a name in the box "
                    f"({', '.join(sorted(assets.names()))})."
                )
        for file in statistics:
            load_gaussian(file)  # a file that cannot be read is found before the page is served
        read = {file: read_calibration(file) for file in calibrations}
        named = {_unique(place, index, folders): place for index, place in enumerate(folders)}
        box = sorted(assets.names(), key=lambda name: name != MODEL)
        #: name on the page -> place; the first is what the page starts with
        self.places = named | {name: name for name in box}
        self._statistics = dict(zip(named, statistics, strict=False))
        self._calibrations = {
            name: (Path(file).name, read[file]) for name, file in zip(named, calibrations, strict=False)
        }
        self._kept: dict[tuple[str, str], Any] = {}
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._door = threading.Lock()
        self._runs: dict[tuple[str, str], threading.Event] = {}
        self._long, self._short = Turns(1), Turns(2)

    def work(self, job: Callable[[], T], visitor: str = "", stopped: threading.Event | None = None) -> T:
        """Do long work when it is the visitor's turn, in the one thread that does all of it.

        OpenMP gives each thread that calls it a team of its own. As soon as teams have more threads than there are
        cores, idle ones sleep instead of spinning, and a network of many small layers takes half as long again.

        Raises:
            Stopped: a run of this ``stopped`` was ended before its turn, or the server ends.
            ValueError: too much of the visitor's waits.
        """
        return _take(self._long, job, visitor, stopped)

    def quick(self, job: Callable[[], T], visitor: str) -> T:
        """The same for what is answered at once, beside the long work."""
        return _take(self._short, job, visitor)

    def close(self, within: float) -> bool:
        """Ask all runs to stop and take no more; whether the work had ended after so many seconds."""
        with self._door:
            for stopped in self._runs.values():
                stopped.set()
        queues, end = (self._long, self._short), time.monotonic() + within
        for turns in queues:
            turns.close()
        return all(turns.ended(end) for turns in queues)

    @property
    def first(self) -> str:
        return next(iter(self.places))

    def model(self, name: str) -> Model:
        """A model on offer, with a memory for prompts of its own; ValueError for anything else than a name on offer."""
        place = self.place(name)
        return replace(self.keep(("model", name), lambda: load_on(place, *self._where)), name=name, _prompts={})

    def prompts(self, name: str) -> list[str]:
        """Prompts that a model's folder names, the first for the page to begin with; without loading the model."""
        place = self.place(name)
        folder = assets.folder(place) or Path(place)
        return list(read_notes(folder).get("prompts", [])) if folder.is_dir() else []

    def training_images(self, name: str, progress: Progress) -> TrainingImages:
        """A model's training images, encoded."""
        model = self.model(name)
        return self.keep(("training images", name), lambda: load_training_images(model, progress))

    def class_names(self, name: str) -> list[str]:
        """What each of a model's classes shows, where the box knows its data; otherwise their numbers."""
        model = self.model(name)
        data, numbers = str(model.notes.get("data")), [str(label) for label in range(model.classes)]
        if not numbers or assets.folder(data) is None:
            return numbers
        known = self.keep(("classes", name), lambda: known_classes(data))
        return list(known.values()) if len(known) == model.classes else numbers

    def steady_seed(self, name: str) -> int:
        """A seed to begin with: its picture and the next seed's change little when their noise does. Found by trying
        some, once for each model; this calls the network."""

        def find() -> int:
            model = self.model(name)
            sampler = Sampler(model, model.schedule.grid(STEADY_STEPS))
            return steadiest(moved_by_other_noise(sampler, model, range(STEADY_SEEDS)), 2)

        return self.keep(("steady seed", name), find)

    def plans(self, name: str) -> tuple[str, ...]:
        """Calibrated plans on offer for a model; the first is what the page begins with."""
        given = (self._calibrations[name][0],) if name in self._calibrations else ()
        return (*given, NO_PLAN, MADE_PLAN)

    def calibration(self, name: str) -> Calibration:
        """The plans that were given for a model."""
        return self._calibrations[name][1]

    def made_plan(self, name: str, sampler: Sampler, case: Conditioning, calls: int, progress: Progress) -> Calibration:
        """A plan of so many calls, made of a model's data alone, once for each case."""
        statistics = (self._statistics[name],) if name in self._statistics else (self.place(name),)
        make = partial(plan_from_data, sampler, case, calls, statistics, progress)
        return self.keep(("plan", f"{name}, {case}, {calls} calls"), make)

    def doubts(self, name: str, progress: Progress) -> list[str]:
        """What the check finds wrong with a model, in words; nothing where it holds, or the model is of the box."""
        model, place = self.model(name), self.place(name)
        if place in assets.names():
            return []
        found: Check = self.keep(("check", name), lambda: check_case(model, Conditioning(), progress))
        return [] if found.verdict == "holds" else [found.short]

    def place(self, name: Any) -> str:
        if not isinstance(name, str) or name not in self.places:
            raise ValueError(f"There is no model {name!r} on this page; choose one of {', '.join(self.places)}.")
        return self.places[name]

    def keep(self, key: tuple[str, str], make: Callable[[], T]) -> T:
        """Make a thing once, whoever asks for it first; a failure is not kept."""
        with self._door:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._kept:
                self._kept[key] = make()
            kept: T = self._kept[key]
            return kept

    def request(self, values: Values, seeds: int = 1) -> tuple[Request, Sampler]:
        """The question that the controls put, with ``seeds`` seeds from the chosen one on, and a sampler for it. The
        question names the model as the page does.

        Raises:
            ValueError: anything out of bounds, whatever the page's own controls let through.
        """
        name = values["model"]
        model = self.model(name)
        asked = condition(values["prompt" if model.embed is not None else "label"], model)
        first = seed(values)
        request = Request(
            model=self.place(name),
            conditions=() if asked is None else (asked,),
            guidance=(1.0 if asked is None else number(values["guidance"], "guidance", 0, 20),),
            seeds=tuple(range(first, first + integer(seeds, "number of seeds", 1, MAX_SEEDS))),
            steps=integer(values["steps"], "number of steps", 4, MAX_STEPS),
            solver=str(values["solver"]),
            statistics=(self._statistics[name],) if name in self._statistics else (),
        )
        told = tuple(Path(file).name for file in request.statistics)
        return replace(request, model=name, statistics=told), prepare(request, model)

    @contextmanager
    def run(self, visitor: str, tab: str) -> Iterator[threading.Event]:
        """A run that `stop` can end; a visitor's next run on a tab ends the one before."""
        key, stopped = (visitor, tab), threading.Event()
        with self._door:
            before = self._runs.get(key)
            self._runs[key] = stopped
        if before is not None:
            before.set()
            self._long.sweep()
        try:
            yield stopped
        finally:
            with self._door:
                if self._runs.get(key) is stopped:
                    del self._runs[key]

    def stop(self, visitor: str, tab: str | None = None) -> None:
        """End a visitor's run on a tab, or all of the visitor's runs."""
        with self._door:
            for (owner, where), stopped in self._runs.items():
                if owner == visitor and tab in (None, where):
                    stopped.set()
        self._long.sweep()


def watched(stopped: threading.Event, tell: Callable[[int, int, str], None]) -> Progress:
    """Progress that is told as (done, total, what), at most some times a second, for a browser on the same machine that
    draws each of them takes its time from the work; and ends the work once it was asked to stop.

    Raises:
        Stopped: from within the work, at its next step.
    """
    last = -math.inf

    def task(what: str, total: int) -> Callable[[], None]:
        done = 0

        def advance() -> None:
            nonlocal done, last
            if stopped.is_set():
                raise Stopped
            done += 1
            now = time.monotonic()
            if done >= total or now - last > TELL_SECONDS:
                last = now
                tell(min(done, total), total, what)

        return advance

    return task


def _take(turns: Turns, job: Callable[[], T], visitor: str, stopped: threading.Event | None = None) -> T:
    try:
        return turns.take(visitor, job, threading.Event() if stopped is None else stopped)
    except CancelledError:
        raise Stopped from None


def _unique(place: str, index: int, places: tuple[str, ...]) -> str:
    """A folder's own name, with a number where another has it too."""
    names = [Path(other).name or other for other in places]
    taken = names.count(names[index]) > 1 or (names[index] in assets.names() and places[index] != names[index])
    return f"{names[index]} ({index + 1})" if taken else names[index]
