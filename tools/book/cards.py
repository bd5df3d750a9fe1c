"""Cards that stand for a page where its address is shared: its title, what it is about, and a pattern of attention."""

from __future__ import annotations

import colorsys
import hashlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tools.contents import ROOT

SIZE = (1200, 630)  # pixels; what those who show cards ask for
GROUND, INK, QUIET = "#14181d", "#ffffff", "#a7b1be"
MARGIN = 72
TILE, GRID = 45, 8  # the pattern: a map of 8 by 8 patches
FONTS = ROOT / "web" / "vendor"
SANS = FONTS / "source-sans-3" / "source-sans-3-latin-wght-normal.woff2"
SERIF = FONTS / "source-serif-4" / "source-serif-4-latin-wght-normal.woff2"


def font(path: Path, size: int, weight: int) -> ImageFont.FreeTypeFont:
    """One of the book's fonts at a size and weight."""
    letters = ImageFont.truetype(str(path), size)
    letters.set_variation_by_axes([weight])
    return letters


def wrap(text: str, letters: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    """The text in lines of at most `width` pixels; `most` lines, the last with an ellipsis where words are left out."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if letters.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines if len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1].rstrip('.,;:')} …"]


def draw_pattern(draw: ImageDraw.ImageDraw, name: str) -> None:
    """A map over 8 by 8 patches, another for each page: weights that fall off from one patch."""
    generator = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
    row, column = generator.integers(1, GRID - 1, 2)
    rows, columns = np.mgrid[:GRID, :GRID]
    weights = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 6) * generator.uniform(0.5, 1, (GRID, GRID))
    left, top = SIZE[0] - MARGIN - GRID * TILE, MARGIN
    for i, j in np.ndindex(GRID, GRID):
        shade = colorsys.hls_to_rgb(0.6, 0.16 + 0.55 * float(weights[i, j] / weights.max()), 0.75)
        x, y = left + TILE * j, top + TILE * i
        draw.rectangle((x, y, x + TILE - 5, y + TILE - 5), fill=tuple(round(255 * part) for part in shade))


def write_card(path: Path, title: str, about: str, book: str) -> None:
    """Writes the card of a page, a PNG of 1200 by 630 pixels."""
    card = Image.new("RGB", SIZE, GROUND)
    draw = ImageDraw.Draw(card)
    draw_pattern(draw, title)
    width = SIZE[0] - 3 * MARGIN - GRID * TILE
    large, small, line = font(SANS, 68, 700), font(SERIF, 31, 400), font(SANS, 28, 600)
    y = MARGIN - 16
    for text in wrap(title, large, width, 4):
        draw.text((MARGIN, y), text, INK, large)
        y += 76
    y = max(y + 24, MARGIN + GRID * TILE - 3 * 42) if y < 300 else y + 20
    for text in wrap(about, small, width, min(4, (SIZE[1] - MARGIN - 60 - y) // 42)):
        draw.text((MARGIN, y), text, QUIET, small)
        y += 42
    draw.text((MARGIN, SIZE[1] - MARGIN - 14), book, INK, line)
    path.parent.mkdir(parents=True, exist_ok=True)
    card.save(path, optimize=True)
