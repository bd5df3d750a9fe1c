"""Functions that all measurements of speed use."""

import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..options import check_number


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return (values[0],) * 3
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, middle, upper


def with_quartiles(name: str, values: list[float]) -> dict[str, float]:
    """The median under a name, and the quartiles under NAME_q1 and NAME_q3: entries of a flat row."""
    lower, middle, upper = quartiles(values)
    return {name: middle, f"{name}_q1": lower, f"{name}_q3": upper}


def quartiles_text(row: dict, name: str, digits: int) -> str:
    """What `with_quartiles` gave, as text: the median, and in brackets the quartiles."""
    middle, lower, upper = (f"{row[key]:.{digits}f}" for key in (name, f"{name}_q1", f"{name}_q3"))
    return f"{middle} ({lower}-{upper})"


def rate_row(rates: list[float], base: list[float]) -> dict[str, float]:
    """Entries of a flat row: images per second over the rounds, and the "speedup" over `base` within a round."""
    ratios = [own / other for own, other in zip(rates, base, strict=True)]
    return {**with_quartiles("images_per_second", rates), **with_quartiles("speedup", ratios), "rounds": len(rates)}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Context manager: torch computes on `count` threads; ValueError unless these are 1 to 1,024."""
    check_number("threads", count, whole=True, at_least=1, at_most=1024)
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def allocator() -> str:
    """The environment variables that steer the C library's allocator: on a CPU much of the time may be its own."""
    settings = {name: value for name, value in sorted(os.environ.items()) if name.startswith(("MALLOC_", "LD_PRELOAD"))}
    return " ".join(f"{name}={value}" for name, value in settings.items()) or "default"


def wait_for(device: torch.device) -> None:
    """Waits until a GPU has finished its work; a CPU has nothing to wait for."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
