"""Experiments: a plan says what to compare and how to decide; the engine makes the missing runs and evaluates them.

A plan is a YAML file, committed before its runs. `sections` of it replace parts for another budget, so that a small
study on a CPU and the full one on a GPU are the same experiment at two sizes.
"""

from .engine import run_plan, run_plan_together
from .measure import measure_model
from .plan import Arm, Contrast, Job, Plan
from .power import power_table
from .reading import load_plan
from .remedy import test_remedy
from .results import missing_jobs
from .verdict import summary, waiting_text

__all__ = [
    "Arm",
    "Contrast",
    "Job",
    "Plan",
    "load_plan",
    "measure_model",
    "missing_jobs",
    "power_table",
    "run_plan",
    "run_plan_together",
    "summary",
    "test_remedy",
    "waiting_text",
]
