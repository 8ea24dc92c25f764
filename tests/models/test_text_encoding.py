"""Prompts are encoded by one thread at a time, whoever asks; words that a model does not know are told."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tiny
import tokenizers
import transformers

from underpaint.models.load import load_model
from underpaint.models.pipelines.latent import Prompts
from underpaint.models.pipelines.record import record
from underpaint.models.pipelines.text_encoding import encoding_alone, unknown_words
from underpaint.sampling.trajectory import initial_noise


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


@pytest.mark.parametrize("tokenizer", [tiny.clip_tokenizer, tiny.t5_tokenizer])
def test_words_that_a_tokenizer_cuts_are_found_by_what_it_does(tokenizer: Callable[[], Any]) -> None:
    """Cut into single letters, it is unknown; so is any that is cut where a tokenizer has all examples whole."""
    cut = tokenizer()
    assert unknown_words((cut,), "a red apple on zebra, Zebra and a") == ("zebra", "Zebra", "and")
    assert unknown_words((cut,), "bears on 10 xx") == ("xx",)  # in pieces of several letters; a number is no word
    assert unknown_words((cut,), "bears on red", examples=["a red apple on blue"]) == ("bears",)
    assert unknown_words((cut,), "bears on red", examples=["a red apple on zebra"]) == ()
    assert unknown_words((cut,), "苹果 Übung") == ("Übung",)  # of letters that may be words nothing is said
    assert unknown_words((cut,), "A bear's on red, we'll, you\u2019ve, o'zebra's") == ("we", "you", "zebra")
    assert unknown_words((), "zebra") == ()


def test_letters_of_several_bytes_are_letters() -> None:
    """Tokenizers of bytes call a letter by these: "к" is "Ðº"; a word in such letters is in pieces."""
    letters = [bytes_to_unicode(letter) for letter in "абвгдежзиклмнопрст"]
    merges = [tuple(letter) for letter in dict.fromkeys(letters)] + [(letters[4], letters[0])]
    tokens = [*dict.fromkeys("".join(letters)), *("".join(pair) for pair in merges)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *tokens, *(letter + "</w>" for letter in letters)]
    tokens += [byte + "</w>" for byte in dict.fromkeys("".join(letters))] + [bytes_to_unicode("да") + "</w>"]
    merges += [(letter[0], letter[1] + "</w>") for letter in letters]
    merges += [(letters[4], letters[0] + "</w>")]
    cut = transformers.CLIPTokenizer(vocab={token: i for i, token in enumerate(dict.fromkeys(tokens))}, merges=merges)
    assert cut.tokenize("кот да") == [
        *map(bytes_to_unicode, "ко"),
        *(bytes_to_unicode(x) + "</w>" for x in ("т", "да")),
    ]
    assert unknown_words((cut,), "кот да") == ("кот",)


def bytes_to_unicode(text: str) -> str:
    """As tokenizers write bytes."""
    (((found, _),),) = [
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    ]
    return str(found)


def test_a_tokenizer_of_bytes_lacks_no_word() -> None:
    cut = transformers.ByT5Tokenizer()
    assert cut.tokenize("red") == ["r", "e", "d"]
    assert unknown_words((cut,), "a red zebra") == ()
    assert unknown_words((cut, tiny.clip_tokenizer()), "a red zebra") == ()


def test_a_word_is_known_where_one_of_several_encoders_has_it() -> None:
    class Whole:
        unk_token_id = 0
        all_special_tokens = ("<unk>",)

        def tokenize(self, word: str) -> list[str]:
            return [word]

        def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]:
            return [self.get_vocab().get(token, 0) for token in tokens]

        def convert_tokens_to_string(self, tokens: list[str]) -> str:
            return " ".join(tokens)

        def get_vocab(self) -> dict[str, int]:
            return {"<unk>": 0, "zebra": 1, "red": 2}

    assert unknown_words((Whole(),), "red zebra fox") == ("fox",)
    assert unknown_words((Whole(), tiny.clip_tokenizer()), "red zebra fox apple") == ("fox",)


@pytest.mark.parametrize("load", ["adapted", "replayed", "two encoders"])
def test_a_prompt_with_unknown_words_is_warned_of_once(load: str) -> None:
    pipe = tiny.tiny_sdxl() if load == "two encoders" else tiny.tiny_stable_diffusion()
    pipe.set_progress_bar_config(disable=True)
    model = load_model(pipe, prompt="a bear") if load == "replayed" else load_model(pipe)
    level = model.schedule.grid(2)[0]
    x = initial_noise((0,), model.dimension, level)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for prompt in ("a zebra on a fox", "a zebra on a fox", "a bear on a red sky"):
            model.conditional(prompt)(x, level)
    (said,) = [str(one.message) for one in seen if "does not know" in str(one.message)]
    assert "does not know the words 'zebra', 'fox': its tokenizer has them only in pieces" in said
    assert model.doubt("") == ""


def test_the_model_in_the_box_knows_its_own_prompts_and_no_others() -> None:
    model = load_model("emoji-scenes")
    assert [model.doubt(prompt) for prompt in model.notes["prompts"]] == [""] * len(model.notes["prompts"])
    assert "does not know the word 'elephant': " in (said := model.doubt(f"{model.notes['prompts'][0]}, elephant"))
    assert said.endswith(f"Prompts that it knows are such as {model.notes['prompts'][0]!r}.")
    assert "does not know the word 'cat': " in model.doubt("a cat on a blue background")  # its earlier parts did
