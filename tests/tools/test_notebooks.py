"""The learner's notebooks: how each construct of MyST is converted, and that the committed notebooks are current."""

import base64
import re
import time

import jupytext
import nbformat
import pytest
from pybtex.database import parse_string

from tools.book import notebooks
from tools.book.notebooks import (
    Book,
    ConversionError,
    Converter,
    add_labels,
    generate,
    make_notebook,
    read_lines,
    stale_notebooks,
)
from tools.contents import ROOT, notebook_pages, source_of

FRONT_MATTER = "---\njupytext: {}\nkernelspec: {name: python3}\n---\n"
BIBLIOGRAPHY = """
@article{one2020, author={Dosovitskiy, Alexey and Second, A. and Third, B.}, year={2020}, eprint={2010.11929}}
@book{two2021, author={van der Berg, Jan and Li, Wei}, year={2021}}
"""


def convert(body: str) -> nbformat.NotebookNode:
    """The notebook of a page with this body, without its two set-up cells."""
    book = Book("https://github.com/OWNER/repository", parse_string(BIBLIOGRAPHY, "bibtex"))
    add_labels(book, "book/page", FRONT_MATTER + body)
    notebook = nbformat.reads(make_notebook(FRONT_MATTER + body, "book/page", book), as_version=4)
    notebook.cells = notebook.cells[2:]
    return notebook


def markdown(body: str) -> str:
    """The markdown cells of a page with this body."""
    return "\n\n".join(cell.source for cell in convert(body).cells if cell.cell_type == "markdown")


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("{cite:t}`one2020` says", "[Dosovitskiy et al. (2020)](https://arxiv.org/abs/2010.11929) says"),
        ("so {cite:p}`one2020`", "so ([Dosovitskiy et al., 2020](https://arxiv.org/abs/2010.11929))"),
        ("so {cite}`two2021`", "so (van der Berg and Li, 2021)"),
        ("a {term}`token` and {term}`two tokens <token>`", "a token and two tokens"),  # no glossary here
        ("{math}`x^2` and {sub}`i` and {kbd}`Esc`", "$x^2$ and <sub>i</sub> and `Esc`"),
        ("{py:func}`~deepvit_edu.zoo.create_model`", "`deepvit_edu.zoo.create_model`"),
        ("(here)=\n## A *title*\n\nsee {ref}`here`, {ref}`there <here>`, [](#here)", None),
        ("`{cite}` and ``{note}`` stay", "`{cite}` and ``{note}`` stay"),
        ("$f[i](x)$ stays", "$f[i](x)$ stays"),
        ("[site](https://example.org/a) stays", "[site](https://example.org/a) stays"),
        ("before\n\n% a remark\nafter", "before\n\nafter"),
    ],
)
def test_inline_markup(source: str, wanted: str | None) -> None:
    expected = wanted or "## A *title*\n\nsee A *title*, there, A *title*"
    assert markdown(source) == expected


def test_no_two_works_are_cited_by_the_same_name_and_year() -> None:
    entries = notebooks.read_book().bibliography.entries
    labels = [notebooks.short_citation(entry) for entry in entries.values()]
    assert sorted(labels) == sorted(set(labels))  # else give one the year 2021a and the other 2021b


def test_link_to_a_file_becomes_absolute() -> None:
    assert (
        markdown("[the licence](../LICENSE)") == "[the licence](https://github.com/OWNER/repository/blob/main/LICENSE)"
    )


def test_other_pages_are_links_and_this_one_is_text() -> None:
    body = FRONT_MATTER + "(here)=\n## Here\n\nsee {doc}`notation`, {doc}`the words <glossary>`, {ref}`here`"
    book = Book("https://github.com/OWNER/repository", titles={"book/notation": "Notation", "book/glossary": "Words"})
    add_labels(book, "book/page", body)
    add_labels(book, "book/01_vision_transformer", FRONT_MATTER + "(there)=\n## There\n")
    lines = read_lines(body + ", {ref}`there`, a {term}`token`")
    shown = Converter(book, "book/page").markdown(lines)
    address = "https://github.com/OWNER/repository/blob/main/book"
    assert shown == (
        f"## Here\n\nsee [Notation]({address}/notation.md), [the words]({address}/glossary.md), Here, "
        f"[There]({address}/01_vision_transformer.ipynb), a [token]({address}/glossary.md)"
    )


