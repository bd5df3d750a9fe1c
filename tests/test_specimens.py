"""The trained models that the chapters dissect."""

import pytest

from deepvit_edu.specimens import load_specimen


@pytest.mark.parametrize(("remedy", "data", "asked"), [("rea", "shapes", "rea"), ("plain", "mnist", "mnist")])
def test_unknown_specimen_is_named_with_what_there_is(remedy: str, data: str, asked: str) -> None:
    with pytest.raises(ValueError, match=f"no specimen '{asked}'.*choose"):
        load_specimen(remedy, data)
