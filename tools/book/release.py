"""What a release consists of, in dist/: `make release` after `make book`.

The wheel, the whole book as PDF, the pages, notebooks, trained models and records as zips, how to cite it, the
changelog's entry as notes, and the sha256 of each file. It refuses when the places that name the version disagree.

python -m tools.book.release          write dist/
python -m tools.book.release v0.1.0   the same, for this tag
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import deepvit_edu
from tools.book.metadata import bibtex, citation, site_address
from tools.book.pdf import PDF
from tools.contents import HTML, ROOT, repository_url

DIST = ROOT / "dist"
ENTRY = re.compile(r"^## (?P<version>\S+) \((?P<date>[^)]*)\)\n(?P<text>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def versions() -> dict[str, str]:
    """The version by the file that names it."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    newest = ENTRY.search((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    return {
        "deepvit_edu/__init__.py": deepvit_edu.__version__,
        "pyproject.toml": re.search(r'^version = "(.+)"$', project, re.MULTILINE)[1],
        "CITATION.cff": citation()["version"],
        "CHANGELOG.md": newest["version"] if newest else "none",
    }


def check_versions(tag: str | None) -> None:
    """Stop when the files, or the tag, name different versions, or the changelog gives no date for a tagged one."""
    named = versions() | ({"the tag": tag.removeprefix("v")} if tag else {})
    if len(set(named.values())) > 1:
        told = ", ".join(f"{version} in {place}" for place, version in named.items())
        sys.exit(f"The versions differ: {told}. Write the same in all of them.")
    if tag and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", newest_entry()["date"]):
        sys.exit("CHANGELOG.md has no date for this version: write it as in `## 0.1.0 (2026-12-01)`.")


def newest_entry() -> re.Match:
    """The changelog's first entry."""
    return ENTRY.search((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))


def build_wheel() -> None:
    """The package's wheel, without what it depends on."""
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(DIST), str(ROOT)]
    subprocess.run([sys.executable, *command], check=True)


def collect() -> None:
    """Put all that is released into dist/."""
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    build_wheel()
    shutil.copy(PDF, DIST)
    for archive in sorted((HTML / "downloads").glob("*.zip")):
        shutil.copy(archive, DIST)
    shutil.make_archive(str(DIST / "pages"), "zip", HTML)
    shutil.copy(ROOT / "CITATION.cff", DIST)
    address = site_address(repository_url(), None)
    (DIST / "citation.bib").write_text(bibtex(address) + "\n", encoding="utf-8")
    (DIST / "NOTES.md").write_text(newest_entry()["text"].strip() + "\n", encoding="utf-8")
    (DIST / "SHA256SUMS").write_text("".join(map(hash_line, sorted(DIST.iterdir()))), encoding="utf-8")


def hash_line(file: Path) -> str:
    """A file's line, as `sha256sum --check` reads it."""
    return f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"


def main() -> None:
    """Check, collect, and list."""
    check_versions(sys.argv[1] if len(sys.argv) > 1 else None)
    for needed, target in ((HTML / "index.html", "make book"), (PDF, "make pdf")):
        if not needed.is_file():
            sys.exit(f"{needed.relative_to(ROOT)} is not there: run `{target}` first.")
    collect()
    print(*(f"{file.stat().st_size / 1e6:8.2f} MB  dist/{file.name}" for file in sorted(DIST.iterdir())), sep="\n")


if __name__ == "__main__":
    main()
