"""Where words and names stand: what is found in a page's prose and in its code."""

import pytest
from docutils import nodes

from tools.book.places import (
    DEFINED,
    IMPORTED,
    built_in,
    named_in,
    origin,
    paragraphs,
    pattern_of,
    plain_text,
    word_of,
)

WORDS = {"patch": 1, "attention map": 1, "attention": 1, "MLP": 1, "Re-attention": 1}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Patches of an image", ["patch"]),
        ("the attention maps, and attention", ["attention map", "attention"]),
        ("Re-attention is not attention", ["Re-attention", "attention"]),
        ("an MLP; despatch, attention-free", ["MLP"]),
    ],
)
def test_words_are_found_whole_in_singular_and_plural(text: str, found: list[str]) -> None:
    assert [word_of(match[0], WORDS) for match in pattern_of(list(WORDS)).finditer(text)] == found


def test_only_prose_counts() -> None:
    box = nodes.admonition("", nodes.paragraph("", "in an answer"), classes=["dropdown"])
    printed = nodes.container("", nodes.paragraph("", "printed"), classes=["cell"])
    said = nodes.paragraph("", "", nodes.Text("said "), nodes.literal("", "code"), nodes.emphasis("", "again"))
    document = nodes.section("", said, box, printed)
    document.parent = nodes.Element()
    document.parent.parent = None
    assert list(paragraphs(document)) == [said]
    assert [text.astext() for text in plain_text(said)] == ["said ", "again"]


def test_code_says_what_it_builds_and_imports() -> None:
    code = (
        "from deepvit_edu.nn import (\n    Block,\n    Mlp as M,\n)\n"
        "class Mine(Block):\n    def forward(self): ...\ndef f(): ..."
    )
    assert DEFINED.findall(code) == ["Mine", "f"]
    ((module, names),) = IMPORTED.findall(code)
    assert module == "deepvit_edu.nn"
    assert [name.split(" as ")[0].strip(" ()\n") for name in names.split(",")] == ["Block", "Mlp", ""]


@pytest.mark.parametrize(
    ("module", "name", "whole"),
    [
        ("deepvit_edu.data", "load", "deepvit_edu.data.load"),  # and not training.file_batches.load
        (
            "deepvit_edu.diagnostics",
            "cross_layer_similarity",
            "deepvit_edu.diagnostics.measures.cross_layer_similarity",
        ),
        ("deepvit_edu.explorer", "TITLES", "deepvit_edu.explorer.TITLES"),
    ],
)
def test_an_import_is_of_the_module_that_wrote_it(module: str, name: str, whole: str) -> None:
    assert origin(module, name) == whole


def test_a_helper_with_the_name_of_another_is_not_built_there() -> None:
    found = [
        ("builds", "rollout", 1),  # imported below, to compare with
        ("builds", "table", 2),  # a helper of the page's own
        ("builds", "entropy", 3),  # named in the prose
        ("builds", "fold", 4),
        ("imports", "deepvit_edu.maps.rollout", 5),
        ("imports", "deepvit_edu.words.fold", 6),
    ]
    told = list(built_in(found, {"deepvit_edu.maps.entropy"}, plumbing={"deepvit_edu.words.fold"}))
    assert [name for kind, name, _ in told if kind == "builds"] == [
        "deepvit_edu.maps.rollout",
        "deepvit_edu.maps.entropy",
    ]


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("soft", "soft"),
        ("soft(x, y)", "soft"),
        ("nn.paths.soft()", "soft"),
        ("deepvit_edu.nn.paths.soft", "soft"),
        ("self.soft(x)", None),
        ("F.soft", None),
        ("soft + 1", None),
        ("other", None),
    ],
)
def test_names_in_code_type(code: str, name: str | None) -> None:
    assert named_in(code, {"soft": ("page", "anchor", "deepvit_edu.nn.paths.soft")}) == name
