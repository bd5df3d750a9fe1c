"""A Sphinx extension: what a reader can take along, written beside the built pages.

downloads/notebooks/NAME.ipynb                     the learner's notebooks, one by one
downloads/{notebooks,weights,records}.zip          all of them, the trained models, the records of runs
downloads/SHA256SUMS                               the hashes of the zips, as `sha256sum --check` reads them

The same files give the same zip, byte for byte.
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from tools.book.header import NOTEBOOKS
from tools.contents import ROOT, notebook_pages, visible_files

if TYPE_CHECKING:
    from sphinx.application import Sphinx

UNDATED = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say: a checkout's times are of no interest
LICENCES = ("LICENSE", "LICENSE-text")


def collections() -> dict[str, list[Path]]:
    """The files of each zip by the zip's name."""
    return {
        "notebooks": [ROOT / f"{page}.ipynb" for page in notebook_pages()],
        "weights": visible_files(ROOT / "book/weights"),
        "records": visible_files(ROOT / "book/records"),
    }


def write_zip(path: Path, files: list[Path]) -> str:
    """Writes files of the repository, with its licences, under their paths in it; returns the zip's sha256."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in [*(ROOT / name for name in LICENCES), *files]:
            entry = zipfile.ZipInfo(file.relative_to(ROOT).as_posix(), UNDATED)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_downloads(folder: Path) -> None:
    """Writes all of them below the folder of the built pages."""
    notebooks = folder / NOTEBOOKS
    shutil.rmtree(notebooks.parent, ignore_errors=True)
    notebooks.mkdir(parents=True)
    for page in notebook_pages():
        shutil.copy(ROOT / f"{page}.ipynb", notebooks)
    sums = [
        f"{write_zip(notebooks.parent / f'{name}.zip', files)}  {name}.zip\n" for name, files in collections().items()
    ]
    (notebooks.parent / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")


def after_build(app: Sphinx, error: Exception | None) -> None:
    """Write them when the pages are there, and take away the sources that the theme put beside the pages.

    Without them it would make no button for a notebook; the button leads to the learner's (tools/book/header.py).
    """
    if error is None and app.builder.format == "html":
        write_downloads(Path(app.outdir))
        shutil.rmtree(Path(app.outdir) / "_sources", ignore_errors=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("build-finished", after_build)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
