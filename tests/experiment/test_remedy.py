import math

import pytest
from torch import nn

from deepvit_edu.experiment import load_plan
from deepvit_edu.experiment import test_remedy as weigh_remedy
from deepvit_edu.experiment.plan import Job, arm_config, arm_recipe
from deepvit_edu.experiment.remedy import YOURS, _forget
from deepvit_edu.nn.attention import Attention
from deepvit_edu.nn.model import ATTENTIONS
from deepvit_edu.train import TIERS, NonFiniteLossError
from tools.contents import ROOT

from .plans import TINY_PLAN, TUNING, write_plan


class Blind(Attention):
    """Gives nothing: the image cannot reach the class token."""

    def forward(self, x):
        return 0 * super().forward(x)


class Broken(Attention):
    """Gives no numbers."""

    def forward(self, x):
        return math.nan * super().forward(x)


def test_a_remedy_is_paired_with_the_plain_model(tmp_path):
    plan = write_plan(tmp_path, arms={"plain": None}, contrasts=None)
    result = weigh_remedy(Blind, plan, folder=tmp_path, progress=False)
    assert result.accuracy.count == result.train_loss.count == 2
    assert result.train_loss.mean != 0
    assert "2 pairs, shapes" in str(result)
    assert YOURS not in ATTENTIONS
    # The plain arm's runs are kept, the remedy's are made anew; plain against itself is no difference at all.
    kept = (tmp_path / "tiny/full/plain_s0.json").stat().st_mtime_ns
    same = weigh_remedy({"attention": ("plain",)}, plan, folder=tmp_path, progress=False)
    assert same.accuracy.mean == same.train_loss.mean == 0
    assert same.verdict == "no difference that matters"
    assert (tmp_path / "tiny/full/plain_s0.json").stat().st_mtime_ns == kept


def test_errors_of_the_readers_own_code_come_through_and_leave_nothing_behind(tmp_path):
    class Faulty(Attention):
        def forward(self, x):
            raise RuntimeError("mine")

    plan = write_plan(tmp_path, arms={"plain": None}, contrasts=None)
    with pytest.raises(RuntimeError, match="mine"):
        weigh_remedy(Faulty, plan, folder=tmp_path, progress=False)
    assert YOURS not in ATTENTIONS
    with pytest.raises(ValueError, match="neither a module class"):
        weigh_remedy(nn.Linear(2, 2), plan, folder=tmp_path)
    with pytest.raises(ValueError, match="no arm 'plain'"):
        weigh_remedy(Blind, write_plan(tmp_path, arms={"re": None}, contrasts=None), folder=tmp_path)


def test_a_run_that_fails_is_an_error_that_says_why(tmp_path):
    plan = write_plan(tmp_path, arms={"plain": None}, contrasts=None)
    with pytest.raises(NonFiniteLossError, match=r"cannot be judged: the run yours_s0 failed: the loss became nan"):
        weigh_remedy(Broken, plan, folder=tmp_path, progress=False)
    assert weigh_remedy(Blind, plan, folder=tmp_path, progress=False).accuracy.count == 2  # the failure is forgotten


def test_tuning_that_fails_at_every_rate_says_why(tmp_path):
    plan = write_plan(tmp_path, arms={"plain": None}, contrasts=None, tuning=TUNING)
    with pytest.raises(NonFiniteLossError, match=r"'yours' train; .*; the run tuning/yours_lr0.001_s9 failed: the"):
        weigh_remedy(Broken, plan, folder=tmp_path, progress=False)
    one_rate_fails = {**TUNING, "learning_rates": [0.001, 1e30]}
    plan = write_plan(tmp_path, "other", arms={"plain": None}, contrasts=None, tuning=one_rate_fails)
    assert weigh_remedy(Blind, plan, folder=tmp_path, progress=False).accuracy.count == 2


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"from": "other/plain"}, "borrows its records from other/plain; name a plan with one of its own"),
        ({"tuned_as": "re"}, "borrows its learning rate from re; name a plan with one of its own"),
    ],
)
def test_a_plan_whose_control_is_borrowed_is_refused(tmp_path, plain, message):
    plan = write_plan(tmp_path, arms={**TINY_PLAN["arms"], "plain": plain})
    with pytest.raises(ValueError, match=rf"the arm 'plain' of .*tiny\.yml {message}"):
        weigh_remedy(Blind, plan, folder=tmp_path, progress=False)


def test_a_remedy_differs_from_the_plain_arm_in_nothing_else(tmp_path):
    arms = {"plain": {"model": {"mlp_ratio": 2.0}, "recipe": {"weight_decay": 0.5}}}
    plan = write_plan(tmp_path, model={**TINY_PLAN["model"], "attention": ["re"]}, arms=arms, contrasts=None)
    trial = weigh_remedy({"qkv_bias": True}, plan, folder=tmp_path, progress=False).plan
    assert arm_config(trial, YOURS, 2) == arm_config(trial, "plain", 2)  # they have this bias in any case
    assert arm_recipe(trial, Job(YOURS, 0), None) == arm_recipe(trial, Job("plain", 0), None)


def test_an_earlier_remedys_tuning_is_forgotten_too(tmp_path):
    plan = load_plan(write_plan(tmp_path, arms={"plain": None}, contrasts=None))
    home = tmp_path / plan.name / plan.section
    left = [home / f"{place}/tuning/yours_lr0.1_s1{end}" for place, end in ((".", ".json"), (".unfinished", "/a.pt"))]
    for path in (*left, home / "plain_s0.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    _forget(plan, tmp_path)
    assert not any(path.exists() for path in left)
    assert (home / "plain_s0.json").exists()


def test_the_books_own_plan_fits_every_tier():
    for name in TIERS:
        plan = load_plan(ROOT / "book/experiments/remedy.yml", name)
        assert "plain" in plan.arms
        assert len(set(plan.seeds)) >= 3
