import math
import re
import subprocess
import sys

import pytest
import torch
from einops import rearrange
from torch import nn

from deepvit_edu.experiment import load_plan
from deepvit_edu.experiment import test_remedy as weigh_remedy
from deepvit_edu.experiment.plan import Job, arm_config, arm_recipe
from deepvit_edu.experiment.remedy import _obvious
from deepvit_edu.experiment.results import outcome, record_path
from deepvit_edu.nn.attention import Attention
from deepvit_edu.records import load_record
from deepvit_edu.tiers import TIERS
from deepvit_edu.training import NonFiniteLossError
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
    # A second remedy keeps the plain runs, and the first one's; plain against itself is the same.
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "tiny/full").glob("*.json")}
    same = weigh_remedy({"attention": ("plain",)}, plan, folder=tmp_path, progress=False)
    assert same.accuracy.mean == same.train_loss.mean == 0
    assert same.verdict.startswith("the same in every seed")
    assert len(kept) == 4
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    # The same remedy once more takes the runs that are there.
    again = weigh_remedy(Blind, plan, folder=tmp_path, progress=False)
    assert (again.accuracy, again.arm) == (result.accuracy, result.arm)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


def test_errors_of_the_readers_own_code_come_through(tmp_path):
    class Faulty(Attention):
        def forward(self, x):
            raise RuntimeError("mine")

    plan = write_plan(tmp_path, arms={"plain": None}, contrasts=None)
    with pytest.raises(RuntimeError, match="mine"):
        weigh_remedy(Faulty, plan, folder=tmp_path, progress=False)
    with pytest.raises(ValueError, match="neither a module class"):
        weigh_remedy(nn.Linear(2, 2), plan, folder=tmp_path)
    with pytest.raises(ValueError, match="no arm 'plain'"):
        weigh_remedy(Blind, write_plan(tmp_path, arms={"re": None}, contrasts=None), folder=tmp_path)


def test_a_run_that_fails_is_an_error_that_says_why(tmp_path):
    plan = write_plan(tmp_path, arms={"plain": None}, contrasts=None)
    with pytest.raises(
        NonFiniteLossError, match=r"cannot be judged: the run Broken_\w+_s0 failed: the loss became nan"
    ):
        weigh_remedy(Broken, plan, folder=tmp_path, progress=False)
    assert weigh_remedy(Blind, plan, folder=tmp_path, progress=False).accuracy.count == 2  # the failure is forgotten


def test_tuning_that_fails_at_every_rate_says_why(tmp_path):
    plan = write_plan(tmp_path, arms={"plain": None}, contrasts=None, tuning=TUNING)
    with pytest.raises(
        NonFiniteLossError, match=r"'Broken_\w+' train; .*; the run tuning/Broken_\w+_lr0.001_s9 failed: the"
    ):
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
    remedy = weigh_remedy({"qkv_bias": True}, plan, folder=tmp_path, progress=False)
    trial = remedy.plan
    assert arm_config(trial, remedy.arm, 2) == arm_config(trial, "plain", 2)  # they have this bias in any case
    assert arm_recipe(trial, Job(remedy.arm, 0), None) == arm_recipe(trial, Job("plain", 0), None)


def test_a_failure_is_tried_again(tmp_path):
    plan = write_plan(tmp_path, arms={"plain": None}, contrasts=None)
    rule = {"fails": True}

    class Sometimes(Attention):
        def forward(self, x):
            return (math.nan if rule["fails"] else 1.0) * super().forward(x)

    with pytest.raises(NonFiniteLossError):
        weigh_remedy(Sometimes, plan, folder=tmp_path, progress=False)
    rule["fails"] = False
    assert weigh_remedy(Sometimes, plan, folder=tmp_path, progress=False).accuracy.count == 2


# What the chapters build, as they build it.


