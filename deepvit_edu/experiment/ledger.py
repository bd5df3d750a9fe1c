"""The ledger of claims: what the papers say, how it was tested here, and what the records answer."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..assets import asset_folder
from ..words import fold, markdown_table, nearest
from ..yaml_files import read_yaml
from .plan import Contrast, Plan
from .power import MOST, deviation_of, pairs_for
from .published import Published
from .reading import sections_of
from .verdict import (
    MEASURES,
    Effect,
    contrast_effect,
    describe_maps,
    format_effect,
    holm,
    measured_maps,
    paired_differences,
    recorded_runs,
    results_of,
)

VERDICTS = (
    "reproduced",
    "conditional",
    "not at this scale",
    "inconclusive",
    "not decided yet",
    "not tested",
)
FIRST_EPOCH = "The first epoch"  # the subject of claims that older studies, of one epoch, tested
UNDECIDED = ("not decided yet", "not tested")


EXPECTATIONS = ("higher", "lower", "no difference that matters")
LIKENESS = {
    "adjacent": "likeness of neighbours' maps",
    "adjacent_centred": "the same, rows centred",
    "used_adjacent": "likeness of neighbours' maps in use",
    "used_adjacent_centred": "the same, rows centred",
    "repetition_excess": "repetition of the block before, heads matched, above new weights",
    "query_independence_excess": "fraction of the map that all queries have in common, above new weights",
}
"""What an effect without a unit is an effect on."""
ERROR_RATE = 0.05
"""How often chance may give one of the verdicts of a subject, or more."""


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
        would_change: what could change a verdict that has been reached, in words.
        published: the name of what others have published on it, in `published.yml`.
        subject: what it is about; the claims of one subject are read together and corrected together.
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
    would_change: str | None = None
    published: str | None = None
    subject: str = ""
    added: str | None = None

    def __post_init__(self) -> None:
        for expected in (self.expects, *self.conditions.values()):
            if expected not in EXPECTATIONS:
                raise ValueError(f"'{self.claim}' expects '{expected}'{nearest(str(expected), list(EXPECTATIONS))}")
        if self.measure not in (*MEASURES, *LIKENESS):
            raise ValueError(f"'{self.claim}' measures '{self.measure}'{nearest(self.measure, [*MEASURES, *LIKENESS])}")

    @property
    def asks(self) -> str:
        """Its contrast, and what is compared where that is no accuracy."""
        of = f" ({LIKENESS[self.measure]})" if self.measure in LIKENESS else ""
        return f"{self.contrast}{of}"


@dataclass(frozen=True)
class Entry:
    """A claim with its answer: the effect in words, the verdict, and the command that makes the runs.

    `conditions` are the effects of the further contrasts, by name; `scope` is what the verdict holds for. `maps`
    says what was measured of the maps that the claim is about; None where it is about none. `result` is the effect in
    numbers, None where there are fewer than two pairs; `differences` are those of the pairs, `margin` what does not
    matter. `recorded` of `needed` runs have a record. `p_value` is corrected for the `together` claims of its subject.
    `so_far` is a mean in words, where there are too few runs for an interval that says anything.
    """

    claim: Claim
    effect: str
    verdict: str
    command: str
    scale: str
    scope: str = ""
    maps: str | None = None
    conditions: dict[str, str] = field(default_factory=dict)
    result: Effect | None = None
    differences: tuple[float, ...] = ()
    margin: float = 0.0
    recorded: int = 0
    needed: int = 0
    p_value: float | None = None
    together: int = 1
    so_far: str = ""

    @property
    def effects(self) -> str:
        """What was found, in words: the contrast with its effect, and the further contrasts with theirs."""
        further = [f"{name}: {effect}" for name, effect in self.conditions.items()]
        return "; ".join([self.main_effect, *further]) if self.result else self.so_far or "–"

    @property
    def main_effect(self) -> str:
        """What was found, in words: the contrast with its effect alone."""
        return f"{self.claim.asks}: {self.effect}"

    @property
    def anchor(self) -> str:
        """The id of its line in a list of findings, made from what tests it."""
        claim = self.claim
        measure = "" if claim.measure == "test_accuracy" else claim.measure
        words = f"claim {claim.plan} {claim.contrast} {measure}" if claim.plan else f"claim {claim.claim}"
        return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")

    @property
    def runs(self) -> str:
        """How many of the runs that decide it are recorded."""
        return f"{self.recorded} of {self.needed}"


def load_claims(path: Path) -> list[Claim]:
    """Reads the claims from their YAML file, subject by subject; ValueError where one is not well formed."""
    declared = read_yaml(path)
    try:
        return [Claim(subject=subject, **options) for subject, claims in declared.items() for options in claims]
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} has a claim that is not well formed: {error}") from error


def ledger(claims: list[Claim], plans: Path, records: Path) -> list[Entry]:
    """Judges every claim by the existing records.

    Verdicts are corrected for the number of claims of their subject (see `holm`), those without runs included: so
    runs that come later never take a verdict back. Give all claims, and choose among the entries.

    Args:
        claims: as `load_claims` gives them.
        plans: the folder of the plans.
        records: the folder of the records.
    """
    sections: dict[str, list[tuple[Plan, dict]]] = {}  # each plan's records are read once
    for name in {claim.plan for claim in claims} - {None}:
        sections[name] = [(plan, results_of(plan, records)) for plan in sections_of(plans / f"{name}.yml")]
    entries = [_judge(claim, sections.get(claim.plan, [])) for claim in claims]
    for subject in dict.fromkeys(claim.subject for claim in claims):
        places = [place for place, claim in enumerate(claims) if claim.subject == subject]
        adjusted = holm([1.0 if (p := entries[place].p_value) is None else p for place in places])
        for place, p_value in zip(places, adjusted, strict=True):
            entries[place] = _corrected(entries[place], p_value, len(places))
    return entries


def book_ledger() -> list[Entry]:
    """The book's claims with their answers, by the book's records."""
    plans = asset_folder("experiments")
    return ledger(load_claims(plans / "claims.yml"), plans, asset_folder("records"))


def _corrected(entry: Entry, p_value: float, together: int) -> Entry:
    """The entry after the correction for all that is read together; a verdict that does not survive is inconclusive."""
    if entry.p_value is None:
        return entry
    survives = p_value <= ERROR_RATE or entry.verdict in UNDECIDED
    verdict = entry.verdict if survives else "inconclusive"
    return replace(entry, p_value=p_value, together=together, verdict=verdict)


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
    tests = _tests(claim, sections)
    # A section that was cut short does not overrule a whole one, and decides nothing.
    test = next((test for test in tests if test.is_whole), max(tests, key=lambda test: test.effect.count))
    section = "" if test.plan.section == "full" else f" --section {test.plan.section}"
    command = f"deepvit-edu run book/experiments/{claim.plan}.yml{section}"
    asked = test.contrasts[claim.contrast]
    arms = {*asked.treatment, *asked.control}
    runs = {"recorded": recorded_runs(test.found, arms), "needed": len(arms) * len(test.plan.seeds)}
    if test.effect.count < (2 if test.is_whole else 3):  # the interval of two seeds says nothing
        verdict = "not decided yet" if runs["recorded"] else "not tested"
        section = test.plan.section if test.effect.count > 1 else "–"
        return Entry(claim, "–", verdict, command, section, so_far=_so_far(claim, asked, test.effect), **runs)
    margin = _margin(claim, test.plan)
    seeds = "" if test.is_whole else f", {test.effect.count} of {len(test.plan.seeds)} seeds; the verdict waits for all"
    return Entry(
        claim,
        effect=format_effect(test.effect, claim.measure, bool(asked.levels)) + seeds,
        verdict=_verdict(claim, test) if test.is_whole else "not decided yet",
        command=command,
        scale=test.plan.section,
        scope=test.plan.scope,
        maps=describe_maps(measured_maps(test.found[claim.maps_of].values())) if claim.maps_of else None,
        conditions={name: test.effect_text(name, claim.measure) for name in claim.conditions},
        result=test.effect,
        differences=tuple(paired_differences(asked, test.found, claim.measure)),
        margin=margin,
        p_value=test.effect.p_value(margin, beyond=_denies(claim.expects)) if test.is_whole else None,
        **runs,
    )


def _so_far(claim: Claim, asked: Contrast, effect: Effect) -> str:
    """The mean of the first pairs in words, without an interval; empty where there is none."""
    if not effect.count:
        return ""
    mean = format_effect(replace(effect, count=1), claim.measure, bool(asked.levels))
    pairs = "1 pair, which decides" if effect.count == 1 else f"{effect.count} pairs, which decide"
    return f"{claim.asks}, so far: {mean} in {pairs} nothing"


def _denies(expects: str) -> bool:
    """Whether a claim is that there is no difference; it fails only beyond the margin."""
    return expects.startswith("no difference")


def _margin(claim: Claim, plan: Plan) -> float:
    """What does not matter: the plan's margin of accuracy; other measures have none."""
    return plan.margin if claim.measure == "test_accuracy" else 0.0


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
    margin = _margin(claim, test.plan)
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
    if _denies(expects) and not beyond:
        return "inconclusive"  # the interval excludes zero, but may reach into the margin
    return "not at this scale"


