"""Write book/records/TABLES.md: every table that follows from the recorded runs.

python -m tools.book.tables           write the tables
python -m tools.book.tables --check   only say whether they are stale
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from deepvit_edu.experiment import load_plan, summary
from deepvit_edu.experiment.ledger import ledger, ledger_table, load_claims
from deepvit_edu.experiment.published import load_published
from deepvit_edu.experiment.reading import experiments_in
from deepvit_edu.records import list_records, table
from tools.contents import ROOT, load_yaml
from tools.generated import keep_current

PLANS, RECORDS = ROOT / "book" / "experiments", ROOT / "book" / "records"
TABLES = RECORDS / "TABLES.md"


def sections(plan: Path) -> Iterator[str]:
    """The sections of a plan that have records, the whole first."""
    for section in ("full", *load_yaml(plan).get("sections", {})):
        if any((RECORDS / plan.stem / section).glob("*.json")):
            yield section


def tables() -> str:
    """What TABLES.md should hold."""
    parts = ["# What the records say\n\nWritten by `make records` from the records beside this file; not by hand."]
    parts.append(f"## Single runs\n\n```text\n{table(list_records(RECORDS))}\n```")
    for plan in experiments_in(PLANS):
        for section in sections(plan):
            told = summary(load_plan(plan, section), RECORDS).replace(f"{ROOT}/", "")  # commands run in the root
            parts.append(f"## {plan.stem}, {section}\n\n```text\n{told}\n```")
    published = load_published(PLANS / "published.yml")
    claims = ledger_table(ledger(load_claims(PLANS / "claims.yml"), PLANS, RECORDS), published)
    return "\n\n".join([*parts, f"## The ledger of claims\n\n{claims}"]) + "\n"


if __name__ == "__main__":
    keep_current(TABLES, tables(), "make records", __doc__)
