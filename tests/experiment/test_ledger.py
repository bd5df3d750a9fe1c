import math
import re
from dataclasses import replace

import numpy as np
import pytest
import yaml
from scipy import stats

from deepvit_edu.experiment import load_plan
from deepvit_edu.experiment.ledger import (
    FIRST_EPOCH,
    VERDICTS,
    Claim,
    Entry,
    _agreement,
    added_later,
    answer,
    answers_table,
    book_ledger,
    findings,
    ledger,
    ledger_table,
    load_claims,
    tally,
    would_change,
)
from deepvit_edu.experiment.published import Published, load_published, published_text
from deepvit_edu.experiment.verdict import Effect
from deepvit_edu.words import minus
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


def judge(
    tmp_path,
    accuracy,
    template,
    *,
    diagnostics=None,
    seeds=(0, 1, 2),
    sections=None,
    scope=None,
    margin=None,
    **options,
):
    arms = {"plain": None, "re": None, "other": None, "other-re": None}
    contrasts = [
        {"name": "main", "treatment": "re", "control": "plain"},
        {"name": "second", "treatment": "other-re", "control": "other"},
    ]
    path = write_plan(
        tmp_path,
        arms=arms,
        contrasts=contrasts,
        seeds=list(seeds),
        sections=sections or {},
        scope=scope,
        margin=margin,
    )
    record = {**template, "diagnostics": diagnostics} if diagnostics else template
    if isinstance(accuracy, dict):
        gains = accuracy
        accuracy = lambda arm, seed: 0.4 + 0.1 * seed + gains.get(arm, 0.0) + 1e-4 * seed  # noqa: E731
    fill(load_plan(path), tmp_path, record, accuracy)
    claim = Claim("It helps.", "somebody", "paper", plan="tiny", contrast="main", **options)
    return ledger([claim], tmp_path, tmp_path)[0]


def without_anchors(markdown):
    return re.sub(r'<a id="[\w-]+"></a>', "", markdown)


def told(entry, **options):
    """What `findings` says of one entry."""
    return without_anchors(findings([entry], **options)).removeprefix("- ")


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
    assert "; second: −10.00 points [" in entry.effects
    assert f"| {entry.effects} |" in ledger_table([entry])
    assert told(entry) == f"**Conditional.** *Claim:* It helps. *Found:* {entry.effects} (study TINY)"


def test_a_verdict_says_what_it_holds_for(tmp_path, template):
    entry = judge(tmp_path, {"re": 0.1}, template, scope="after two epochs")
    assert "| **reproduced** after two epochs |" in ledger_table([entry])
    assert told(entry).startswith("**Reproduced** after two epochs. *Claim:* It helps. *Found:* main: +10.00 points")


def test_what_was_seen_at_the_first_epoch_is_folded_where_newer_studies_ask(tmp_path, template):
    seen = judge(tmp_path, {"re": 0.1}, template, subject=FIRST_EPOCH)
    (new,) = ledger([Claim("It will.", "somebody", "paper")], PLANS, PLANS)
    both = without_anchors(findings([seen, new]))
    assert both.startswith("- **Not tested.** *Claim:* It will.\n\n<details>")
    assert "one claim</summary>\n\n- **Reproduced.** *Claim:* It helps." in both
    assert told(seen).startswith("**Reproduced.** *Claim:* It helps.")


def test_what_no_study_of_any_age_has_seen_is_not_among_what_was_seen():
    new, old = Claim("It will.", "somebody", "paper"), Claim("It did.", "somebody", "paper", subject=FIRST_EPOCH)
    both = findings(ledger([old, new], PLANS, PLANS))
    assert "Without a verdict yet:** 2 claims" in both
    assert "Seen in" not in both


def test_what_nobody_has_run_is_found_not_tested():
    (entry,) = ledger([Claim("It helps.", "somebody", "paper")], PLANS, PLANS)
    assert told(entry) == "**Not tested.** *Claim:* It helps."


