from deepvit_edu.words import LONGEST, align, fold, markdown_table, minus, one_line, power, printable


def test_control_characters_are_written_as_escapes():
    assert printable("\x1b[31mred\x07 — × ü\nnext") == "\\x1b[31mred\\x07 — × ü\nnext"


def test_one_line_is_one_line_and_not_too_long():
    assert one_line("two\n lines") == "two lines"
    assert len(one_line("a " * 10**6)) <= LONGEST + 2


def test_a_cell_of_a_table_is_a_cell():
    assert align([("a\nb", "c"), ("\x1b[1m", "d")]).split("\n") == ["a b      c", "\\x1b[1m  d"]


def test_what_is_folded_is_markdown_of_its_own():
    assert fold("More", "| a |\n|---|") == "<details>\n<summary>More</summary>\n\n| a |\n|---|\n\n</details>"


def test_numbers_have_a_true_minus_and_names_keep_their_hyphens():
    assert minus("-1.5 [-2.0, +.5]; plain-24, 2021-05 (re)-3") == "−1.5 [−2.0, +.5]; plain-24, 2021-05 (re)-3"
    assert minus("-0.000 ± 0.002, -0, -0.05, -0.0e") == "0.000 ± 0.002, 0, −0.05, 0.0e"
    assert minus("from -0.00. Then -0. And -0.01.") == "from 0.00. Then 0. And −0.01."
    assert minus("`torch.roll(x, -1)` gives -1") == "`torch.roll(x, -1)` gives −1"
    assert markdown_table([["loss"], ["-0.5"]]) == "| loss |\n|---|\n| −0.5 |"


def test_small_numbers_are_powers_of_ten_and_others_as_they_are():
    assert [power(value) for value in (7e-7, -2e-3, 0.014, 1.0, 0)] == ["7 · 10⁻⁷", "−2 · 10⁻³", "0.014", "1", "0"]
