import pytest
import yaml

from contents import ROOT
from deepvit_edu.experiment import load_plan
from deepvit_edu.experiment.ledger import (
    VERDICTS,
    Claim,
    Entry,
    _verdict,
    answer_sentence,
    ledger,
    ledger_table,
    load_claims,
)
from deepvit_edu.experiment.verdict import Effect

from .plans import fill, write_plan

PLANS = ROOT / "book" / "experiments"


def judge(tmp_path, accuracy, template, *, diagnostics=None, seeds=(0, 1, 2), **options):
    arms = {"plain": None, "re": None, "other": None, "other-re": None}
    contrasts = [
        {"name": "main", "treatment": "re", "control": "plain"},
        {"name": "second", "treatment": "other-re", "control": "other"},
    ]
    path = write_plan(tmp_path, arms=arms, contrasts=contrasts, seeds=list(seeds))
    record = {**template, "diagnostics": diagnostics} if diagnostics else template
    fill(load_plan(path), tmp_path, record, lambda arm, seed: 0.4 + 0.1 * seed + accuracy.get(arm, 0.0) + 1e-4 * seed)
    claim = Claim("It helps.", "somebody", "paper", plan="tiny", contrast="main", **options)
    return ledger([claim], tmp_path, tmp_path)[0]


@pytest.mark.parametrize(
    ("accuracy", "options", "verdict"),
    [
        ({"re": 0.1}, {}, "reproduced"),
        ({"re": 0.1}, {"expects": "lower"}, "not at this scale"),
        ({"re": 0.0}, {}, "not at this scale"),
        ({"re": 0.0}, {"expects": "no difference that matters"}, "reproduced"),
        ({"re": 0.1}, {"expects": "no difference that matters"}, "not at this scale"),
        ({"re": 0.1, "other-re": 0.1}, {"conditions": ("second",)}, "reproduced"),
        ({"re": 0.1, "other-re": -0.1}, {"conditions": ("second",)}, "conditional"),
    ],
)
def test_verdicts_follow_the_records(tmp_path, template, accuracy, options, verdict):
    entry = judge(tmp_path, accuracy, template, **options)
    assert entry.verdict == verdict
    assert entry.command == "deepvit-edu run book/experiments/tiny.yml"


@pytest.mark.parametrize(("heads", "verdict"), [(0.2, "reproduced"), (0.9, "regime not reached")])
def test_no_verdict_outside_the_regime(tmp_path, template, heads, verdict):
    diagnostics = {"adjacent": [0.95, 0.95], "heads": [heads, heads]}
    entry = judge(tmp_path, {"re": 0.1}, template, diagnostics=diagnostics, regime_arm="plain")
    assert entry.verdict == verdict
    assert "+10.0" in entry.effect


def test_a_regime_that_nobody_measured_is_not_reached(tmp_path, template):
    assert judge(tmp_path, {"re": 0.1}, template, regime_arm="plain").verdict == "regime not reached"


def test_diagnostics_are_compared_over_the_deep_half(tmp_path, template):
    entry = judge(tmp_path, {}, template, diagnostics={"heads": [9.0, 0.5]}, measure="heads", expects="lower")
    assert entry.effect == "+0.000 [+0.000, +0.000]"


def test_nothing_run_is_not_tested_and_the_command_stands_there(tmp_path, template):
    assert judge(tmp_path, {}, template, seeds=(0,)).verdict == "not tested"
    assert ledger([Claim("a", "b", "paper")], tmp_path, tmp_path)[0].verdict == "not tested"


def test_the_books_claims_name_contrasts_that_their_plans_have():
    claims = load_claims(PLANS / "claims.yml")
    assert len(claims) >= 12
    for claim in claims:
        if claim.plan is None:
            continue
        plan = load_plan(PLANS / f"{claim.plan}.yml")
        names = {contrast.name for contrast in plan.contrasts}
        assert {claim.contrast, *claim.conditions} <= names, claim.claim
        assert claim.regime_arm is None or claim.regime_arm in plan.arms
        assert claim.expects in ("higher", "lower", "no difference that matters")
    table = ledger_table(ledger(claims, PLANS, ROOT / "book" / "records"))
    assert len(table.splitlines()) == len(claims) + 2
    assert all(any(f"**{verdict}**" in line for verdict in VERDICTS) for line in table.splitlines()[2:])


def test_no_difference_is_refuted_beyond_the_margin_only():
    claim = Claim("a", "b", "c", expects="no difference that matters")
    verdicts = [_verdict(claim, Effect(0.02, low, 0.04, 3), [], 0.005, True) for low in (0.001, 0.006)]
    assert verdicts == ["inconclusive", "not at this scale"]


def test_a_claim_that_is_not_well_formed(tmp_path):
    (tmp_path / "claims.yml").write_text(yaml.safe_dump([{"claim": "a"}]))
    with pytest.raises(ValueError, match=r"claims\.yml has a claim that is not well formed"):
        load_claims(tmp_path / "claims.yml")


def test_the_answer_names_the_questions_and_their_verdicts():
    entries = [
        Entry(Claim("a", "b", "c", question="that it helps is"), "+1.0 points", "reproduced", "run", "cpu-study"),
        Entry(Claim("a", "b", "c"), "–", "not tested", "run", "–"),
        Entry(Claim("a", "b", "c", question="that it lasts is"), "–", "not tested", "run", "–"),
    ]
    assert answer_sentence(entries) == (
        "As far as the records go: that it helps is **reproduced** (+1.0 points; cpu-study); "
        "that it lasts is **not tested**."
    )
