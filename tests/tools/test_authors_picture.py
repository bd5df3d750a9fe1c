"""The reading of a published picture of maps: pictures made from maps that are known."""

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from tools.measure.authors_picture import COLUMNS, ROWS, measure


@pytest.fixture
def picture(tmp_path):
    """Noise in the first panels, stripes in the last, in between both: as the colours that the authors used."""
    numbers = np.random.default_rng(0)
    height, width = 120, 150
    panels = []
    for block in range(ROWS * COLUMNS):
        share = block / (ROWS * COLUMNS - 1)
        noise, stripes = numbers.standard_normal((height, width)), numbers.standard_normal((1, width))
        panels.append(0.5 + 0.1 * (np.sqrt(1 - share) * noise + np.sqrt(share) * stripes))
    rows = [np.hstack(panels[COLUMNS * row : COLUMNS * (row + 1)]) for row in range(ROWS)]
    path = tmp_path / "maps.png"
    Image.fromarray((colormaps["Blues"](np.vstack(rows)) * 255).astype(np.uint8)).save(path)
    return path


def test_what_queries_share_is_read_back_from_the_colours(picture):
    shared = [row["query_independence"] for row in measure(picture)]
    expected = np.linspace(0, 1, ROWS * COLUMNS)
    assert np.abs(np.array(shared) - expected).max() < 0.1
    assert shared[0] < 0.03
    assert shared[-1] > 0.97
