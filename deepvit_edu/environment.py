"""What the environment says: variables, of which an empty one counts as not set, and folders below a home."""

import os
from pathlib import Path


def variable(name: str, default: str = "") -> str:
    """The value of an environment variable; `default` where it is not set, or empty."""
    return os.environ.get(name, "").strip() or default


def expanded(path: str | Path) -> Path:
    """A path with `~` replaced.

    Raises:
        ValueError: when it begins in a home that nobody knows, as for a container's user without a name.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path} cannot be found, since this user has no known home; give a whole path") from error