def ledger_table(entries: list[Entry], published: dict[str, Published] | None = None) -> str:
    """The ledger as a Markdown table, with a column of what others have published where their tables are given.

    The verdict stands beside the claim: on a phone the columns after it are off the screen.
    """
    others = () if published is None else ("published, by others",)
    effect, source = "effect here, 95 % interval", "source (how we know it); plan"
    rows = [("claim", "verdict", effect, "runs; p, corrected", *others, source)]
    for entry in entries:
        claim = entry.claim
        verdict = _scoped(entry) + (f" ({claim.maps_of}: {entry.maps})" if entry.maps else "")
        runs = entry.runs if entry.p_value is None else f"{entry.runs}; {_shown_p(entry.p_value)}"
        theirs = (published[claim.published].short if claim.published else "–" for _ in others)
        source = f"{claim.source} ({claim.grade}); {_plan_and_section(entry)}"
        rows.append((_told(claim), verdict, entry.effects, runs, *theirs, source))
    return markdown_table(rows)


def _told(claim: Claim) -> str:
    """The claim, marked where something of it was declared only after the runs."""
    return claim.claim + (" *(declared after the runs, in whole or in part)*" if claim.added else "")


def _plan_and_section(entry: Entry) -> str:
    """The plan that tests a claim, and the section whose runs do, where it is not the whole plan."""
    section = "" if entry.scale in ("–", "full") else f", section {entry.scale}"
    return f"{entry.claim.plan or 'no plan'}{section}"