def class_of_chapter(number: str, name: str) -> type[nn.Module]:
    """A class as a chapter's cell defines it."""
    (page,) = (ROOT / "book").glob(f"{number}_*.md")
    cells = re.findall(r"```\{code-cell\}[^\n]*\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    (cell,) = [cell for cell in cells if f"class {name}(" in cell]
    code = cell[cell.index(f"class {name}(") :]
    scope = {"torch": torch, "nn": nn, "Attention": Attention, "rearrange": rearrange, "__name__": "__main__"}
    exec(code, scope)
    return scope[name]


def test_chapter_1s_attention_is_plain_attention(tmp_path):
    plan = write_plan(tmp_path, arms={"plain": None}, contrasts=None)
    result = weigh_remedy(class_of_chapter("01", "HeadsAtOnce"), plan, folder=tmp_path, progress=False)
    assert result.accuracy.mean == 0
    assert result.verdict.startswith("the same in every seed")


def test_chapter_4s_re_attention_can_be_weighed(tmp_path):
    plan = write_plan(tmp_path, arms={"plain": None}, contrasts=None)
    result = weigh_remedy(class_of_chapter("04", "GrownReAttention"), plan, folder=tmp_path, progress=False)
    assert result.accuracy.count == 2
    assert result.train_loss.mean != 0


class Mean(nn.Module):
    """A plain module: every token gets the mean of all."""

    def __init__(self, dim, heads):
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, x):
        return self.linear(x.mean(dim=1, keepdim=True)).expand_as(x)


def test_a_record_names_the_class_and_keeps_its_source(tmp_path):
    plan = write_plan(tmp_path, arms={"plain": None}, contrasts=None)
    result = weigh_remedy(Mean, plan, folder=tmp_path, progress=False)
    record = load_record(record_path(result.plan, Job(result.arm, 0), tmp_path))
    ((name, source),) = record["attention_source"].items()
    assert name.startswith("Mean#")
    assert record["config"]["model"]["attention"] == [name]
    assert "self.linear(x.mean(dim=1, keepdim=True))" in source


def test_the_command_line_reads_the_records_of_remedies(tmp_path, capsys):
    from deepvit_edu.cli import main

    plan = write_plan(tmp_path, arms={"plain": None}, contrasts=None)
    result = weigh_remedy(Mean, plan, folder=tmp_path / "records", progress=False)
    assert main(["records", str(tmp_path / "records")]) == 0
    assert f"{result.arm}_s1" in capsys.readouterr().out
    assert main(["records", str(tmp_path / "records"), "--plan", str(plan)]) == 0
    assert "2 more records that the plan does not declare" in capsys.readouterr().out


def test_a_mistake_in_a_constructor_is_shown_as_that_mistake(tmp_path):
    class Mistaken(Attention):
        def __init__(self, dim, num_heads):
            super().__init__(dim, num_heads)
            self.extra = nn.Linear(3, "x")

    plan = write_plan(tmp_path, arms={"plain": None}, contrasts=None)
    with pytest.raises(TypeError, match=r"empty\(\)"):
        weigh_remedy(Mistaken, plan, folder=tmp_path, progress=False)


def test_a_constructor_that_does_not_fit_is_an_error_that_says_so(tmp_path):
    class NeedsMore(Attention):
        def __init__(self, dim, num_heads, width):
            super().__init__(dim, num_heads)

    plan = write_plan(tmp_path, arms={"plain": None}, contrasts=None)
    with pytest.raises(ValueError, match=r"is called with \(channels, heads\), which does not fit: .*width"):
        weigh_remedy(NeedsMore, plan, folder=tmp_path, progress=False)
    plan = write_plan(tmp_path, "other", arms={"plain": {"model": {"attn_drop_rate": 0.1}}}, contrasts=None)
    with pytest.raises(ValueError, match=r"'Mean#\w+' does not take the options 'attn_drop'; its options are: none"):
        weigh_remedy(Mean, plan, folder=tmp_path, progress=False)


def test_no_verdict_where_both_arms_guess(tmp_path):
    plan = write_plan(
        tmp_path, arms={"plain": None}, contrasts=None, recipe={"epochs": 1, "batch_size": 20, "learning_rate": 0.0}
    )
    result = weigh_remedy(Mean, plan, folder=tmp_path, progress=False)
    assert result.verdict.startswith("no verdict: neither is better than guessing (10%)")


def test_no_verdict_where_all_seeds_differ_by_the_same():
    def runs(*losses):
        common = {"test_images": 500, "config": {"model": {"num_classes": 10}}}
        pairs = zip((0.40, 0.42), losses, strict=True)
        return {seed: common | {"test_accuracy": hits, "train_loss": loss} for seed, (hits, loss) in enumerate(pairs)}

    assert _obvious(runs(1.5, 1.5), runs(1.7, 1.8)).startswith("no verdict: all seeds differ by the same")


RACE = """
import sys
from tests.experiment.test_remedy import Mean, weigh_remedy
print(weigh_remedy(Mean, sys.argv[1], folder=sys.argv[2], progress=False).accuracy.count)
"""


@pytest.mark.slow
def test_two_processes_may_share_a_folder(tmp_path):
    plan = write_plan(tmp_path, arms={"plain": None}, contrasts=None)
    command = [sys.executable, "-c", RACE, str(plan), str(tmp_path / "records")]
    runs = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [run.communicate()[0].strip() for run in runs] == ["2", "2"]
    loaded = load_plan(plan)
    assert all(outcome(loaded, Job("plain", seed), tmp_path / "records") for seed in (0, 1))


def test_the_books_own_plan_fits_every_tier():
    for name in TIERS:
        plan = load_plan(ROOT / "book/experiments/remedy.yml", name)
        assert "plain" in plan.arms
        assert len(set(plan.seeds)) >= 3
