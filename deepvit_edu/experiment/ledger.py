"""The ledger of claims: what the papers say, how it was tested here, and what the records answer."""

from dataclasses import dataclass, field
from pathlib import Path

from ..words import markdown_table, nearest
from ..yaml_files import read_yaml
from .plan import Contrast, Plan
from .reading import sections_of
from .verdict import MEASURES, Effect, contrast_effect, describe_maps, format_effect, measured_maps, results_of

VERDICTS = (
    "reproduced",
    "conditional",
    "not at this scale",
    "inconclusive",
    "not tested",
)


EXPECTATIONS = ("higher", "lower", "no difference that matters")
LIKENESS = {
    "adjacent": "likeness of neighbours' maps",
    "adjacent_centred": "the same, rows centred",
    "used_adjacent": "likeness of neighbours' maps in use",
    "used_adjacent_centred": "the same, rows centred",
    "repetition_excess": "repetition of the block before, heads matched, above new weights",
    "query_independence_excess": "share of the map that all queries have in common, above new weights",
}
"""What an effect without a unit is an effect on."""


@dataclass(frozen=True)
class Claim:
    """One claim, its source, and the contrast of a plan that tests it.

    Args:
        claim: what is said, in our words.
        source: who says it: authors, year and place.
        grade: how well we know that it is said: "paper", "code", "authors' page", "authors' word", "account of others".
        plan: the plan that tests it; None if no plan does.
        contrast: the name of the contrast in it.
        measure: what is compared: see `verdict.recorded_value`.
        expects: what the claim predicts for the contrast: one of EXPECTATIONS.
        conditions: further contrasts, and what is expected of each; where one does not agree, or has not been run, the
            claim holds under conditions.
        maps_of: the arm whose maps the claim is about; their measures are shown beside the verdict and decide nothing.
            None if it is about no maps.
        question: the question at the head of the ledger that this claim answers, if it does.
        added: what of it was declared only after the runs, in words; None where nothing was.

    Raises:
        ValueError: for an unknown expectation or measure.
    """

    claim: str
    source: str
    grade: str
    plan: str | None = None
    contrast: str | None = None
    measure: str = "test_accuracy"
    expects: str = "higher"
    conditions: dict[str, str] = field(default_factory=dict)
    maps_of: str | None = None
    question: str | None = None
    added: str | None = None

    def __post_init__(self) -> None:
        for expected in (self.expects, *self.conditions.values()):
            if expected not in EXPECTATIONS:
                raise ValueError(f"'{self.claim}' expects '{expected}'{nearest(str(expected), list(EXPECTATIONS))}")
        if self.measure not in (*MEASURES, *LIKENESS):
            raise ValueError(f"'{self.claim}' measures '{self.measure}'{nearest(self.measure, [*MEASURES, *LIKENESS])}")


@dataclass(frozen=True)
class Entry:
    """A claim with its answer: the effect in words, the verdict, and the command that makes the runs.

    `conditions` are the effects of the further contrasts, by name; `scope` is what the verdict holds for. `maps`
    says what was measured of the maps that the claim is about; None where it is about none.
    """

    claim: Claim
    effect: str
    verdict: str
    command: str
    scale: str
    scope: str = ""
    maps: str | None = None
    conditions: dict[str, str] = field(default_factory=dict)

    @property
    def effects(self) -> str:
        """What was found, in words: the contrast with its effect, and the further contrasts with theirs."""
        if self.effect == "–":
            return "–"
        of = f" ({LIKENESS[self.claim.measure]})" if self.claim.measure in LIKENESS else ""
        further = [f"{name}: {effect}" for name, effect in self.conditions.items()]
        return "; ".join([f"{self.claim.contrast}{of}: {self.effect}", *further])


def load_claims(path: Path) -> list[Claim]:
    """Reads the claims from their YAML file; ValueError where one is not well formed."""
    declared = read_yaml(path)
    try:
        return [Claim(**options) for options in declared]
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} has a claim that is not well formed: {error}") from error


def ledger(claims: list[Claim], plans: Path, records: Path) -> list[Entry]:
    """Judges every claim by the existing records.

    Args:
        claims: as `load_claims` gives them.
        plans: the folder of the plans.
        records: the folder of the records.
    """
    sections: dict[str, list[tuple[Plan, dict]]] = {}  # each plan's records are read once
    for name in {claim.plan for claim in claims} - {None}:
        sections[name] = [(plan, results_of(plan, records)) for plan in sections_of(plans / f"{name}.yml")]
    return [_judge(claim, sections.get(claim.plan, [])) for claim in claims]


@dataclass(frozen=True)
class _Test:
    """A section of a plan that has a claim's contrast, and what its records say."""

    plan: Plan
    contrasts: dict[str, Contrast]
    found: dict
    effect: Effect

    @property
    def is_whole(self) -> bool:
        return self.effect.count == len(self.plan.seeds)

    def effect_of(self, contrast: str, measure: str) -> Effect | None:
        """The effect of another contrast; None where the section does not have it."""
        asked = self.contrasts.get(contrast)
        return None if asked is None else contrast_effect(self.plan, asked, self.found, measure)

    def effect_text(self, contrast: str, measure: str) -> str:
        """The effect of another contrast in words."""
        effect = self.effect_of(contrast, measure)
        return "not tested" if effect is None else format_effect(effect, measure, bool(self.contrasts[contrast].levels))


