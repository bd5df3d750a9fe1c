"""What a plan declares, and the runs that follow from it."""

from dataclasses import dataclass, field

from ..data.catalogue import SOURCES
from ..nn.model import ViTConfig
from ..training import Recipe
from ..zoo import model_config

ANNOTATOR = "annotator"
"""What replaces the arm in the name of the annotator's record."""


@dataclass(frozen=True)
class Arm:
    """One of the variants compared: changes to the plan's model and recipe.

    Args:
        model, recipe, data: options that differ from the plan's.
        annotated: its patch tokens learn from the label maps that the plan's annotator makes.
        tuned_as: the arm whose learning rate is taken, instead of tuning this one.
        taken_from: "PLAN/ARM" whose records stand for this arm's; no run is made.
        priority: arms with 1 run for all seeds before those with 2.
    """

    model: dict = field(default_factory=dict)
    recipe: dict = field(default_factory=dict)
    data: dict = field(default_factory=dict)
    annotated: bool = False
    tuned_as: str | None = None
    taken_from: str | None = None
    priority: int = 1


@dataclass(frozen=True)
class Contrast:
    """A difference that the plan asks for, paired by seed: treatment minus control.

    Args:
        name: what it is called in the table.
        treatment, control: arms; several, with `levels`, for a slope; two without, for a difference of differences:
            what the first pair differs by, minus what the second does.
        levels: a number for each pair of arms (a depth); the effect is then the slope of the difference against
            log2 of the level: what each doubling adds.
        primary: whether the plan's decision rests on it.
    """

    name: str
    treatment: tuple[str, ...]
    control: tuple[str, ...]
    levels: tuple[float, ...] = ()
    primary: bool = False


@dataclass(frozen=True)
class Plan:
    """An experiment as declared in its file; see `book/experiments/` for examples and CONTRIBUTING.md for the form."""

    name: str
    section: str
    title: str
    question: str
    decision: str
    data: dict
    model: dict
    recipe: dict
    seeds: tuple[int, ...]
    arms: dict[str, Arm]
    contrasts: tuple[Contrast, ...] = ()
    annotator: Arm | None = None  # changes that make the model whose scores become label maps; trained once
    tuning: dict = field(default_factory=dict)
    primary_contrasts: int = 1  # by whose number the primary intervals are corrected (Bonferroni)
    margin: float = 0.005  # a difference of accuracy below it does not matter
    scope: str = ""  # what its verdicts hold for, as a table says it beside them
    keep_weights: bool = False  # the trained models are kept beside their records, for measures that come later


@dataclass(frozen=True)
class Job:
    """One run of a plan: an arm with a seed, or a tuning run, which also has its own learning rate."""

    arm: str
    seed: int
    learning_rate: float | None = None  # of a tuning run; None for a run that counts

    @property
    def name(self) -> str:
        """The name of its record, without suffix."""
        tuning = f"tuning/{self.arm}_lr{self.learning_rate:g}" if self.learning_rate else self.arm
        return f"{tuning}_s{self.seed}"


def arm_config(plan: Plan, arm: str, num_classes: int) -> ViTConfig:
    """The configuration of an arm's model; the annotator's where the arm is ANNOTATOR."""
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in arm_model(plan, arm).items()}
    if drop_path := {**plan.recipe, **declared_arm(plan, arm).recipe}.get("drop_path"):
        options.setdefault("drop_path_rate", drop_path)
    return model_config(options.pop("name"), num_classes=num_classes, **options)


def setting(plan: Plan) -> str:
    """What the runs of a plan have in common, in words: images, the size of the first arm's model, epochs and seeds."""
    config = arm_config(plan, next(iter(plan.arms)), num_classes=10)
    name = plan.data["name"]
    images = SOURCES[name].title if name in SOURCES else f"the images `{name}`"
    count = f" ({plan.data['train_images']:,} for training)" if "train_images" in plan.data else ""
    epochs = plan.recipe["epochs"]
    return (
        f"{images}{count} at {config.img_size} pixels; {config.depth} blocks of {config.embed_dim} channels and "
        f"{config.num_heads} heads, patches of {config.patch_size} pixels; {epochs} epoch{'s' if epochs > 1 else ''}, "
        f"{len(plan.seeds)} seeds for each arm"
    )


def arm_model(plan: Plan, arm: str) -> dict:
    """What an arm declares of its model: the name, and the options that differ from the named one's."""
    return {**plan.model, **declared_arm(plan, arm).model}


def arm_data(plan: Plan, arm: str) -> dict:
    """What an arm declares of its images."""
    return {**plan.data, **declared_arm(plan, arm).data}


def declared_arm(plan: Plan, name: str) -> Arm:
    """The arm of that name, the annotator among them."""
    return plan.annotator if name == ANNOTATOR else plan.arms[name]


def reads_files(plan: Plan, arm: str) -> bool:
    """Whether an arm's images stay in their files, whatever their number."""
    return {**plan.recipe, **declared_arm(plan, arm).recipe}.get("images_from") == "files"


def arm_recipe(plan: Plan, job: Job, learning_rate: float | None) -> Recipe:
    """The recipe of a run."""
    options = {**plan.recipe, **declared_arm(plan, job.arm).recipe, "seed": job.seed}
    if job.learning_rate:
        options.update(plan.tuning.get("recipe", {}))
    if learning_rate is not None:
        options["learning_rate"] = learning_rate
    return Recipe(**options)


def all_jobs(plan: Plan) -> list[Job]:
    """Every run of a plan, the most important first: tuning, then seed by seed, so that pairs come early."""
    own = [name for name, arm in plan.arms.items() if arm.taken_from is None]
    jobs = []
    for priority in sorted({plan.arms[name].priority for name in own}):
        arms = [name for name in own if plan.arms[name].priority == priority]
        jobs += [
            Job(name, seed, rate)
            for name in arms
            if plan.tuning and plan.arms[name].tuned_as is None
            for rate in plan.tuning["learning_rates"]
            for seed in plan.tuning["seeds"]
        ]
        jobs += [Job(name, seed) for seed in plan.seeds for name in arms]
    return jobs
