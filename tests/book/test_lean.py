"""What tools.book.lean takes out of a page, and where it puts it."""

import base64
import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tools.book.lean import Files, is_used, lighter, move_explorers, move_pictures, put_off


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Files beside a page that stands one folder below the root."""
    return Files(tmp_path, "../")


def written(files: Files) -> list[Path]:
    return sorted(files.folder.iterdir()) if files.folder.exists() else []


def test_explorer_gets_its_data_before_its_code(files: Files) -> None:
    page = '<p>a</p><script type="application/json">{"a": "</b"}</script><script>start("x");</script><p>b</p>'
    moved = move_explorers(page.replace("</b", "\\u003c/b"), files)
    (file,) = written(files)
    data, code = file.read_text(encoding="utf-8").splitlines()
    assert data.endswith(r'textContent = "{\"a\": \"\\u003c/b\"}";')
    assert code == 'start("x");'
    assert f'data-late="../_figures/{file.name}"' in moved
    assert moved.startswith('<p>a</p><script type="application/json"></script>')
    assert moved.endswith("<p>b</p>")


def test_other_scripts_stay(files: Files) -> None:
    page = "<script>one()</script><p>text</p><script>two()</script>"
    assert move_explorers(page, files) == page
    assert written(files) == []


def test_picture_becomes_a_file_that_can_wait(files: Files) -> None:
    picture = base64.b64encode(b"the bytes of a picture").decode()
    page = f'<svg><image xlink:href="data:image/png;base64,{picture}" id="i" x="1" y="2" width="3" height="4"/></svg>'
    moved = move_pictures(page * 2, files)
    (file,) = written(files)
    assert file.read_bytes() == b"the bytes of a picture"
    assert moved.count(f'<img src="../_figures/{file.name}" alt=""') == 2
    assert moved.count('<foreignObject id="i" x="1" y="2" width="3" height="4">') == 2
    assert "base64" not in moved


def as_png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_photograph_is_made_lighter_and_a_map_is_not() -> None:
    rows, columns = np.mgrid[:300, :300]
    smooth = np.stack([rows, columns, rows + columns], axis=2) * 127 // 300
    photograph = (smooth + np.random.default_rng(0).integers(0, 6, smooth.shape)).astype(np.uint8)
    content, kind = lighter(as_png(photograph), "png")
    assert kind == "webp"
    assert len(content) < len(as_png(photograph)) / 4
    found = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    assert np.abs(found - photograph).mean() < 3
    assert lighter(as_png(photograph[:20]), "png") == (as_png(photograph[:20]), "png")


@pytest.mark.parametrize(
    ("name", "body", "used"),
    [
        ("design-tabs.js", "<p>no tabs</p>", False),
        ("design-tabs.js", '<div class="sd-tab-set">', True),
        ("vendor/katex/katex.min.css", "<p>no maths</p>", False),
        ("vendor/katex/katex.min.css", '<span class="math notranslate">', True),
        ("sphinx-thebe.js", '<div class="cell">', False),
        ("live/base.js", '<div class="live-figure live-query docutils container">', True),
        ("live/query.js", '<div class="live-figure live-query docutils container">', True),
        ("live/pictures.js", '<div class="live-figure live-drop docutils container">', True),
        ("live/specimen.js", '<div class="live-figure live-query docutils container">', False),
        ("live.css", "<p>nothing live</p>", False),
        ("book.js", "", True),
    ],
)
def test_scripts_are_kept_where_they_are_used(name: str, body: str, used: bool) -> None:
    assert is_used(SimpleNamespace(filename=name, attributes={}), body) is used


@pytest.mark.parametrize(("name", "late"), [("book.js", True), ("documentation_options.js", False), (None, False)])
def test_scripts_wait_for_the_page_but_for_the_options(name: str | None, late: bool) -> None:
    script = SimpleNamespace(filename=name, attributes={})
    put_off(script)
    assert ("defer" in script.attributes) is late
