"""A release: the same version in all places, and a dated entry in the changelog."""

from pathlib import Path

import pytest

from tools.book import release


def test_the_places_agree_on_the_version() -> None:
    assert len(set(release.versions().values())) == 1, release.versions()
    release.check_versions(None)


def test_another_tag_is_refused_by_name() -> None:
    with pytest.raises(SystemExit, match=r"9\.9\.9 in the tag"):
        release.check_versions("v9.9.9")


@pytest.mark.parametrize(("date", "refused"), [("not released yet", True), ("2026-12-01", False)])
def test_a_tag_wants_a_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, date: str, refused: bool) -> None:
    for name in ("pyproject.toml", "CITATION.cff"):
        (tmp_path / name).write_text((release.ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    version = release.versions()["pyproject.toml"]
    (tmp_path / "CHANGELOG.md").write_text(
        f"# Changelog\n\n## {version} ({date})\n\nNew.\n\n## 0.0.1 (2020-01-01)\n\nOld.\n"
    )
    monkeypatch.setattr(release, "ROOT", tmp_path)
    if refused:
        with pytest.raises(SystemExit, match="no date"):
            release.check_versions(f"v{version}")
    else:
        release.check_versions(f"v{version}")
        assert release.newest_entry()["text"].strip() == "New."


def test_a_hash_is_written_as_sha256sum_reads_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert release.hash_line(tmp_path / "a.txt") == f"{empty}  a.txt\n"
