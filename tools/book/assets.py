"""Write deepvit_edu/assets.json: every record and trained model of the book, its SHA-256, and where to fetch it from.

python -m tools.book.assets           write the index
python -m tools.book.assets --check   only say whether it is stale
"""

from __future__ import annotations

import json

from deepvit_edu.assets import INDEX
from deepvit_edu.files import file_hash
from tools.contents import ROOT, load_yaml, repository_url, visible_files
from tools.generated import keep_current

FOLDERS = {"records": "**/*.json", "weights": "*.safetensors", "experiments": "*.yml"}


def index() -> dict:
    """What assets.json should hold."""
    branch = load_yaml(ROOT / "_config.yml")["repository"]["branch"]
    raw = repository_url().replace("https://github.com/", "https://raw.githubusercontent.com/")
    files = [path for folder, pattern in FOLDERS.items() for path in visible_files(ROOT / "book" / folder, pattern)]
    hashes = {path.relative_to(ROOT / "book").as_posix(): file_hash(path) for path in files}
    return {"url": f"{raw}/{branch}/book", "sha256": hashes}


if __name__ == "__main__":
    keep_current(INDEX, json.dumps(index(), indent=1, sort_keys=True) + "\n", "make assets", __doc__)
