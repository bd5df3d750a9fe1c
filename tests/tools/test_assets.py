"""The index of what the book hands out."""

from pathlib import Path

from tools.book.assets import files_of


def test_files_of_unfinished_runs_are_not_handed_out(tmp_path: Path) -> None:
    for name in ("plan/full/plain_s0.json", "plan/full/.unfinished/plain_s1/record.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert files_of(tmp_path, "**/*.json") == [tmp_path / "plan/full/plain_s0.json"]
