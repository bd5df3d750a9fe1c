"""The ledger of claims: what the papers say, how it was tested here, and what the records answer."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from ..words import markdown_table
from .plan import load_plan
from .verdict import Effect, contrast_effect, format_effect, regime, regime_reached, results_of

VERDICTS = (
    "reproduced",
    "conditional",
    "not at this scale",
    "inconclusive",
    "regime not reached",
    "not tested",
)


@dataclass(frozen=True)
class Claim:
    """One claim, its source, and the contrast of a plan that tests it.

    Args:
        claim: what is said, in our words.
        source: who says it: authors, year and place.
        grade: how well we know that it is said: "paper", "code", "authors' page", "authors' word", "account of others".
        plan: the plan that tests it; None where there is none.
        contrast: the name of the contrast in it.
        measure: what is compared: see `verdict.measured`.
        expects: "higher" or "lower": what the claim predicts for the contrast.
        conditions: further contrasts that have to agree; where they do not, the claim holds under conditions.
        regime_arm: the arm that must show collapse before the claim can be judged; None where none is needed.
        question: the question at the head of the ledger that this claim answers, if it does.
    """

    claim: str
    source: str
    grade: str
    plan: str | None = None
    contrast: str | None = None
    measure: str = "test_accuracy"
    expects: str = "higher"
    conditions: tuple[str, ...] = ()
    regime_arm: str | None = None
    question: str | None = None


@dataclass(frozen=True)
class Entry:
    """A claim with its answer: the effect in words, the verdict, and the command that makes the runs."""

    claim: Claim
    effect: str
    verdict: str
    command: str
    scale: str


LIKENESS = {
    "adjacent": "likeness of neighbours' maps",
    "adjacent_centred": "the same, rows centred",
    "used_adjacent": "likeness of neighbours' maps in use",
    "used_adjacent_centred": "the same, rows centred",
}
"""What an effect without a unit is an effect on."""


def load_claims(path: Path) -> list[Claim]:
    """Reads the claims from their YAML file; ValueError where one is not well formed."""
    declared = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        return [Claim(**{**options, "conditions": tuple(options.get("conditions", ()))}) for options in declared]
    except TypeError as error:
        raise ValueError(f"{path} has a claim that is not well formed: {error}") from error


def ledger(claims: list[Claim], plans: Path, records: Path) -> list[Entry]:
    """Judges every claim by the records that there are.

    Args:
        claims: as `load_claims` gives them.
        plans: the folder of the plans.
        records: the folder of the records.
    """
    return [_judge(claim, plans, records) for claim in claims]


def _judge(claim: Claim, plans: Path, records: Path) -> Entry:
    if claim.plan is None:
        return Entry(claim, "–", "not tested", "–", "–")
    path = plans / f"{claim.plan}.yml"
    declared = yaml.safe_load(path.read_text(encoding="utf-8"))
    command = f"deepvit-edu run book/experiments/{path.name}"
    for section in ("full", *declared.get("sections", {})):
        plan = load_plan(path, section)
        contrasts = {contrast.name: contrast for contrast in plan.contrasts}
        if claim.contrast not in contrasts:
            continue
        found = results_of(plan, records)
        effect = contrast_effect(plan, contrasts[claim.contrast], found, claim.measure)
        if effect.count < 2:
            continue
        others = [
            contrast_effect(plan, contrasts[name], found, claim.measure)
            for name in claim.conditions
            if name in contrasts
        ]
        seen = regime(plan, claim.regime_arm, records) if claim.regime_arm else None
        in_regime = claim.regime_arm is None or (seen is not None and regime_reached(seen))
        verdict = _verdict(claim, effect, others, plan.margin, in_regime)
        told = format_effect(effect, claim.measure, bool(contrasts[claim.contrast].levels))
        return Entry(claim, told, verdict, command + ("" if section == "full" else f" --section {section}"), section)
    return Entry(claim, "–", "not tested", command, "–")


def _verdict(claim: Claim, effect: Effect, others: list[Effect], margin: float, in_regime: bool) -> str:
    margin = margin if claim.measure == "test_accuracy" else 0.0
    said = effect.verdict(margin)
    if not in_regime:
        return "regime not reached"
    if said == "inconclusive":
        return "inconclusive"
    if said != claim.expects:
        beyond = effect.low > margin or effect.high < -margin
        if claim.expects.startswith("no difference") and not beyond:
            return "inconclusive"  # off zero, and yet perhaps within the margin
        return "not at this scale"
    agree = all(other.verdict(margin) == claim.expects for other in others if other.count > 1)
    return "reproduced" if agree else "conditional"


def ledger_table(entries: list[Entry]) -> str:
    """The ledger as a Markdown table."""
    rows = [("claim", "verdict", "effect here, 95 % interval", "source (how we know it)", "plan, section")]
    for entry in entries:
        claim = entry.claim
        runs = "–" if claim.plan is None else f"{claim.plan}" + (f", {entry.scale}" if entry.scale != "–" else "")
        source = f"{claim.source} ({claim.grade})"
        of = f" ({LIKENESS[claim.measure]})" if claim.measure in LIKENESS and entry.effect != "–" else ""
        rows.append((claim.claim, f"**{entry.verdict}**", f"{entry.effect}{of}", source, runs))
    return markdown_table(rows)


def answer_sentence(entries: list[Entry]) -> str:
    """One sentence that answers the questions at the head of the ledger, as far as the records go."""
    answers = [
        f"{entry.claim.question} **{entry.verdict}**"
        + (f" ({entry.effect}; {entry.scale})" if entry.effect != "–" else "")
        for entry in entries
        if entry.claim.question
    ]
    return "As far as the records go: " + "; ".join(answers) + "."