def _judge(claim: Claim, sections: list[tuple[Plan, dict]]) -> Entry:
    if claim.plan is None:
        return Entry(claim, "–", "not tested", "–", "–")
    command = f"deepvit-edu run book/experiments/{claim.plan}.yml"
    tests = _tests(claim, sections)
    # A section that was cut short does not overrule a whole one, and decides nothing.
    test = next((test for test in tests if test.is_whole), max(tests, key=lambda test: test.effect.count))
    if test.effect.count < 2:
        return Entry(claim, "–", "not tested", command, "–")
    text = format_effect(test.effect, claim.measure, bool(test.contrasts[claim.contrast].levels))
    seeds = "" if test.is_whole else f", {test.effect.count} of {len(test.plan.seeds)} seeds"
    section = "" if test.plan.section == "full" else f" --section {test.plan.section}"
    verdict = _verdict(claim, test) if test.is_whole else "inconclusive"
    maps = describe_maps(measured_maps(test.found[claim.maps_of].values())) if claim.maps_of else None
    others = {name: test.effect_text(name, claim.measure) for name in claim.conditions}
    return Entry(claim, text + seeds, verdict, command + section, test.plan.section, test.plan.scope, maps, others)


def _tests(claim: Claim, sections: list[tuple[Plan, dict]]) -> list[_Test]:
    """Every section of the plan that tests the claim; ValueError where no section has a contrast that it names."""
    known = {contrast.name for plan, _ in sections for contrast in plan.contrasts}
    for name in (claim.contrast, *claim.conditions):
        if name not in known:
            raise ValueError(f"'{claim.claim}' names the contrast '{name}'{nearest(str(name), sorted(known))}")
    tests = []
    for plan, found in sections:
        contrasts = {contrast.name: contrast for contrast in plan.contrasts}
        if claim.contrast in contrasts:
            effect = contrast_effect(plan, contrasts[claim.contrast], found, claim.measure)
            tests.append(_Test(plan, contrasts, found, effect))
    return tests


def _verdict(claim: Claim, test: _Test) -> str:
    margin = test.plan.margin if claim.measure == "test_accuracy" else 0.0
    said = _agreement(test.effect, claim.expects, margin)
    if said != "reproduced":
        return said
    others = ((test.effect_of(name, claim.measure), expected) for name, expected in claim.conditions.items())
    agree = all(other is not None and other.verdict(margin) == expected for other, expected in others)
    return "reproduced" if agree else "conditional"


def _agreement(effect: Effect, expects: str, margin: float) -> str:
    """Whether an effect is what was expected: "reproduced", "inconclusive" or "not at this scale"."""
    said = effect.verdict(margin)
    if said in (expects, "inconclusive"):
        return "reproduced" if said == expects else "inconclusive"
    beyond = effect.low > margin or effect.high < -margin
    if expects.startswith("no difference") and not beyond:
        return "inconclusive"  # the interval excludes zero, but may reach into the margin
    return "not at this scale"


def ledger_table(entries: list[Entry]) -> str:
    """The ledger as a Markdown table."""
    rows = [("claim", "verdict", "effect here, 95 % interval", "source (how we know it)", "plan, section")]
    for entry in entries:
        claim = entry.claim
        runs = "–" if claim.plan is None else f"{claim.plan}" + (f", {entry.scale}" if entry.scale != "–" else "")
        source = f"{claim.source} ({claim.grade})"
        verdict = _scoped(entry) + (f" ({claim.maps_of}: {entry.maps})" if entry.maps else "")
        rows.append((claim.claim, verdict, entry.effects, source, runs))
    return markdown_table(rows)


def _scoped(entry: Entry) -> str:
    """The verdict, and what it holds for."""
    return f"**{entry.verdict}**" + (f" {entry.scope}" if entry.scope else "")


def findings(entries: list[Entry]) -> str:
    """A Markdown list of claims with their verdicts and effects: for the head of a chapter."""
    lines = []
    for entry in entries:
        found = f" {entry.effects} ({entry.claim.plan}, section {entry.scale})" if entry.effect != "–" else ""
        verdict = f"**{entry.verdict.capitalize()}.**"
        if entry.scope:
            verdict = f"**{entry.verdict.capitalize()}** {entry.scope}."
        lines.append(f"- {entry.claim.claim} {verdict}{found}")
    return "\n".join(lines)


def added_later(entries: list[Entry]) -> str:
    """A Markdown list: what of the claims was declared only after the runs."""
    return "\n".join(f"- {entry.claim.claim} *{entry.claim.added}*" for entry in entries if entry.claim.added)


def answer_sentence(entries: list[Entry]) -> str:
    """One sentence that answers the questions at the head of the ledger, as far as the records go."""
    answers = [
        f"{entry.claim.question} {_scoped(entry)}"
        + (f" ({entry.effect}; {entry.scale})" if entry.effect != "–" else "")
        for entry in entries
        if entry.claim.question
    ]
    return "As far as the records go: " + "; ".join(answers) + "."
