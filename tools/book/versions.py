"""Versions of the book that are online beside the newest: `book_older_versions` of _config.yml.

The newest stands at the site's own address with versions.json, which every version's pages read (web/versions.js); an
older one, 0.1.0 say, stands in the folder v0.1.0/ below it.

python -m tools.book.versions   print the older ones, one a line: `make older-versions` fetches their pages
"""

from __future__ import annotations

from tools.contents import ROOT, load_yaml

LIST = "versions.json"


def older_versions() -> list[str]:
    """The versions that stay online, as _config.yml names them."""
    return [str(version) for version in load_yaml(ROOT / "_config.yml")["sphinx"]["config"]["book_older_versions"]]


def versions(newest: str, older: list[str], site: str) -> list[dict[str, str]]:
    """What versions.json says: each version and its address; `site` ends in a slash."""
    others = [version for version in older if version != newest]
    return [{"version": newest, "address": site}] + [
        {"version": version, "address": f"{site}v{version}/"} for version in others
    ]


if __name__ == "__main__":
    print(*older_versions(), sep="\n")