def test_a_claim_is_found_on_its_page() -> None:
    address = "https://github.com/OWNER/repository/blob/main/book/04_re_attention.ipynb"
    assert markdown("{ref}`the norm <04_re_attention:claim-a-b>`") == f"[the norm]({address})"


def test_a_notebook_names_the_repository() -> None:
    source = "```{div} with-repository\nclone ADDRESS\n```\n\n```{div} without-repository\nfind it\n```"
    assert markdown(source) == "clone https://github.com/OWNER/repository"


def test_admonitions_become_quotations() -> None:
    assert markdown("```{note}\nText.\n```") == "> **Note.**\n>\n> Text."
    assert markdown(":::{admonition} Predict?\n:class: tip\nText.\n:::") == "> **Predict?**\n>\n> Text."


def test_folded_text_becomes_details() -> None:
    wanted = "<details>\n<summary>Answer</summary>\n\nFour.\n\n</details>"
    assert markdown("```{dropdown} Answer\nFour.\n```") == wanted
    assert markdown("```{admonition} Answer\n:class: dropdown\nFour.\n```") == wanted


def test_directives_nest_and_keep_code() -> None:
    text = markdown("````{tip}\n:::{dropdown} More\n```python\nx = '{note}'\n```\n:::\n````")
    assert text.startswith("> **Tip.**")
    assert "> <summary>More</summary>" in text
    assert "> x = '{note}'" in text


def test_directive_in_a_list_stays_indented() -> None:
    assert markdown("- item\n\n  ```{note}\n  Text.\n  ```") == "- item\n\n  > **Note.**\n  >\n  > Text."


def test_formulas_keep_their_numbers() -> None:
    text = markdown("$$\na\n$$ (first)\n\n```{math}\n:label: second\nb\n```\n\nsee {eq}`first`, {eq}`second`")
    assert text == "$$\na\n\\tag{1}\n$$\n\n$$\nb\n\\tag{2}\n$$\n\nsee (1), (2)"


def test_figure_needs_alternative_text_and_gets_a_number() -> None:
    figure = "```{figure} ../README.md\n:name: fig-a\n:alt: A tree\nThe caption.\n```\n\nsee {numref}`fig-a`"
    address = "https://raw.githubusercontent.com/OWNER/repository/main/README.md"
    assert markdown(figure) == f"![A tree]({address})\n\n**Figure 1.** The caption.\n\nsee Figure 1"
    with pytest.raises(ConversionError, match=r"page\.md:5: the figure .* has no :alt: text"):
        markdown(figure.replace(":alt: A tree\n", ""))


def test_figures_of_cells_count_as_the_book_counts_them() -> None:
    cell = '```{code-cell} ipython3\nplot.show(fig, alt="a")\nplot.show(\n    fig,\n    name="fig:b",\n)\n```\n\n'
    drawing = "```{figure} ../README.md\n:name: fig:c\n:alt: A tree\n\nText.\n```\n\n"
    text = markdown(cell + drawing + "see {numref}`fig:b`, {numref}`fig:c`")
    assert "**Figure 3.** Text." in text
    assert text.endswith("see Figure 2, Figure 3")


def test_live_figures_and_explorers_count_as_figures() -> None:
    live = "```{div} live-figure live-query\nIn the built book something moves.\n```\n\n"
    cell = '```{code-cell} ipython3\nexplorer.attention_explorer(data="shapes")\n```\n\n'
    drawing = "```{figure} ../README.md\n:name: fig:c\n:alt: A tree\n\nText.\n```\n\nsee {numref}`fig:c`"
    text = markdown(live + cell + drawing)
    assert text.startswith("**Figure 1.** In the built book something moves.")
    assert "**Figure 3.** Text." in text
    assert text.endswith("see Figure 3")


