"""Models of a user's own code: a function that is named, and makes a `Model`."""

from __future__ import annotations

from inspect import signature

from ..bounds import a
from ..extras import code_of, user_function
from .model import Model

#: What to do with weights of a kind that is not known here.
HOW_TO_WRAP = (
    "For a network of your own write a function that loads it and returns underpaint.wrap(network, shape=(3, 32, 32), "
    'schedule=underpaint.DDPM(), prediction="eps"), and give it as my_module:my_function.'
)


def load_function(text: str) -> Model:
    """The model that a function makes, named as module:function; modules of the current folder are found.

    Raises:
        ValueError: there is no such function, it wants arguments, or what it returns is no `Model`.
    """
    function = user_function(text, "The model")
    try:
        signature(function).bind()
    except TypeError as error:
        raise ValueError(f"The function {text} is called without arguments ({error}).") from None
    with code_of(f"The function {text}"):
        model = function()
    if not isinstance(model, Model):
        raise ValueError(
            f"The function {text} returned {a(type(model).__name__)}; expected a Model, as underpaint.wrap makes it."
        )
    return model