def test_several_claims_that_wait_for_runs_stand_under_a_fold_below_what_is_decided(tmp_path, template):
    decided = judge(tmp_path, {"re": 0.1}, template)
    waiting = ledger([Claim("It helps.", "somebody", "paper"), Claim("It hurts.", "somebody", "paper")], PLANS, PLANS)
    seen, folded = without_anchors(findings([*waiting, decided])).split("<details>")
    first, count = seen.strip().splitlines()
    assert first.startswith("- **Reproduced")
    assert count == "- **Without a verdict yet:** 2 claims, whose runs are missing in whole or in part."
    assert folded.index("It helps.") < folded.index("It hurts.")
    assert "<details>" not in findings([waiting[0], decided])


def test_where_runs_are_missing_the_nearest_evidence_is_named(tmp_path, template):
    nearest = {"tiny": "[elsewhere](#there)"}
    waiting = judge(tmp_path, lambda arm, seed: None, template)
    assert told(waiting, nearest=nearest).endswith("It helps. *The nearest evidence by now:* [elsewhere](#there).")
    assert "elsewhere" not in told(judge(tmp_path, {"re": 0.1}, template), nearest=nearest)


def test_runs_without_their_pairs_show_no_effect(tmp_path, template):
    alone = judge(tmp_path, lambda arm, seed: 0.5 if arm == "re" and not seed else None, template)
    assert "1 of 6 runs recorded" in told(alone)
    assert told(alone).endswith("It helps. (No pair of runs is complete, so no effect can be shown yet.) (study TINY)")


def test_every_claim_of_the_book_has_an_anchor_of_its_own():
    entries = book_ledger()
    anchors = [entry.anchor for entry in entries]
    assert len(set(anchors)) == len(entries)
    assert all(f'<a id="{anchor}"></a>' in findings(entries) for anchor in anchors)


def test_maps_of_old_records_are_not_measured(tmp_path, template):
    old = {"adjacent": [0.95, 0.95], "heads": [0.9, 0.9]}
    entry = judge(tmp_path, {"re": 0.1}, template, diagnostics=old, maps_of="plain")
    assert entry.verdict == "reproduced"
    assert (
        "(plain: whether its blocks repeat, heads matched, and its deep maps are used was not measured"
        in ledger_table([entry])
    )
    assert judge(tmp_path, {"re": 0.1}, template).maps is None


def test_diagnostics_are_compared_over_the_deep_half(tmp_path, template):
    entry = judge(tmp_path, {}, template, diagnostics={"adjacent": [9.0, 0.5]}, measure="adjacent", expects="lower")
    assert entry.effect == "+0.000 [+0.000, +0.000]"


def test_nothing_run_is_not_tested_and_the_command_stands_there(tmp_path, template):
    entry = judge(tmp_path, lambda arm, seed: None, template)
    assert (entry.verdict, entry.runs, entry.p_value) == ("not tested", "0 of 6", None)
    assert told(entry) == "**Not tested: 0 of 6 runs recorded.** *Claim:* It helps."
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
    published = load_published(PLANS / "published.yml")
    table = ledger_table(ledger(claims, PLANS, ROOT / "book" / "records"), published)
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
    assert (alone.verdict, alone.scale, alone.runs) == ("not decided yet", "full", "4 of 6")
    assert (alone.effect, alone.result) == ("–", None)
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


def test_claims_are_counted_by_verdict():
    entries = [Entry(Claim("a", "b", "c"), "–", verdict, "–", "–") for verdict in ("not tested", "reproduced")]
    assert tally(entries) == "2 claims: 1 reproduced, 1 not tested"
    assert tally(entries[:1]) == "1 claim: 1 not tested"


def test_what_was_declared_after_the_runs_is_told():
    entries = [Entry(Claim("It helps.", "b", "c", added=told), "–", "not tested", "–", "–") for told in (None, "all")]
    assert added_later(entries) == "- It helps. *all*"


def test_a_claim_that_is_not_well_formed(tmp_path):
    (tmp_path / "claims.yml").write_text(yaml.safe_dump({"a subject": [{"claim": "a"}]}))
    with pytest.raises(ValueError, match=r"claims\.yml has a claim that is not well formed"):
        load_claims(tmp_path / "claims.yml")


SPREAD = (-0.001, 0.0, 0.001, 0.0005, -0.0005)
"""How far the paired differences of five seeds lie from their mean: Student's interval reaches 0.001 to either side."""


def five_seeds(tmp_path, template, gain, spread=1.0, **options):
    def accuracy(arm, seed):
        return 0.4 + 0.05 * seed + (arm == "re") * (gain + spread * SPREAD[seed])

    claim = {"question": "does it help?", **options}
    return judge(tmp_path, accuracy, template, seeds=range(5), margin=0.01, scope="after two epochs", **claim)


