"""Devices and number formats: what a model computes on, and in."""

import os
from contextlib import AbstractContextManager, nullcontext

import torch

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def available_processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_precision(precision: str) -> None:
    """Raises ValueError for an unsupported precision."""
    if precision not in ("auto", *_PRECISIONS):
        raise ValueError(f"precision is '{precision}'; choose auto, {', '.join(_PRECISIONS)}")


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device named, or the best there is; ValueError when the one named is not here."""
    if device is None:
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(best)
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen).cpu()  # "meta" has nothing to copy
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device '{device}' cannot be used here; try cpu") from error
    return chosen


def pick_precision(precision: str, device: torch.device) -> torch.dtype:
    """The number format to compute in; "auto" takes bfloat16 where the GPU has it natively, float32 on a CPU."""
    check_precision(precision)
    if precision != "auto":
        return _PRECISIONS[precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Context manager: the forward pass uses the narrower number format where that is safe; float32 changes nothing."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)
