"""A worked example of templates of your own: copy this folder out of the repository, and change everything in it.

A file `chapter_N.py` takes the place of the book's templates for chapter N. It has IMPORTS, the statements that every
question may rely on, and a function for each question. What the function draws from `draw` must change the answer, so
that no two seeds share one.
"""

from random import Random

from tools.assignments.question import Question, Test, template

IMPORTS = """\
import torch
"""


@template(4)
def mixed_heads(draw: Random) -> Question:
    """Code: one number, one function, a visible test, and hidden tests that compare with another way to write it."""
    heads, keep = draw.choice([3, 4, 6]), draw.choice(["first", "last"])
    weight = draw.randint(2, 9) / 10
    place = {"first": "0", "last": "-1"}[keep]
    return Question(
        exercise="4.1",
        variant=f"{heads} heads, {keep}, {weight}",
        text=(
            f"Write `mixed(maps)`: maps of shape $(B, {heads}, N, N)$ to maps of the same shape, in which every head "
            f"is {weight} times itself plus {1 - weight:.1f} times the {keep} head."
        ),
        stub="def mixed(maps):\n    ...",
        solution=f"def mixed(maps):\n    return {weight} * maps + {1 - weight:.1f} * maps[:, [{place}]]",
        tests=(
            Test(
                1, f"assert mixed(torch.rand(2, {heads}, 5, 5)).shape == (2, {heads}, 5, 5), 'the shape stays'", "pass"
            ),
            Test(
                3,
                "# What is compared here is tried when the work is graded.",
                f"maps = torch.rand(2, {heads}, 5, 5)\n"
                f"ways = torch.eye({heads}) * {weight}\n"
                f"ways[:, {place}] += {1 - weight:.1f}\n"
                "expected = torch.einsum('gh,bhij->bgij', ways, maps)\n"
                "assert torch.allclose(mixed(maps), expected, atol=1e-6), 'another mixture was asked for'",
            ),
        ),
    )


@template(4)
def what_mixing_keeps(draw: Random) -> Question:
    """Words: a table of made-up numbers, a model answer, and a rubric whose points add up."""
    before, after = draw.randint(70, 80), draw.randint(81, 89)
    return Question(
        exercise="4.2",
        variant=f"{before}, {after}",
        text=(
            f"A model reaches {before} % with its own maps and {after} % when every head's map is replaced by the mean "
            "over heads. Write three sentences: what does this show of its heads, and which run would you make next?"
        ),
        stub="",
        solution=(
            f"Its heads hurt more than they help: their mean is better by {after - before} points, so what tells them "
            "apart is noise to this model. I would repeat it with other seeds, since one run is an anecdote."
        ),
        points=3,
        rubric=("2: what tells the heads apart does not help this model", "1: names a run that could refute it"),
    )