@pytest.mark.parametrize(
    ("gain", "spread", "options", "verdict", "in_words"),
    [
        (0.05, 1, {}, "reproduced", "Yes"),
        (-0.05, 1, {}, "not at this scale", "No, the opposite"),
        (0.004, 1, {}, "not at this scale", "No, it makes no difference that matters"),
        (0.004, 1, {"expects": "no difference that matters"}, "reproduced", "Yes"),
        (0.0, 20, {}, "inconclusive", "The runs cannot say"),
        (0.05, 1, {"conditions": {"second": "higher"}}, "conditional", "Yes, but not under all conditions tested"),
    ],
)
def test_every_answer_can_be_reached(tmp_path, template, gain, spread, options, verdict, in_words):
    entry = five_seeds(tmp_path, template, gain, spread, **options)
    assert (entry.verdict, answer(entry)) == (verdict, in_words)
    table = answers_table([entry])
    assert (
        f"| **Does it help?**<br>{in_words}, after two epochs.<br>Main: {minus(f'{100 * gain:+.2f}')} points [" in table
    )
    assert table.endswith(f"| {verdict} |")


def test_no_difference_takes_runs_that_could_have_shown_one(tmp_path, template):
    # The mean lies within the margin in both; only the short interval does.
    assert five_seeds(tmp_path, template, 0.004, spread=10).verdict == "inconclusive"
    assert answer(five_seeds(tmp_path, template, 0.004, spread=1)).startswith("No, it makes no difference")


def test_what_would_change_an_answer(tmp_path, template):
    open_one = five_seeds(tmp_path, template, 0.0, spread=20)
    assert would_change(open_one) == "more seeds; 13 instead of 5 bring the interval down to 1 point on either side"
    far = would_change(five_seeds(tmp_path, template, 0.008, spread=20))
    assert re.match(
        r"more seeds; differing as these do, \d+ would tell the mean from zero, and 13 instead of 5 bring", far
    )
    assert would_change(five_seeds(tmp_path, template, 0.05, would_change="more blocks")) == "more blocks"


def test_runs_that_are_missing_are_counted_and_decide_nothing(tmp_path, template):
    def three_seeds(arm, seed):
        return None if seed > 2 or arm.startswith("other") else 0.4 + 0.1 * (arm == "re") + 1e-4 * seed

    entry = judge(tmp_path, three_seeds, template, seeds=range(5), question="does it help?")
    assert (entry.verdict, entry.runs, answer(entry)) == (
        "not decided yet",
        "6 of 10",
        "Not decided yet: 6 of 10 runs recorded",
    )
    assert would_change(entry) == "the 4 runs that are missing"
    assert would_change(replace(entry, recorded=entry.needed - 1)) == "the run that is missing"
    assert "Main: +10.00 points [" in answers_table([entry])


def p_of(mean: float, deviation: float, pairs: int) -> float:
    """Student's p of a mean of so many differences, both sides."""
    return 2 * stats.t.sf(abs(mean) * math.sqrt(pairs) / deviation, pairs - 1)


@pytest.mark.parametrize(
    ("gain", "spread", "expects", "says"),
    [
        (0.0225, 8.5, "no difference that matters", "lies beyond the margin"),
        (0.0, 6.8, "no difference that matters", "lies within the margin"),
        (0.0, 6.8, "higher", "lies within the margin"),
        (-0.0125, 8.5, "higher", "leaves zero out"),
    ],
)
def test_what_an_interval_says_alone_is_what_its_p_is_about(tmp_path, template, gain, spread, expects, says):
    entry = five_seeds(tmp_path, template, gain, spread, expects=expects)
    assert entry.verdict in ("reproduced", "not at this scale")
    together, *_ = ledger([entry.claim, *(Claim(f"claim {n}", "b", "c") for n in range(9))], tmp_path, tmp_path)
    assert f"Its interval alone {says}" in findings([together])


