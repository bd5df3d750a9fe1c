"""Where words and names stand: what is found in a page's prose and in its code."""

import pytest
from docutils import nodes

from tools.book.places import DEFINED, IMPORTED, named_in, paragraphs, pattern_of, plain_text, word_of

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
    (names,) = IMPORTED.findall(code)
    assert [name.split(" as ")[0].strip(" ()\n") for name in names.split(",")] == ["Block", "Mlp", ""]


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
