"""Build the book strictly, check that every page of the table of contents is there, and say how long it took.

python -m tools.book.build             build into _build/html
python -m tools.book.build --publish   the same, but refuse while the repository's address is a placeholder
python -m tools.book.build --publish --check-only   only the refusal
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from tools.book.execution import TAKEN, execute_pages, outputs_kept
from tools.contents import (
    BUILD,
    HTML,
    ROOT,
    is_placeholder,
    load_yaml,
    notebook_pages,
    pages,
    repository_url,
    source_of,
    visible_files,
)

REPORT = BUILD / "report.json"
# A change of these is not seen by Sphinx, which compares the pages only: build anew then.
BOOK_FILES = ("book/drawings", "book/experiments", "book/images", "book/records", "book/weights", "book/references.bib")
BEYOND_PAGES = (
    "deepvit_edu",
    *BOOK_FILES,
    "CHANGELOG.md",
    "_config.yml",
    "_toc.yml",
    "requirements.txt",
    "tools/book",
    "web",
)


def fingerprint() -> str:
    """A sha256 over the files that the pages show or run, apart from the pages themselves."""
    digest = hashlib.sha256(repository_url().encode())
    for name in BEYOND_PAGES:
        path = ROOT / name
        files = visible_files(path) if path.is_dir() else [path]
        for file in (file for file in files if "__pycache__" not in file.parts):
            digest.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    return digest.hexdigest()


def check_publishable() -> None:
    """Stop unless the repository's address is a real one."""
    if is_placeholder(repository_url()):
        sys.exit(
            f"The book cannot be published with the placeholder {repository_url()}: set repository.url in _config.yml "
            "and run `make notebooks` and `make assets`."
        )


def check_sources() -> None:
    """Stop if a page of the table of contents has no source, or has cells that would not be executed."""
    missing = [page for page in pages() if not source_of(page).is_file()]
    if missing:
        sys.exit(f"_toc.yml names pages that do not exist: {', '.join(missing)}. Write them or take them out.")
    for page in sorted(set(pages()) - set(notebook_pages())):
        if "{code-cell}" in source_of(page).read_text(encoding="utf-8"):
            sys.exit(f"{page}.md has code cells, but no jupytext and kernelspec in its front matter: see chapter 1's.")


def environment() -> dict[str, str]:
    """The environment of whatever executes or builds pages."""
    # Without progress bars: in a page they would be widgets, dead and fetched from a network.
    # And without the score of `check`: nobody has solved anything yet.
    quiet = {"DEEPVIT_EDU_PROGRESS": "0", "DEEPVIT_EDU_SCORE": "0"}
    # The models of the `cpu` tier are too small to gain by a second thread: on small machines it costs time.
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    # The extensions of tools/ are imported from here.
    imports = {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    return {"DEEPVIT_EDU_TIER": "cpu", **threads, **os.environ, **quiet, **imports}


def execute_book() -> None:
    """Execute every page that has cells; stop if one fails."""
    os.environ.update(environment())
    failed = execute_pages(notebook_pages())
    for page, error in failed.items():
        print(f"{page}.md failed:\n{error}", file=sys.stderr)
    if failed:
        sys.exit(f"The book was not built, because cells failed in {', '.join(f'{page}.md' for page in failed)}.")


def run_jupyter_book(folder: Path) -> int:
    """Run jupyter-book with warnings as errors, with a copy of the configuration in `folder`; its exit code."""
    config = load_yaml(ROOT / "_config.yml")
    config["repository"]["url"] = repository_url()
    path = folder / "_config.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [
        str(Path(sys.executable).with_name("jupyter-book")),
        "build",
        ".",
        "--config",
        str(path),
        "-W",
        "-n",
        "--keep-going",
    ]
    return subprocess.run(command, cwd=ROOT, env=environment(), check=False).returncode


def check_pages(executed: int) -> None:
    """Stop if the build left out a page, or executed one again."""
    missing = [page for page in pages() if not (HTML / f"{page}.html").is_file()]
    if missing:
        sys.exit(f"The build ended without an error, but these pages are missing: {', '.join(missing)}.")
    if outputs_kept() != executed:
        sys.exit("MyST-NB did not find the outputs of each page where tools/book/execution.py had put them.")


def main() -> None:
    """Build, check and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--publish", action="store_true", help="refuse a placeholder address of the repository")
    parser.add_argument("--check-only", action="store_true", help="build nothing")
    arguments = parser.parse_args()
    if arguments.publish:
        check_publishable()
    if arguments.check_only:
        return
    check_sources()
    stamp = BUILD / "fingerprint"
    now = fingerprint()
    if not stamp.is_file() or stamp.read_text() != now:
        shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(exist_ok=True)
    stamp.write_text(now)  # pages that have been executed stay so, whatever fails after them
    started = time.monotonic()
    execute_book()
    executed = outputs_kept()
    with tempfile.TemporaryDirectory() as folder:
        code = run_jupyter_book(Path(folder))
    if code:
        shutil.rmtree(BUILD / ".doctrees", ignore_errors=True)  # else the next build would not repeat the warning
        sys.exit(f"The book did not build (exit code {code}): the first warning or error above says why.")
    check_pages(executed)
    taken = json.loads(TAKEN.read_text())
    minutes = (time.monotonic() - started) / 60
    REPORT.write_text(json.dumps({"pages": len(pages()), "minutes": minutes, "executed": taken}, indent=1))
    print(f"Built {len(pages())} pages, {len(taken)} of them executed, in {minutes:.1f} minutes.")


if __name__ == "__main__":
    main()
