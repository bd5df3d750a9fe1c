"""What the tools and the tests need to know of the book: its pages, its notebooks and its repository's address."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
HTML = BUILD / "html"  # the built pages
PLACEHOLDER = "OWNER"


def load_yaml(path: Path) -> dict:
    """The contents of a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def pages(root: Path = ROOT) -> list[str]:
    """The pages of `_toc.yml` in reading order, without suffix: `["book/index", ...]`."""

    def walk(node: object) -> list[str]:
        if isinstance(node, list):
            return [page for item in node for page in walk(item)]
        if not isinstance(node, dict):
            return []
        here = [node[key] for key in ("root", "file") if key in node]
        return here + [page for value in node.values() for page in walk(value)]

    return [page.removesuffix(".md") for page in walk(load_yaml(root / "_toc.yml"))]


def source_of(page: str, root: Path = ROOT) -> Path:
    """The MyST file of a page."""
    return root / f"{page}.md"


def is_notebook(path: Path) -> bool:
    """Whether a MyST file has cells to execute, that is, whether its front matter has `jupytext` and `kernelspec`."""
    text = path.read_text(encoding="utf-8")
    front_matter = text.split("\n---", 1)[0] if text.startswith("---\n") else ""
    return "\njupytext:" in front_matter and "\nkernelspec:" in front_matter


def notebook_pages(root: Path = ROOT) -> list[str]:
    """The pages of the table of contents that are executed and of which a learner's notebook is made."""
    return [page for page in pages(root) if source_of(page, root).is_file() and is_notebook(source_of(page, root))]


def visible_files(folder: Path, pattern: str = "**/*") -> list[Path]:
    """The files of a folder, sorted, but not those in hidden folders: they belong to runs under way."""
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def repository_url(root: Path = ROOT) -> str:
    """The repository's address: DEEPVIT_EDU_REPOSITORY where it is set, else the one of `_config.yml`."""
    url = os.environ.get("DEEPVIT_EDU_REPOSITORY") or load_yaml(root / "_config.yml")["repository"]["url"]
    return url.rstrip("/")


def is_placeholder(url: str) -> bool:
    """Whether an address still names no real repository."""
    return PLACEHOLDER in url.split("/")
