"""What all measurements of speed share."""

import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return (values[0],) * 3
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, middle, upper


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within it torch computes on so many threads; ValueError below 1."""
    if count < 1:
        raise ValueError(f"threads is {count}; it must be at least 1")
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
    """Until a GPU has done what it was asked to; a processor has done so at once."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
