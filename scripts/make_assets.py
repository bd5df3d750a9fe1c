"""Write deepvit_edu/assets.json: every record and trained model of the book, its SHA-256, and where to fetch it from.

python scripts/make_assets.py           write the index
python scripts/make_assets.py --check   only say whether it is stale
"""

from __future__ import annotations

import argparse
import json
import sys

from contents import ROOT, load_yaml, repository_url
from deepvit_edu.assets import INDEX
from deepvit_edu.files import atomic_path, file_hash

FOLDERS = {"records": "**/*.json", "weights": "*.safetensors", "experiments": "*.yml"}


def index() -> dict:
    """What assets.json should hold."""
    branch = load_yaml(ROOT / "_config.yml")["repository"]["branch"]
    raw = repository_url().replace("https://github.com/", "https://raw.githubusercontent.com/")
    files = [path for folder, pattern in FOLDERS.items() for path in sorted((ROOT / "book" / folder).glob(pattern))]
    hashes = {path.relative_to(ROOT / "book").as_posix(): file_hash(path) for path in files}
    return {"url": f"{raw}/{branch}/book", "sha256": hashes}


def main() -> None:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the index is stale")
    text = json.dumps(index(), indent=1, sort_keys=True) + "\n"
    if parser.parse_args().check:
        if not INDEX.is_file() or INDEX.read_text(encoding="utf-8") != text:
            sys.exit("deepvit_edu/assets.json is stale: run `make assets` and commit it.")
        return
    with atomic_path(INDEX) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
