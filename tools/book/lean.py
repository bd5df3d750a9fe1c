"""A Sphinx extension: a page loads what it uses, and what is far down only when a reader comes near.

- Scripts and styles of things that a page does not have are left out (no kernel in the page, tabs only where tabs are),
  and so are elements around parts of code that no style tells apart.
- An explorer's numbers and code move into a file of their own, which web/book.js loads as a script when the explorer
  comes near the window: a page opened from a folder may load scripts, but not fetch data.
- Pictures that stand in a page as text (the maps in its figures) become files. An SVG's own pictures are loaded at once
  wherever they are, so they become HTML's, which can wait. Photographs, which PNG makes heavy, become WebP.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

FOLDER = "_figures"
HEAVY = 100_000
"""Bytes above which a PNG is a photograph: maps and drawn images stay below it, to the last bit."""
UNUSED = ("thebe", "THEBE_JS_URL")  # a kernel in the page: this book has none
ONLY_WHERE = {  # names, and the pattern of what a page has that needs them
    "design-tabs.js": "sd-tab-set",
    "sphinx-design": "sd-",
    "exercise.css": "exercise",
    "katex": 'class="math',
    "live.css": "live-figure",
    "live/base.js": "live-figure",
    "live/networks.js": "live-networks|live-drop",
    "live/pictures.js": "live-networks|live-drop",
    "live/specimen.js": "live-networks",
    "live/drop.js": "live-drop",
    "live/query.js": "live-query",
    "live/split.js": "live-split",
    "live/kernel.js": "live-kernel",
}
REPEATED = re.compile(r' id="(?:exercise|solution)-content"')
"""A name that every exercise of a page has, and to which nothing leads."""
COLOURLESS = re.compile(r'<span class="(?:n|nn|p|w)">([^<]*)</span>')
"""Names, brackets and spaces of code, which have the colour of all text: half of the elements of some pages."""
OUTDATED_ROLE = 'role="doc-biblioentry"', 'role="listitem"'
"""Docutils' role of an entry of the bibliography, given up by ARIA, and what it is within the list around it."""
EXPLORER = re.compile(
    r'<script type="application/json">(?P<data>.*?)</script>\s*<script>(?P<code>.*?)</script>', re.DOTALL
)
PICTURE = re.compile(
    r'<image (?:xlink:)?href="data:image/(?P<kind>png|jpeg);base64,(?P<text>[^"]+)"(?P<place>[^>]*?)/?>(?:</image>)?'
)
KERNEL = re.compile(r'<script type="text/x-thebe-config">.*?</script>\s*<script>kernelName = [^<]*</script>', re.DOTALL)


def is_used(asset: object, body: str) -> bool:
    """Whether a page needs a script or style of Sphinx's list."""
    text = f"{getattr(asset, 'filename', asset)} {getattr(asset, 'attributes', {}).get('body') or ''}"
    if any(name in text for name in UNUSED):
        return False
    return all(re.search(mark, body) for name, mark in ONLY_WHERE.items() if name in text)


class Files:
    """Files beside the pages, named by what is in them."""

    def __init__(self, outdir: Path, to_root: str) -> None:
        self.folder, self.to_root = outdir / FOLDER, to_root

    def address(self, content: bytes, suffix: str) -> str:
        """Writes a file, unless it is there, and returns its address as of the page."""
        name = f"{hashlib.sha256(content).hexdigest()[:16]}.{suffix}"
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(content)
        return f"{self.to_root}{FOLDER}/{name}"


def move_explorers(body: str, files: Files) -> str:
    """The page's explorers without their data and code, which go to files that are loaded late."""

    def moved(match: re.Match) -> str:
        # The file puts the data where the code looks for it, in the element just before the file's own.
        put = f"document.currentScript.previousElementSibling.textContent = {json.dumps(match['data'])};\n"
        address = files.address((put + match["code"]).encode(), "js")
        return f'<script type="application/json"></script><script type="text/plain" data-late="{address}"></script>'

    return EXPLORER.sub(moved, body)


def move_pictures(body: str, files: Files) -> str:
    """The page with files in the place of the pictures that were written into its figures."""

    def moved(match: re.Match) -> str:
        address = files.address(*lighter(base64.b64decode(match["text"]), match["kind"]))
        # The figure that holds it has the text alternative.
        return f'<foreignObject{match["place"]}><img src="{address}" alt="" width="100%" height="100%"></foreignObject>'

    return PICTURE.sub(moved, body)


def lighter(picture: bytes, kind: str) -> tuple[bytes, str]:
    """A picture and its kind; a heavy PNG as WebP, in which no eye sees a difference."""
    if kind != "png" or len(picture) <= HEAVY:
        return picture, kind
    webp = io.BytesIO()
    Image.open(io.BytesIO(picture)).save(webp, "WEBP", quality=90, method=6)
    return webp.getvalue(), "webp"


def put_off(script: object) -> None:
    """Let the page be drawn before a script of Sphinx's list runs; those written into the page read the options."""
    name = getattr(script, "filename", None)
    if name and "documentation_options" not in str(name):
        script.attributes["defer"] = "defer"


def make_lean(app: Sphinx, _page: str, _template: str, context: dict, _doctree: nodes.document | None) -> None:
    """Shorten the page that is about to be written."""
    body = context.get("body", "")
    for kind in ("script_files", "css_files"):
        context[kind] = [asset for asset in context.get(kind, []) if is_used(asset, body)]
    for script in context["script_files"]:
        put_off(script)
    if body:
        files = Files(Path(app.outdir), context["content_root"])
        body = move_pictures(move_explorers(body, files), files).replace(*OUTDATED_ROLE)
        body = COLOURLESS.sub(r"\1", body)
        context["body"] = REPEATED.sub("", KERNEL.sub("", body)).replace("<img ", '<img loading="lazy" ')


def drop_unused(app: Sphinx, error: Exception | None) -> None:
    """Delete what themes and extensions bring along and no page asks for: some four megabytes."""
    if error is None:
        static = Path(app.outdir) / "_static"
        shutil.rmtree(static / "vendor" / "fontawesome", ignore_errors=True)
        for file in (*static.glob("*/*.map"), *static.glob("sphinx-thebe.*")):
            file.unlink()


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("html-page-context", make_lean, priority=700)  # when all others have named their scripts
    app.connect("build-finished", drop_unused)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
