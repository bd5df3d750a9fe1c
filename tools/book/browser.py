"""Where an installed Chromium or Chrome is: for the tests of the pages, and for the PDF."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

CHROMIUM_NAMES = (
    "chromium-headless-shell",  # without windows of its own, it opens a page with a third of the work
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"),
)
MACOS_CHROME = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")


def find_chromium() -> str | None:
    """The path of an installed Chromium or Chrome; the variable CHROMIUM names another."""
    named = os.environ.get("CHROMIUM")
    found = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    return named or found or (str(MACOS_CHROME) if MACOS_CHROME.exists() else None)
