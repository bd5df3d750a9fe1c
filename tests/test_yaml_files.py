import re

import pytest

from deepvit_edu.yaml_files import read_yaml
from tools.contents import ROOT


def written(tmp_path, content: bytes):
    path = tmp_path / "some.yml"
    path.write_bytes(content)
    return path


def ten_times_each(levels: int) -> bytes:
    """Some hundred bytes that aliases make `10 ** levels` values of."""
    lines = ["a0: &a0 1", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels + 1))]
    return "\n".join(lines).encode()


def test_numbers_are_numbers(tmp_path):
    read = read_yaml(written(tmp_path, b"a: 1e-6\nb: 5E4\nc: 0.1\nd: 3\ne: 1:30\nf: 1:30.5\ng: 0\nh: -0"))
    assert read == {"a": 1e-6, "b": 5e4, "c": 0.1, "d": 3, "e": "1:30", "f": "1:30.5", "g": 0, "h": 0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"arms:\n  plain: {}\n  plain: {depth: 3}", r"some.yml .*the key 'plain' \(line 3\) is there twice"),
        (b"seeds: [0]\nseeds: [7]", r"the key 'seeds' \(line 2\) is there twice"),
        (b"a: {b: 1, c: 2, b: 3}", r"the key 'b' \(line 1\) is there twice"),
        (b"a: 1\nseeds: [010]", r"010 \(line 2\) begins with 0; write it without"),
        (b"a: -07", r"-07 \(line 1\) begins with 0"),
        (b"a: [", "some.yml is not YAML"),
        (b"[" * 5000, "some.yml cannot be read: it is nested too deeply"),
        (ten_times_each(9), "some.yml cannot be read: its aliases make more than 100,000 values"),
        (b"a: &a [*a]", "some.yml cannot be read: its aliases make more than 100,000 values"),
        ("title: B\u00e4ume".encode("latin-1"), "some.yml is not UTF-8 text"),
        ("title: a".encode("utf-16"), "some.yml is not UTF-8 text"),
    ],
)
def test_files_that_cannot_be_meant_are_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_yaml(written(tmp_path, content))


def test_a_byte_order_mark_and_merged_keys_are_read(tmp_path):
    assert read_yaml(written(tmp_path, "a: 1".encode("utf-8-sig"))) == {"a": 1}
    read = read_yaml(written(tmp_path, b"base: &b {x: 1, y: 2}\nmore: {<<: *b, y: 3}"))
    assert read["more"] == {"x": 1, "y": 3}


def test_plans_and_recipes_refuse_a_key_that_is_there_twice(tmp_path):
    from deepvit_edu.experiment import load_plan
    from deepvit_edu.training import load_recipe

    path = written(tmp_path, b"model: deepvit_s\nmodel: deepvit_l")
    for load in (load_plan, load_recipe):
        with pytest.raises(ValueError, match="the key 'model'"):
            load(path)


def test_the_package_reads_yaml_in_one_place():
    files = (ROOT / "deepvit_edu").rglob("*.py")
    readers = [path.name for path in files if re.search(r"yaml\.(safe_)?load\(", path.read_text(encoding="utf-8"))]
    assert readers == ["yaml_files.py"]
