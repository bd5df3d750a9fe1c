"""How much a chapter may compute: on a processor, on a T4, or as the recorded runs did."""

from .environment import variable

TIERS = ("cpu", "t4", "full")


def tier() -> str:
    """The reader's tier: `DEEPVIT_EDU_TIER`, or "cpu"; ValueError for another word."""
    name = variable("DEEPVIT_EDU_TIER", "cpu")
    if name not in TIERS:
        raise ValueError(f"DEEPVIT_EDU_TIER is '{name}'; set it to one of {', '.join(TIERS)}")
    return name