def short_name(plan: str) -> str:
    """A study's letter and number, as pages call it: "s1_depth_and_remedies" is S1."""
    return plan.split("_")[0].upper()


def _shown_p(p_value: float) -> str:
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _scoped(entry: Entry) -> str:
    """The verdict, and what it holds for."""
    return f"**{entry.verdict}**" + (f" {entry.scope}" if entry.scope else "")


def by_age(entries: list[Entry]) -> tuple[list[Entry], list[Entry]]:
    """The claims that today's studies test, and those that older studies, of one epoch, tested."""
    early = [entry for entry in entries if entry.claim.subject == FIRST_EPOCH]
    return [entry for entry in entries if entry not in early], early


def findings(entries: list[Entry], nearest: Mapping[str, str] | None = None) -> str:
    """A Markdown list of verdicts, each with its claim and its effects: for the head of a chapter.

    Where newer studies ask, too, what was seen after an epoch or two stands under a fold; so do claims that are not
    decided yet, where there are several.

    Args:
        entries: the claims with their answers.
        nearest: by plan, where the nearest evidence stands while the plan's own runs are missing, as Markdown.
    """
    current, early = by_age(entries)
    if not current:
        return _list_of(early, nearest)
    current += [entry for entry in early if entry.verdict == "not tested"]
    early = [entry for entry in early if entry.verdict != "not tested"]
    count = "one claim" if len(early) == 1 else f"{len(early)} claims"
    title = f"Seen in shorter studies of an epoch or two, on which no verdict rests alone: {count}"
    return _list_of(current, nearest) + (f"\n\n{fold(title, _list_of(early, nearest))}" if early else "")


