import pytest

from deepvit_edu.environment import expanded, variable


@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_variable_counts_as_not_set(monkeypatch, value):
    monkeypatch.setenv("DEEPVIT_EDU_TEST", value)
    assert variable("DEEPVIT_EDU_TEST", "other") == "other"
    monkeypatch.delenv("DEEPVIT_EDU_TEST")
    assert variable("DEEPVIT_EDU_TEST") == ""
    monkeypatch.setenv("DEEPVIT_EDU_TEST", "this")
    assert variable("DEEPVIT_EDU_TEST", "other") == "this"


def test_an_unknown_home_is_told():
    with pytest.raises(ValueError, match="~nobody-of-this-name/x cannot be found"):
        expanded("~nobody-of-this-name/x")
