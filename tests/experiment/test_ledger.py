import pytest
import yaml

from deepvit_edu.experiment import load_plan
from deepvit_edu.experiment.ledger import (
    VERDICTS,
    Claim,
    Entry,
    _agreement,
    added_later,
    answer_sentence,
    findings,
    ledger,
    ledger_table,
    load_claims,
)
from deepvit_edu.experiment.verdict import Effect
from tools.contents import ROOT

from .plans import fill, write_plan

PLANS = ROOT / "book" / "experiments"
MAPS = {
    "query_independence": [9.0, 0.75],  # the shallow half does not count
    "query_independence_excess": [9.0, 0.25],
    "distance_from_uniform": [9.0, 0.1],
    "repetition_excess": [0.125],
    "repetition_stripes_excess": [None],  # perfect stripes have nothing else
    "map_matters": False,
}


def judge(tmp_path, accuracy, template, *, diagnostics=None, seeds=(0, 1, 2), sections=None, scope=None, **options):
    arms = {"plain": None, "re": None, "other": None, "other-re": None}
    contrasts = [
        {"name": "main", "treatment": "re", "control": "plain"},
        {"name": "second", "treatment": "other-re", "control": "other"},
    ]
    path = write_plan(tmp_path, arms=arms, contrasts=contrasts, seeds=list(seeds), sections=sections or {}, scope=scope)
    record = {**template, "diagnostics": diagnostics} if diagnostics else template
    if isinstance(accuracy, dict):
        gains = accuracy
        accuracy = lambda arm, seed: 0.4 + 0.1 * seed + gains.get(arm, 0.0) + 1e-4 * seed  # noqa: E731
    fill(load_plan(path), tmp_path, record, accuracy)
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
        ({"re": 0.1, "other-re": 0.1}, {"conditions": {"second": "higher"}}, "reproduced"),
        ({"re": 0.1, "other-re": -0.1}, {"conditions": {"second": "higher"}}, "conditional"),
        ({"re": 0.1, "other-re": -0.1}, {"conditions": {"second": "lower"}}, "reproduced"),
    ],
)
def test_verdicts_follow_the_records(tmp_path, template, accuracy, options, verdict):
    entry = judge(tmp_path, accuracy, template, **options)
    assert entry.verdict == verdict
    assert entry.command == "deepvit-edu run book/experiments/tiny.yml"


def test_what_was_measured_of_the_maps_stands_beside_the_verdict_and_decides_nothing(tmp_path, template):
    entry = judge(tmp_path, {"re": 0.1}, template, diagnostics=MAPS, maps_of="plain")
    assert entry.verdict == "reproduced"
    assert entry.maps.endswith("the maps matter in 0 of 3 runs, and do not in 3")
    assert f"**reproduced** (plain: {entry.maps})" in ledger_table([entry])


def test_effects_name_their_contrasts_and_those_of_the_conditions(tmp_path, template):
    entry = judge(tmp_path, {"re": 0.1, "other-re": -0.1}, template, conditions={"second": "higher"})
    assert entry.effects.startswith("main: +10.00 points [")
    assert "; second: -10.00 points [" in entry.effects
    assert f"| {entry.effects} |" in ledger_table([entry])
    assert findings([entry]) == f"- It helps. **Conditional.** {entry.effects} (tiny, section full)"


def test_a_verdict_says_what_it_holds_for(tmp_path, template):
    entry = judge(tmp_path, {"re": 0.1}, template, scope="after two epochs")
    assert "| **reproduced** after two epochs |" in ledger_table([entry])
    assert findings([entry]).startswith("- It helps. **Reproduced** after two epochs. main: +10.00 points")


def test_what_nobody_has_run_is_found_not_tested():
    (entry,) = ledger([Claim("It helps.", "somebody", "paper")], PLANS, PLANS)
    assert findings([entry]) == "- It helps. **Not tested.**"


def test_maps_of_old_records_are_not_measured(tmp_path, template):
    old = {"adjacent": [0.95, 0.95], "heads": [0.9, 0.9]}
    entry = judge(tmp_path, {"re": 0.1}, template, diagnostics=old, maps_of="plain")
    assert entry.verdict == "reproduced"
    assert "(plain: maps not measured" in ledger_table([entry])
    assert judge(tmp_path, {"re": 0.1}, template).maps is None


def test_diagnostics_are_compared_over_the_deep_half(tmp_path, template):
    entry = judge(tmp_path, {}, template, diagnostics={"adjacent": [9.0, 0.5]}, measure="adjacent", expects="lower")
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
        assert claim.maps_of is None or claim.maps_of in plan.arms
        assert claim.expects in ("higher", "lower", "no difference that matters")
    table = ledger_table(ledger(claims, PLANS, ROOT / "book" / "records"))
    assert len(table.splitlines()) == len(claims) + 2
    assert all(any(f"**{verdict}**" in line for verdict in VERDICTS) for line in table.splitlines()[2:])


def test_no_difference_is_refuted_beyond_the_margin_only():
    verdicts = [_agreement(Effect(0.02, low, 0.04, 3), "no difference that matters", 0.005) for low in (0.001, 0.006)]
    assert verdicts == ["inconclusive", "not at this scale"]


@pytest.mark.parametrize("seeds_of_other", [(), (0,)])
def test_a_condition_that_was_not_run_leaves_the_claim_conditional(tmp_path, template, seeds_of_other):
    def runs(arm, seed):
        return (
            None if arm.startswith("other") and seed not in seeds_of_other else 0.4 + 0.1 * (arm == "re") + 1e-4 * seed
        )

    entry = judge(tmp_path, runs, template, conditions={"second": "higher"})
    assert entry.verdict == "conditional"


def test_a_section_that_was_cut_short_does_not_overrule_a_whole_one(tmp_path, template):
    sections = {"small": {"seeds": [0, 1]}}

    def runs(arm, seed):
        return None if seed == 2 else 0.4 + 0.1 * (arm == "re") + 1e-4 * seed

    alone = judge(tmp_path, runs, template, sections=sections)
    assert (alone.verdict, alone.scale) == ("inconclusive", "full")
    assert alone.effect.endswith(", 2 of 3 seeds")
    small = load_plan(tmp_path / "tiny.yml", "small")
    fill(small, tmp_path, template, lambda arm, seed: 0.4 - 0.1 * (arm == "re") + 1e-4 * seed)
    (both,) = ledger([alone.claim], tmp_path, tmp_path)
    assert (both.verdict, both.scale) == ("not at this scale", "small")


def test_a_contrast_that_no_section_has_is_an_error(tmp_path, template):
    with pytest.raises(ValueError, match="names the contrast 'secnd'; did you mean 'second'"):
        judge(tmp_path, {}, template, conditions={"secnd": "higher"})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"expects": "hihger"}, "expects 'hihger'; did you mean 'higher'"),
        ({"conditions": {"second": True}}, "expects 'True'"),
        ({"measure": "test_acuracy"}, "measures 'test_acuracy'; did you mean 'test_accuracy'"),
    ],
)
def test_a_claim_that_could_not_be_judged_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        Claim("a", "b", "c", **options)


def test_what_was_declared_after_the_runs_is_told():
    entries = [Entry(Claim("It helps.", "b", "c", added=told), "–", "not tested", "–", "–") for told in (None, "all")]
    assert added_later(entries) == "- It helps. *all*"


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