def _list_of(entries: list[Entry], nearest: Mapping[str, str] | None) -> str:
    """A line for each claim; several that are not decided yet stand under a fold, so that findings come first."""
    waiting = [entry for entry in entries if entry.verdict in UNDECIDED]
    if len(waiting) < 2:
        return "\n".join(_line_of(entry, nearest) for entry in entries)
    places = dict.fromkeys(place for entry in waiting if (place := (nearest or {}).get(entry.claim.plan)))
    lines = [_line_of(entry, nearest) for entry in entries if entry not in waiting]
    lines.append(f"- **Without a verdict yet:** {len(waiting)} claims, whose runs are missing in whole or in part.")
    if places:
        lines[-1] += f" *The nearest evidence by now:* {'; '.join(places)}."
    hidden = "\n".join(_line_of(entry, None) for entry in waiting)  # the places stand above
    return "\n".join(lines) + f"\n\n{fold(f'The {len(waiting)} claims without a verdict', hidden)}"


def _line_of(entry: Entry, nearest: Mapping[str, str] | None) -> str:
    """A claim with its answer: the verdict first, since who skims takes what stands first for the finding."""
    verdict, undecided = entry.verdict.capitalize(), entry.verdict in UNDECIDED
    if undecided and entry.needed:
        verdict += f": {entry.runs} runs recorded"
    verdict = f"**{verdict}** {entry.scope}." if entry.scope else f"**{verdict}.**"
    told = f"*Found:* {entry.effects}" if entry.result else entry.so_far and f"({entry.so_far})"
    if undecided and entry.recorded and not told:
        told = "(No pair of runs is complete, so no effect can be shown yet.)"
    found = f" {told} (study {short_name(entry.claim.plan)})" if told else ""
    found += _corrected_away(entry)
    if undecided and (place := (nearest or {}).get(entry.claim.plan)):
        found += f" *The nearest evidence by now:* {place}."
    return f'- <a id="{entry.anchor}"></a>{verdict} *Claim:* {_told(entry.claim)}{found}'


def _decides_alone(entry: Entry) -> bool:
    """Whether the interval by itself, before the correction, is a verdict."""
    return entry.result is not None and _agreement(entry.result, entry.claim.expects, entry.margin) != "inconclusive"


def _says_alone(entry: Entry) -> str:
    """What an interval that decides by itself does: a claim of no difference is judged by the margin, not by zero."""
    if entry.result.verdict(entry.margin) == "no difference that matters":
        return "lies within the margin"
    return "lies beyond the margin" if _denies(entry.claim.expects) and entry.margin else "leaves zero out"


def _corrected_away(entry: Entry) -> str:
    """Why an interval that decides by itself has no verdict; empty for all others."""
    if entry.verdict != "inconclusive" or not _decides_alone(entry):
        return ""
    return (
        f". Its interval alone {_says_alone(entry)}. But {entry.together} claims on one subject are read together, "
        f"some of which would do so by chance; corrected for their number, it does not count (p {entry.p_value:.3f})."
    )


def tally(entries: list[Entry]) -> str:
    """How many claims there are, and how many have each verdict, in words: "3 claims: 1 reproduced, 2 not tested"."""
    counts = Counter(entry.verdict for entry in entries)
    verdicts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    return f"{len(entries)} claim{'s' * (len(entries) != 1)}: {verdicts}"


def added_later(entries: list[Entry]) -> str:
    """A Markdown list: what of the claims was declared only after the runs."""
    return "\n".join(f"- {entry.claim.claim} *{entry.claim.added}*" for entry in entries if entry.claim.added)


