"""Write what the instructor's guide tells of every exercise: book/appendix/exercise_list.txt, from bank and mutants.

python -m tools.assignments.exercise_list           write it
python -m tools.assignments.exercise_list --check   only say whether it is stale
"""

from collections import defaultdict

from deepvit_edu.words import markdown_table
from tools.assignments.question import load_templates
from tools.contents import ROOT
from tools.exercises.bank import Exercise, chapter_files, load_chapter
from tools.exercises.mutants import load_mutants
from tools.generated import keep_current

LIST = ROOT / "book" / "appendix" / "exercise_list.txt"
HEADER = ("exercise", "kind", "difficulty", "importance", "minutes", "the learner practises")


def overview() -> str:
    """The text of the list, in MyST: for each chapter a table of exercises, their common mistakes, graded questions."""
    mistakes = defaultdict(list)
    for mutant in load_mutants():
        mistakes[mutant.number].append(f"{mutant.mistake.rstrip('.')}. *Told:* … {mutant.says} …")
    parts = []
    for chapter in chapter_files():
        exercises = load_chapter(chapter)
        parts.append(f"### Chapter {chapter}\n\n{markdown_table([HEADER, *map(_row, exercises)])}")
        found = [f"- **{e.number}** {line}" for e in exercises for line in mistakes[e.number]]
        parts.append("Common mistakes, and words of what `check` says to each:\n\n" + "\n".join(found))
        graded = [found.draw("example") for found in load_templates(chapter)]
        told = ", ".join(f"{q.total} after {q.exercise}{'' if q.tests else ' (in words)'}" for q in graded)
        parts.append(f"Points in the graded version: {told}; {sum(q.total for q in graded)} in all.")
    return "\n\n".join(parts) + "\n"


def _row(exercise: Exercise) -> tuple[str, ...]:
    title = f"{exercise.number} {{ref}}`{exercise.title} <{exercise.label}>`"
    numbers = (str(exercise.difficulty), str(exercise.importance), str(exercise.minutes))
    return (title, exercise.kind, *numbers, exercise.practises)


if __name__ == "__main__":
    keep_current(LIST, overview(), "make notebooks", __doc__)
