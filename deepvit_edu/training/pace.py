"""How fast a run goes, and from that how long a whole one takes."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from statistics import median

from ..bench.rounds import with_quartiles
from ..records import hardware_of

IMAGENET_IMAGES = 1_281_167
"""Training images of ImageNet-1k."""


class SpeedMeter:
    """Images per second between two looks at a run, and the share of that time in which it waited for images.

    Each window goes from `start` to `look`; what comes between (an evaluation, a checkpoint) is left out.

    Args:
        images_per_step: over all processes.
    """

    def __init__(self, images_per_step: int) -> None:
        self.images_per_step = images_per_step
        self.rates: list[float] = []
        self.waits: list[float] = []
        self.start(0)

    def start(self, step: int) -> None:
        """Begins a window: `step` steps are done."""
        self._step, self._clock, self._waited = step, time.perf_counter(), 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around whatever waits for images."""
        before = time.perf_counter()
        yield
        self._waited += time.perf_counter() - before

    def look(self, step: int) -> float:
        """Ends the window after step `step`, when the device has done it. Its seconds."""
        seconds = time.perf_counter() - self._clock
        self.rates.append((step - self._step) * self.images_per_step / seconds)
        self.waits.append(self._waited / seconds)
        return seconds

    def row(self) -> dict[str, float] | None:
        """Entries of a flat row: median and quartiles over the windows but the first, in which readers start.

        "waiting" is the median share. A processor runs ahead of its GPU, so the GPU idles for that share at most.
        None while there is but one window.
        """
        if len(self.rates) < 2:
            return None
        rates = with_quartiles("images_per_second", self.rates[1:])
        return {**rates, "waiting": median(self.waits[1:]), "windows": len(self.rates) - 1}


def training_hours(images_per_second: float, epochs: int, images: int = IMAGENET_IMAGES) -> float:
    """Hours for so many epochs, evaluation and checkpoints apart."""
    return images * epochs / images_per_second / 3600


def speed_table(rows: Iterable[dict]) -> str:
    """A Markdown table of measured trials and of the hours that whole runs would take, from their records' rows.

    Speeds are of one process: medians, and in brackets the quartiles. The hours on 8 are those on one through 8, which
    is the least that they can be. The batch is that of a step, in brackets what a process sees at a time.

    Args:
        rows: as `speed.json` has them, with "recipe" (a name) and "hardware" (in words).
    """
    head = "Recipe | Images/s | Hours on 1 GPU or processor | on 8 | Batch | GiB | Waiting | Measured on"
    lines = [f"| {head} |", "|---|--:|--:|--:|--:|--:|--:|---|"]
    for row in rows:
        quartiles = ("images_per_second", "images_per_second_q1", "images_per_second_q3")
        rate, lower, upper = (row[name] / row["num_processes"] for name in quartiles)
        hours = training_hours(rate, row["epochs"])
        speed = [f"{rate:.3g} ({lower:.3g}-{upper:.3g})", f"{hours:,.0f}", f"{hours / 8:,.0f}"]
        memory = "" if row["peak_gib"] is None else f"{row['peak_gib']:.1f}"
        how = [f"{row['total_batch']} ({row['batch_size']})", memory, f"{row['waiting']:.0%}"]
        cells = [f"`{row['recipe']}`", *speed, *how, f"{hardware_of(row)}, {row['precision']}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
