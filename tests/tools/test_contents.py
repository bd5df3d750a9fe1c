"""What the tools know of the book's files."""

from pathlib import Path

from tools.contents import visible_files


def test_files_of_runs_under_way_are_not_seen(tmp_path: Path) -> None:
    for name in ("plan/full/plain_s0.json", "plan/full/.unfinished/plain_s1/record.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert visible_files(tmp_path) == visible_files(tmp_path, "**/*.json") == [tmp_path / "plan/full/plain_s0.json"]
