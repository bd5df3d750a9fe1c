import math
from dataclasses import dataclass, fields

import pytest

from deepvit_edu.nn.model import ViTConfig
from deepvit_edu.options import check_number, check_options, option
from deepvit_edu.training import Recipe


@dataclass(frozen=True)
class Options:
    count: int = option(3, "how many", at_least=1, at_most=5)
    part: float = option(0.5, "of the whole", above=0, below=1)
    way: str = option("left", choices=("left", "right"))
    on: bool = False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "count is 0; it must be at least 1 and at most 5"),
        ({"count": 2.5}, "count is 2.5; it must be a whole number"),
        ({"count": True}, "count is True; it must be a whole number"),
        ({"count": 10**400}, r"count is 1000.*; it must be a whole number up to 1e\+100"),
        ({"part": -(10**400)}, r"part is -1000.*; it must be a finite number up to 1e\+100"),
        ({"part": 0}, "part is 0; it must be above 0 and below 1"),
        ({"part": math.nan}, "part is nan; it must be a finite number"),
        ({"part": math.inf}, "part is inf; it must be a finite number"),
        ({"part": "0.5"}, "part is '0.5'; it must be a finite number"),
        ({"way": "up"}, "way is 'up'; choose one of left, right"),
        ({"on": 1}, "on is 1; it must be true or false"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, message):
    check_options(Options())
    with pytest.raises(ValueError, match=message):
        check_options(Options(**changes))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [Recipe, ViTConfig])
def test_no_option_of_recipes_and_models_may_be_nan_or_infinite(kind, value):
    numbers = [each.name for each in fields(kind) if each.type in (int, float, float | None)]
    assert len(numbers) > 10
    for name in numbers:
        with pytest.raises(ValueError, match=f"{name} is"):
            kind(**{name: value})


def test_a_range_may_have_one_end():
    with pytest.raises(ValueError, match="x is -1; it must be above 0"):
        check_number("x", -1, above=0)


def test_no_count_is_larger_than_machines_count():
    with pytest.raises(ValueError, match=r"epochs is 10000000000000; it must be at least 1 and at most 1e\+12"):
        Recipe(epochs=10**13)
    assert Recipe(seed=2**64 - 1).seed == 2**64 - 1
