"""Prompts are encoded by one thread at a time, whoever asks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tiny

from underpaint.models.load import load_model
from underpaint.models.pipelines.latent import Prompts
from underpaint.models.pipelines.record import record
from underpaint.models.pipelines.text_encoding import encoding_alone


class Busy:
    """Counts the threads that are inside at once; two that are let in meet at the barrier, one alone gives up soon."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.count = threading.Lock()
        self.meeting = threading.Barrier(2)

    def encode(self, encode: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.count:
                self.inside += 1
                self.most = max(self.most, self.inside)
            try:
                self.meeting.wait(0.05)
            except threading.BrokenBarrierError:
                self.meeting.reset()
            try:
                return encode(*args, **kwargs)
            finally:
                with self.count:
                    self.inside -= 1

        return watched


def together(call: Callable[[], Any], count: int = 2) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(call) for _ in range(count)]]


def test_the_measure_sees_two_at_once() -> None:
    busy = Busy()
    together(busy.encode(lambda: None))
    assert busy.most == 2


def test_prompts_of_models_that_share_an_encoder() -> None:
    busy = Busy()
    encode = busy.encode(lambda prompt: {"length": len(prompt)})
    first, second = Prompts(encode), Prompts(encode)
    assert together(lambda: (first("a"), second("bcd"))) == [({"length": 1}, {"length": 3})] * 2
    assert busy.most == 1


def test_a_model_and_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, pipe = Busy(), tiny.tiny_stable_diffusion()
    monkeypatch.setattr(type(pipe), "encode_prompt", busy.encode(type(pipe).encode_prompt))
    model = load_model(pipe)
    given = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "latent"}
    other = type(pipe)(**pipe.components, requires_safety_checker=False)

    def recorded() -> None:
        record(other, "a red apple", **given)

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(recorded), pool.submit(lambda: model.embed and model.embed("a red apple"))]:
            future.result()
    assert busy.most == 1


def test_a_pipeline_is_left_as_it_was() -> None:
    pipe = tiny.tiny_stable_diffusion()
    before = dict(vars(pipe))
    with encoding_alone(pipe):
        assert vars(pipe).keys() - before.keys() == {"encode_prompt", "_encode_prompt"}
    assert vars(pipe) == before
    with pytest.raises(ZeroDivisionError), encoding_alone(pipe):
        _ = 1 / 0
    assert vars(pipe) == before
