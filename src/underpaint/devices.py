"""Devices and dtypes, by the names that the command line takes or as torch has them."""

from __future__ import annotations

import torch

from .bounds import shown

#: Precisions by their names; whole numbers and complex ones are none of a network, nor of a Gaussian.
DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16", "float64")}

Device = torch.device | str
Dtype = torch.dtype | str


def find_dtype(dtype: Dtype | None) -> torch.dtype | None:
    """The dtype of a name such as "float16", or one of these as it is; None of None.

    Raises:
        ValueError: it is none of `DTYPES`.
    """
    if dtype is None or dtype in DTYPES.values():
        return dtype  # type: ignore[return-value]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"Unknown dtype {shown(dtype)}; choose one of {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def find_device(device: Device | None) -> torch.device | None:
    """The device of a name such as "cuda:1", or one as it is, if it is here; None of None.

    Raises:
        ValueError: there is none.
    """
    if device is None:
        return None
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        unsaid = "xpected" in str(error) or isinstance(error, TypeError | NotImplementedError)  # nothing for a user
        why = "" if unsaid else f" ({str(error).splitlines()[0]})"
        raise ValueError(f"There is no device {shown(device)} here{why}; give cpu, cuda or cuda:1.") from None
    return found
