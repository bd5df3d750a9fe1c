"""Checkpoints of a run: written whole or not at all, the last ones kept, damaged ones passed over."""

import shutil
import warnings
from contextlib import suppress
from pathlib import Path

import torch

from ..files import atomic_path
from ..reading import UnreadableError
from ..tensors import read_pytorch

PATTERN = "checkpoint-*.pt"
FORMER = "checkpoint.pt"
"""The only checkpoint of a run on a set in memory, once; it is still read."""


class CheckpointManager:
    """The checkpoints in a folder, of which it keeps the newest.

    Args:
        folder: where they go; made when it is not there.
        keep: how many of them stay.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}; a run needs at least one checkpoint to go on from")
        self.folder, self.keep = Path(folder), keep
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f"{self.folder} is a file; choose a folder for the run")
        self.folder.mkdir(parents=True, exist_ok=True)

    def paths(self) -> list[Path]:
        """The checkpoints, the newest first."""
        return sorted(self.folder.glob(PATTERN), reverse=True) + list(self.folder.glob(FORMER))

    def check_space(self, size: int) -> None:
        """Makes sure that checkpoints of `size` bytes fit, before there is anything to lose.

        Raises:
            OSError: when they do not.
        """
        there = sum(path.stat().st_size for path in self.paths())
        needed = (self.keep + 1) * size - there  # the new one is written before the oldest goes
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(
                f"{self.folder} has {free / 2**20:,.0f} MiB free and {self.keep + 1} checkpoints need "
                f"{needed / 2**20:,.0f} MiB; free some space, keep fewer, or choose another folder"
            )

    def save(self, step: int, state: dict) -> Path:
        """Writes a checkpoint atomically, and removes those that are too old."""
        path = self.folder / f"checkpoint-{step:08d}.pt"
        with atomic_path(path) as temporary:
            torch.save(state, temporary)
        for old in self.paths()[self.keep :]:
            old.unlink()
        return path

    def load(self) -> dict | None:
        """The newest complete checkpoint; None if there are no checkpoints.

        A damaged one is passed over with a warning.

        Raises:
            ValueError: when all are damaged.
        """
        for leftover in self.folder.glob(f".{PATTERN}*.part"):  # of a process that was killed while it wrote
            with suppress(OSError):
                leftover.unlink()
        paths = self.paths()
        for path in paths:
            try:
                return read_pytorch(path)
            except UnreadableError as error:
                warnings.warn(f"{path} is damaged ({error}) and passed over", stacklevel=2)
        if paths:
            raise ValueError(
                f"cannot read any of the {len(paths)} checkpoints in {self.folder}; delete them to start again, or "
                "choose another folder"
            )
        return None


def size_of(state: object) -> int:
    """The bytes of all tensors in a nested state."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(map(size_of, state.values()))
    return sum(map(size_of, state)) if isinstance(state, list | tuple) else 0