def test_claims_that_are_read_together_share_a_correction(tmp_path, template):
    barely = five_seeds(tmp_path, template, 0.0125, spread=8.5)
    assert barely.verdict == "reproduced"
    assert 0.01 < barely.p_value < 0.05
    waiting = [Claim(f"claim {n}", "b", "c", subject="other") for n in range(9)]
    alone, *_ = ledger([barely.claim, *waiting], tmp_path, tmp_path)
    assert (alone.verdict, alone.p_value) == ("reproduced", barely.p_value)
    waiting = [Claim(f"claim {n}", "b", "c") for n in range(9)]
    together, *_ = ledger([barely.claim, *waiting], tmp_path, tmp_path)
    assert (together.verdict, together.p_value) == ("inconclusive", pytest.approx(10 * barely.p_value))
    assert "Its interval alone leaves zero out" in findings([together])
    assert "Its interval alone" not in findings([alone])
    p_value = f"(p {together.p_value:.3f})"
    assert answer(together).startswith("By its own interval higher; corrected for the 10 claims that are read together")
    assert answer(together).endswith(f"{p_value}, the runs cannot say")
    assert p_value in findings([together])
    assert would_change(together).startswith(
        "more seeds; its own interval decides, but not after the correction; with "
    )
    (pairs,) = re.findall(r"with (\d+) instead of 5, differing as these do, it would$", would_change(together))
    deviation = np.std(together.differences, ddof=1)
    needed = [n for n in range(2, 100) if 10 * p_of(together.result.mean, deviation, n) <= 0.05]
    assert int(pairs) == needed[0]


THEIRS = {
    "title": "Depth",
    "source": "somebody",
    "known": "their page",
    "short": "1 % a block",
    "columns": ["blocks", "%"],
    "rows": [["2", "50"]],
    "says": "It helps.",
}


def test_what_others_published_stands_beside_the_claim():
    entry = Entry(Claim("It helps.", "b", "c", published="depth"), "–", "not tested", "–", "–")
    head, _, row = ledger_table([entry], {"depth": Published(**THEIRS)}).splitlines()
    place = [cell.strip() for cell in head.split("|")].index("published, by others")
    assert row.split("|")[place].strip() == "1 % a block"
    assert "published" not in ledger_table([entry])
    told = published_text({"depth": Published(**THEIRS)})
    assert told.startswith("**Depth**, somebody")
    assert "| 2 | 50 |" in told
    assert told.endswith("It helps. *How we know it:* their page.")


def test_a_published_table_that_is_not_well_formed_is_refused(tmp_path):
    (tmp_path / "published.yml").write_text(yaml.safe_dump({"depth": {**THEIRS, "rows": [["2", "50", "51"]]}}))
    with pytest.raises(ValueError, match=r"not well formed: 'Depth' has 2 columns and a row of 3"):
        load_published(tmp_path / "published.yml")


def test_the_books_published_tables_say_where_they_were_read():
    for table in load_published(PLANS / "published.yml").values():
        assert "read" in table.known


def test_an_interval_that_reaches_into_the_margin_is_not_blamed_on_the_correction(tmp_path, template):
    # Above zero, but not wholly beyond the margin: that refutes no claim of no difference.
    entry = five_seeds(tmp_path, template, 0.0125, spread=8.5, expects="no difference that matters")
    assert entry.verdict == "inconclusive"
    assert "Its interval alone" not in findings([entry])
    assert would_change(entry).startswith("more seeds; ")


def test_two_of_five_seeds_have_no_interval(tmp_path, template):
    def recorded(count, **options):
        folder = tmp_path / f"{count}{len(options)}"
        folder.mkdir()
        accuracy = lambda arm, seed: 0.4 + 0.01 * seed + 0.1 * (arm == "re") if seed < count else None  # noqa: E731
        return judge(folder, accuracy, template, seeds=range(5), **options)

    two, three = recorded(2), recorded(3)
    assert (two.verdict, two.result) == ("not decided yet", None)
    assert two.effects == "main, so far: +10.00 points in 2 pairs, which decide nothing"
    assert f"({two.effects}) (study TINY)" in findings([two])
    assert recorded(1).effects.endswith("+10.00 points in 1 pair, which decides nothing")
    maps = recorded(2, measure="repetition_excess", diagnostics=MAPS)
    assert maps.effects.startswith("main (repetition of the block before, heads matched, above new weights), so far:")
    assert three.verdict == "not decided yet"
    assert three.effects.endswith("3 of 5 seeds; the verdict waits for all")