def answer(entry: Entry) -> str:
    """The answer to an entry's question in words, as far as the records go."""
    if entry.verdict in UNDECIDED:
        return f"{entry.verdict.capitalize()}: {entry.runs} runs recorded"
    if entry.verdict == "inconclusive" and _decides_alone(entry):
        alone = f"By its own interval {entry.result.verdict(entry.margin)}"
        together = f"corrected for the {entry.together} claims that are read together (p {entry.p_value:.3f})"
        return f"{alone}; {together}, the runs cannot say"
    if entry.verdict == "inconclusive":
        return "The runs cannot say"
    if entry.verdict == "not at this scale":
        said = entry.result.verdict(entry.margin) if entry.result else ""
        return "No, it makes no difference that matters" if said == "no difference that matters" else "No, the opposite"
    return "Yes" if entry.verdict == "reproduced" else "Yes, but not under all conditions tested"


def would_change(entry: Entry) -> str:
    """What could change the answer: missing runs, more seeds, or what the claim itself names."""
    if entry.verdict in UNDECIDED:
        missing = entry.needed - entry.recorded
        return "the run that is missing" if missing == 1 else f"the {missing} runs that are missing"
    if entry.verdict == "inconclusive":
        return f"more seeds; {_seeds_that_decide(entry)}"
    return entry.claim.would_change or "other images, another width, or longer training"


def _seeds_that_decide(entry: Entry) -> str:
    """How many seeds bring the interval down to the margin, if the differences go on to scatter as they do."""
    result = entry.result
    if _decides_alone(entry):
        return f"its own interval decides, but not after the correction{_pairs_that_survive(entry)}"
    if not entry.margin:
        return "this measure has no margin by which to count them"
    deviation = deviation_of(result.high - result.mean, result.count, result.level)
    pairs = pairs_for(deviation, entry.margin, result.level)
    points = f"{100 * entry.margin:g} point{'' if entry.margin == 0.01 else 's'}"
    many = f"{MOST} or more" if pairs >= MOST else str(pairs)
    differs = pairs_for(deviation, abs(result.mean), result.level)
    telling = f"differing as these do, {differs} would tell the mean from zero, and " if differs < MOST else ""
    return f"{telling}{many} instead of {result.count} bring the interval down to {points} on either side"


def _pairs_that_survive(entry: Entry) -> str:
    """How many seeds would survive the correction; empty where no difference is claimed, or no factor is known."""
    result, own = entry.result, entry.result.p_value(entry.margin)
    if result.verdict(entry.margin) == "no difference that matters" or not own or entry.p_value >= 1:
        return ""
    deviation = deviation_of(result.high - result.mean, result.count, result.level)
    pairs = pairs_for(deviation, abs(result.mean), 1 - ERROR_RATE * own / entry.p_value)
    return f"; with {pairs} instead of {result.count}, differing as these do, it would"


def answers_table(entries: list[Entry], *, with_changes: bool = True) -> str:
    """The questions at the head of the ledger with their answers, as a Markdown table of two columns.

    Each line says the answer in words with what it holds for and one number with its interval; `with_changes`, also
    what would change it.
    """
    rows = [("question and answer", "verdict")]
    for entry in entries:
        if not (question := entry.claim.question):
            continue
        scope = f", {entry.scope}" if entry.scope else ""
        lines = [f"**{question[0].upper()}{question[1:]}**", f"{answer(entry)}{scope}."]
        if entry.result:
            number = entry.effects if entry.verdict == "conditional" else entry.main_effect
            lines.append(f"{number[0].upper()}{number[1:]}.")
        elif entry.so_far:
            lines.append(f"{entry.so_far[0].upper()}{entry.so_far[1:]}.")
        if with_changes:
            lines.append(f"*What would change this:* {would_change(entry)}.")
        rows.append(("<br>".join(lines), entry.verdict))
    return markdown_table(rows)
