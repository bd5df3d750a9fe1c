"""Every published variant against counts that were measured on the authors' code, and the book's record of it."""

import pytest

from deepvit_edu.records import load_measurement
from deepvit_edu.zoo import CONFIGS
from tools.measure import exactness
from tools.measure.exactness import MACS_BOUND, OUTPUT_BOUND, RECORD, count, is_off, main, measure, published

GHOST = next(variant for variant in published() if variant.model == "t2t_vit_16_ghost")


@pytest.mark.parametrize("variant", published(), ids=str)
def test_parameters_and_multiplications_equal_the_authors(variant):
    ours = count(variant.model, variant.img_size, variant.dense_head)
    assert (ours.parameters, ours.learned) == (variant.parameters, variant.learned)
    assert ours.macs / 1e9 == pytest.approx(variant.gmacs, rel=MACS_BOUND)


def test_every_model_of_the_papers_is_compared_at_its_own_size_and_with_its_own_heads():
    compared = {(variant.model, variant.img_size, variant.dense_head) for variant in published()}
    papers = {name: config for name, config in CONFIGS.items() if not name.startswith("cifar_")}
    assert {(name, config.img_size, config.dense_head) for name, config in papers.items()} <= compared


def test_record_of_the_book_is_what_is_counted_now():
    rows = load_measurement(RECORD)["rows"]
    assert len(rows) == len(published())
    for row, variant in zip(rows, published(), strict=True):
        fresh = measure(variant._replace(reference=""))  # outputs are test_parity's
        assert {key: row[key] for key in fresh if "difference" not in key} == {
            key: value for key, value in fresh.items() if "difference" not in key
        }
        assert (row["difference_eval"] is not None) == bool(variant.reference)
        assert not is_off(row)


@pytest.mark.parametrize(
    "wrong", [{"parameters": 1}, {"learned": 1}, {"gmacs": GHOST.gmacs * (1 + 2 * MACS_BOUND)}, None]
)
def test_the_command_fails_where_something_is_off(monkeypatch, capsys, tmp_path, wrong):
    monkeypatch.setattr(exactness, "published", lambda: [GHOST._replace(**wrong or {})])
    monkeypatch.setattr(exactness, "RECORD", tmp_path / "record.json")
    assert main(["--record"]) == (1 if wrong else 0)
    shown = capsys.readouterr().out
    assert "not tried" in shown
    assert ("OFF" in shown) == bool(wrong) != (tmp_path / "record.json").is_file()


@pytest.mark.parametrize("difference", [OUTPUT_BOUND, float("nan")])
def test_a_wrong_output_is_off(difference):
    row = measure(GHOST)
    assert not is_off({**row, "difference_eval": OUTPUT_BOUND / 2})
    assert is_off({**row, "difference_eval": difference})
    assert is_off({**row, "difference_batch": difference})
