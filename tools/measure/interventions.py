"""Measure what each map of the committed specimens is worth, every kind of replacement and the control: minutes.

python -m tools.measure.interventions   write book/records/measurements/specimen_interventions.json
"""

from __future__ import annotations

import argparse

from deepvit_edu.diagnostics import intervene_all
from deepvit_edu.experiment import load_plan
from deepvit_edu.experiment.engine import splits
from deepvit_edu.experiment.measure import measured_images, rounded
from deepvit_edu.records import save_measurement
from deepvit_edu.specimens import DATA, INTERVENTIONS, REMEDIES, load_specimen
from tools.contents import ROOT

PLAN = ROOT / "book" / "experiments" / "specimens.yml"


def main() -> None:
    """Replace every map of every specimen on test images; one row for each replacement."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows, hashes = [], {}
    for data_name in DATA:
        _, test_set = splits(load_plan(PLAN, data_name), REMEDIES[0])
        hashes[data_name] = test_set.hash()
        images, labels = measured_images(test_set)
        for remedy in REMEDIES:
            found = intervene_all(load_specimen(remedy, data_name), images, labels)
            rows += [{"data": data_name, "specimen": remedy, **row} for row in rounded(found)]
            print(f"{data_name} {remedy}: {len(found)} replacements on {len(images)} images", flush=True)
    command = "python -m tools.measure.interventions"
    save_measurement(ROOT / "book" / INTERVENTIONS, "interventions", command, rows, test_data_hash=hashes)


if __name__ == "__main__":
    main()