def test_drawing_travels_in_the_notebook() -> None:
    figure = "```{figure} drawings/vit.svg\n:name: fig:vit\n:alt: A model\n\nThe caption.\n```"
    book = Book("https://github.com/OWNER/repository")
    shown = Converter(book, "book/01_vision_transformer").markdown(read_lines(figure))
    image, caption = shown.split("\n\n")
    start = "![A model](data:image/svg+xml;base64,"
    assert image.startswith(start)
    assert base64.b64decode(image.removeprefix(start)[:-1]) == (ROOT / "book/drawings/vit.svg").read_bytes()
    assert caption == "**Figure 1.1.** The caption."


def test_list_table_becomes_a_table() -> None:
    source = "```{list-table} Sizes\n:header-rows: 1\n* - a\n  - b\n* - 1\n  - {math}`2`\n```"
    assert markdown(source) == "**Table 1.** Sizes\n\n| a | b |\n| --- | --- |\n| 1 | $2$ |"


EXERCISE = """
```{exercise-start} Count
:label: ex-count
```
Count them.

```{code-cell}
start = 1
```
```{exercise-end}
```

See {ref}`ex-count`.

````{solution-start} ex-count
:class: dropdown
````
HIDDEN
```{code-cell}
HIDDEN = 1
```
```{solution-end}
```

```{exercise}
:label: ex-two
Another.
```

```{solution} ex-two
HIDDEN
```

```{code-cell}
:tags: [solution]
HIDDEN = 2
```

```{code-cell}
:tags: [book-only]
HIDDEN = 3
```
"""


def test_exercises_stay_and_solutions_go() -> None:
    cells = convert(EXERCISE).cells
    assert not any("HIDDEN" in cell.source for cell in cells)
    text = "\n".join(cell.source for cell in cells)
    assert "#### Exercise 1: Count\n\nCount them." in text
    assert "See Exercise 1." in text
    assert "#### Exercise 2\n\nAnother." in text
    assert [cell.source for cell in cells if cell.cell_type == "code"] == ["start = 1"]


def test_hidden_input_is_folded() -> None:
    (cell,) = convert("```{code-cell}\n:tags: [hide-input]\nx = 1\n```").cells
    assert cell.metadata["jupyter"] == {"source_hidden": True}
    assert cell.metadata["cellView"] == "form"


def test_block_breaks_split_cells() -> None:
    assert [cell.source for cell in convert("one\n\n+++\n\ntwo").cells] == ["one", "two"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("text\n\n```{glue} x\n```", r"book/page\.md:7: the directive \{glue\}"),
        ("text\n{unknown}`x`", r"book/page\.md:6: the role \{unknown\}"),
        ("{cite}`nobody1999`", r"no entry nobody1999"),
        ("{ref}`nowhere`", r"no label nowhere"),
        ("[x](missing.md)", r"missing\.md leads to no label and no file"),
        ("```{note}\nno end", r"page\.md:5: this block is never closed"),
        ("```{solution-start} x\n```\n", r"page\.md:5: this solution-start has no solution-end"),
        ("a footnote[^1]", r"page\.md:5: \[\^1\]"),
        ("term\n: definition", r"page\.md:6: a definition list"),
    ],
)
def test_what_has_no_plain_form_is_an_error(source: str, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        convert(source)


def test_an_edit_changes_one_cell_id() -> None:
    body = "one\n\n+++\n\ntwo\n\n+++\n\ntwo\n\n```{code-cell}\nx = 1\n```"
    ids = [cell.id for cell in convert(body).cells]
    edited = [cell.id for cell in convert(body.replace("one", "uno")).cells]
    assert len(set(ids)) == len(ids)
    assert sum(before != after for before, after in zip(ids, edited, strict=True)) == 1


def test_setup_cell_leaves_an_installed_package_alone_and_says_so_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    setup = notebooks.setup_cells("https://github.com/OWNER/repository", "book/page")[1]
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("it installs what is there"))
    start = time.perf_counter()
    exec(setup.source, {})
    assert time.perf_counter() - start < 2
    assert "package is here" in capsys.readouterr().out


