import re
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from docutils import nodes

from tools.book.drawings import inline_drawings, inline_svg
from tools.contents import ROOT, pages, source_of

DRAWINGS = sorted((ROOT / "book/drawings").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"
PHONE = 358  # pixels of a phone's column; a drawing is 360 units wide


def named(path: Path) -> str:
    return path.stem


def style_of(drawing: Path) -> str:
    return ElementTree.parse(drawing).find(f"{SVG}style").text


@pytest.mark.parametrize("drawing", DRAWINGS, ids=named)
def test_drawing_is_legible_on_a_phone_and_in_the_common_style(drawing: Path) -> None:
    root = ElementTree.parse(drawing).getroot()
    assert root.get("viewBox").split()[2] == "360"
    assert style_of(drawing) == style_of(DRAWINGS[0])
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: ?([\d.]+)px", style_of(drawing))]
    assert min(sizes) * PHONE / 360 >= 12
    classes = set(re.findall(r"\.drawing \.(\w+)", style_of(drawing)))
    used = {name for element in root.iter() for name in element.get("class", "").split()}
    assert used - {"drawing"} <= classes


@pytest.mark.parametrize("drawing", DRAWINGS, ids=named)
def test_colours_are_variables_with_a_light_fallback_that_the_pages_set(drawing: Path) -> None:
    text = drawing.read_text(encoding="utf-8")
    outside = text.replace(style_of(drawing), "")
    assert not re.search(r"#[0-9a-fA-F]{3}|fill: |rgb", outside)
    pages_style = (ROOT / "web/figures.css").read_text(encoding="utf-8")
    light, dark = (part.split("}")[0] for part in re.split(r'html\[data-theme="dark"\] \{', pages_style)[:2])
    for name, fallback in re.findall(r"var\((--drawing-[\w-]+), (#\w+)\)", style_of(drawing)):
        if name != "--drawing-ground":  # transparent in a page, whatever its theme
            assert f"{name}: {fallback}" in light
            assert f"{name}:" in dark


@pytest.mark.parametrize("drawing", DRAWINGS, ids=named)
def test_drawing_stands_in_one_page_with_a_text_and_a_caption(drawing: Path) -> None:
    sources = [source_of(page).read_text(encoding="utf-8") for page in pages()]
    figure = re.compile(
        rf"```\{{figure\}} drawings/{drawing.name}\n:name: fig:[\w-]+\n:alt: (?P<alt>.+)\n\n(?P<caption>[^`].+)"
    )
    (found,) = [match for source in sources for match in figure.finditer(source)]
    assert len(found["alt"]) > 80
    assert found["caption"].strip()


def page_with(alt: str) -> nodes.document:
    page = nodes.section("", nodes.image(uri="book/drawings/vit.svg", alt=alt), nodes.image(uri="book/other.svg"))
    return page


def application(kind: str) -> SimpleNamespace:
    return SimpleNamespace(srcdir=ROOT, builder=SimpleNamespace(format=kind))


def test_page_holds_the_drawing_itself_and_leaves_other_images() -> None:
    page = page_with('tokens & "blocks"')
    inline_drawings(application("html"), page, "page")
    raw, other = page.children
    assert 'role="img" aria-label="tokens &amp; &quot;blocks&quot;"' in raw.astext()
    assert ElementTree.fromstring(raw.astext()).find(f"{SVG}title") is None
    assert other["uri"] == "book/other.svg"


def test_other_formats_keep_the_image() -> None:
    page = page_with("tokens")
    inline_drawings(application("latex"), page, "page")
    assert page[0]["uri"] == "book/drawings/vit.svg"


def test_drawing_without_a_text_is_refused() -> None:
    with pytest.raises(ValueError, match=r"vit\.svg has no text alternative"):
        inline_drawings(application("html"), page_with(" "), "page")


def test_only_the_title_goes() -> None:
    assert inline_svg("<svg a='b'>\n <title>T</title><g/></svg>", "x") == (
        '<svg role="img" aria-label="x" a=\'b\'><g/></svg>'
    )
