"""The command line of the tools that keep one generated file up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deepvit_edu.files import atomic_path
from tools.contents import ROOT


def keep_current(path: Path, text: str, remedy: str, description: str) -> None:
    """Writes the text to its file; with `--check`, writes nothing and exits with 1 where the file is stale."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the file is stale")
    if parser.parse_args().check:
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path.relative_to(ROOT)} is stale: run `{remedy}` and commit it.")
        return
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