def test_setup_cell_holds_torch_to_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = notebooks.setup_cells("https://github.com/OWNER/repository", "book/page")[1]
    commands: list[list[str]] = []
    monkeypatch.setattr("subprocess.check_call", commands.append)
    monkeypatch.setenv("DEEPVIT_EDU_SOURCE", "a.whl")
    exec(setup.source.replace('find_spec("deepvit_edu")', 'find_spec("not_there_at_all")'), {})
    ((*_, source, option, constraints),) = commands
    assert (source, option) == ("a.whl", "-c")
    import torch

    with open(constraints) as file:
        assert f"torch=={torch.__version__}".split("+")[0] in file.read()


def test_setup_cell_of_a_copy_without_address_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("it installs from a placeholder"))
    monkeypatch.delenv("DEEPVIT_EDU_SOURCE", raising=False)
    missing = ('find_spec("deepvit_edu")', 'find_spec("not_there_at_all")')
    setup = notebooks.setup_cells("https://github.com/OWNER/repository", "book/page")[1]
    with pytest.raises(RuntimeError, match=r"set os.environ.*DEEPVIT_EDU_SOURCE"):
        exec(setup.source.replace(*missing), {})
    known = notebooks.setup_cells("https://github.com/someone/repository", "book/page")[1]
    assert '"git+https://github.com/someone/repository"' in known.source
    assert "RuntimeError" not in known.source


@pytest.fixture(scope="module")
def wanted() -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DEEPVIT_EDU_REPOSITORY", raising=False)
        return generate()


def test_committed_notebooks_are_current(wanted: dict) -> None:
    names = [str(path.relative_to(ROOT)) for path in stale_notebooks(wanted)]
    assert not names, f"stale: {names}; run `make notebooks`"


@pytest.mark.parametrize("page", notebook_pages())
def test_notebook_holds_no_raw_markup_and_no_solution(page: str, wanted: dict) -> None:
    notebook = nbformat.reads(wanted[ROOT / f"{page}.ipynb"], as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            continue
        prose = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", cell.source, flags=re.DOTALL)
        assert not re.search(r"^[>\s]*[`:~]{3,}\{", cell.source, re.MULTILINE), "a directive"
        assert not re.search(r"\{[\w:-]+\}`|^\([^()\s]+\)=", prose, re.MULTILINE), "a role or a label"
        assert "solution-start" not in prose
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


COLUMN = 80


@pytest.mark.parametrize("page", [page for page in notebook_pages() if re.match(r"book/\d", page)])
def test_no_code_is_wider_than_its_column(page: str) -> None:
    """A reader would have to scroll sideways, and what is cut is the comment on the shape."""
    cells = jupytext.read(source_of(page)).cells
    shown = [cell.source for cell in cells if cell.cell_type == "code"]
    assert [line for source in shown for line in source.splitlines() if len(line) > COLUMN] == []


@pytest.mark.parametrize("page", notebook_pages())
def test_code_cells_agree_with_jupytext(page: str, wanted: dict) -> None:
    """Another reader of the format finds the same code, the left-out cells apart, in the same order."""
    cells = nbformat.reads(wanted[ROOT / f"{page}.ipynb"], as_version=4).cells[2:]
    ours = [cell.source for cell in cells if cell.cell_type == "code"]
    theirs = iter(
        [cell.source.strip("\n") for cell in jupytext.read(source_of(page)).cells if cell.cell_type == "code"]
    )
    assert ours
    assert all(source in theirs for source in ours)
