"""The explorers on the built pages: each control is moved as a reader would, and the pictures and the words follow."""

import base64
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

ATTENTION, COLLAPSE = "book/04_re_attention", "book/03_attention_collapse"
MILLISECONDS = 120_000  # a page may wait for a machine that does other work
PICTURES = """root => [...root.querySelectorAll('.explorer-panels canvas')].map(canvas => canvas.toDataURL())"""
CHOSEN = """root => [location.href, ...Array.from(
    root.querySelectorAll("input, select, [aria-pressed='true'], .explorer-heard"),
    (element) => [element.ariaLabel, element.value, element.ariaValueText, element.textContent])]"""
ENDS = """root => Array.from(root.querySelectorAll(".explorer-panels .explorer-legend"),
    (scale) => [scale.firstChild.data, scale.lastChild.data])"""


@pytest.fixture
def explorer(browser, html: Path) -> Iterator[Callable]:
    """A function that opens a page afresh, without network, and gives the first explorer on it."""
    contexts = []

    def opened(page: str, javascript: bool = True, width: int = 1280, fragment: str = "", **options):
        size = {"width": width, "height": 900}
        context = browser.new_context(
            offline=True, java_script_enabled=javascript, has_touch=True, viewport=size, **options
        )
        context.set_default_timeout(MILLISECONDS)
        contexts.append(context)
        tab = context.new_page()
        tab.goto((html / f"{page}.html").as_uri() + fragment)
        root = tab.locator(".deepvit-explorer").first
        if not fragment:  # which leads there by itself
            root.scroll_into_view_if_needed()  # it is loaded when a reader comes near
        root.locator(".explorer-live" if javascript else ".explorer-plain").wait_for(state="visible")
        return root

    yield opened
    for context in contexts:
        context.close()


def pictures(root) -> list[str]:
    return root.evaluate(PICTURES)


def words(root) -> str:
    """What a screen reader hears."""
    return root.locator(".explorer-heard").inner_text()


def chosen(root) -> list:
    """What is kept while a mouse only passes: the address, the controls, the patch, and what is heard."""
    return root.evaluate(CHOSEN)


def packed(root) -> tuple[dict, np.ndarray, np.ndarray]:
    """The data of the attention explorer, and of it the scales and the steps by model, block, image, head, query."""
    data = json.loads(root.locator("script[type='application/json']").text_content())
    tokens = data["grid"] ** 2 + data["extra"]
    shape = (len(data["models"]), len(data["layers"]), len(data["images"]), data["heads"], tokens)
    scales, steps = (zlib.decompress(base64.b64decode(data[name])) for name in ("scales", "steps"))
    return data, np.frombuffer(scales, "<f4").reshape(shape), np.frombuffer(steps, "i1").reshape(*shape, tokens)


def moves(root, act: Callable[[], object]) -> None:
    """Acts, and expects the words and pictures to change (not all: two maps may happen to look the same)."""
    before, said = pictures(root), words(root)
    act()
    assert pictures(root) != before
    assert words(root) != said


@pytest.mark.parametrize("chapter", [ATTENTION, COLLAPSE])
def test_without_scripts_there_are_a_picture_and_a_table(explorer: Callable, chapter: str) -> None:
    root = explorer(chapter, javascript=False)
    assert root.locator(".explorer-plain .figure-picture").locator("visible=true").count() == 1
    assert not root.locator(".explorer-live").is_visible()
    root.locator("summary").click()
    assert root.locator("table").first.is_visible()


@pytest.mark.parametrize("chapter", [ATTENTION, COLLAPSE])
def test_with_scripts_the_picture_makes_way(explorer: Callable, chapter: str) -> None:
    root = explorer(chapter)
    assert not root.locator(".explorer-plain").is_visible()
    assert len(set(pictures(root))) > 1


def test_script_reads_the_numbers_that_the_table_has(explorer: Callable) -> None:
    root = explorer(ATTENTION)
    block = re.match(r"Block (\d+),", words(root)).group(1)
    head = root.get_by_text(f"block {block}", exact=True)
    cells = head.locator("xpath=../td").all_text_contents()
    drawn = re.findall(r"largest (\S+) at", words(root))
    assert drawn == [cell.split()[0].replace("-", "−") for cell in cells]


def test_script_finds_the_row_that_was_chosen(explorer: Callable) -> None:
    root = explorer(ATTENTION)
    data, scales, _ = packed(root)
    root.get_by_role("combobox", name="Image").select_option(index=1)
    for name, value in (("Block", 1), ("Head", 2)):
        root.get_by_role("slider", name=name).fill(str(value))
    root.get_by_label("patch in row 1, column 4", exact=True).click()
    largest = [abs(float(text.replace("−", "-"))) for text in re.findall(r"largest (\S+) at", words(root))]
    assert largest == pytest.approx(scales[:, 1, 1, 2, data["extra"] + 3], abs=6e-4)


def test_patch_is_chosen_by_arrow_keys(explorer: Callable) -> None:
    root = explorer(ATTENTION)
    reachable = root.locator(".explorer-patches button[tabindex='0']")
    reachable.focus()
    place = reachable.get_attribute("aria-label")
    moves(root, lambda: root.page.keyboard.press("ArrowRight"))
    row, column = map(int, re.findall(r"\d+", place))
    assert f"from row {row}, column {column + 1} " in words(root)
    assert reachable.count() == 1
    assert root.page.evaluate("document.activeElement.ariaLabel") == f"patch in row {row}, column {column + 1}"


def test_patch_is_chosen_by_touch_and_by_click_on_a_map(explorer: Callable) -> None:
    root = explorer(ATTENTION, width=390)
    moves(root, lambda: root.get_by_label("patch in row 1, column 1", exact=True).tap())
    assert "from row 1, column 1 " in words(root)
    panel = root.locator(".explorer-panels canvas").last
    moves(root, lambda: panel.click(position={"x": 3, "y": panel.bounding_box()["height"] - 4}))
    assert re.search(r"from row (?!1,)\d+, column 1 ", words(root))
    top, last = root.locator(".explorer-image").bounding_box()["y"], panel.bounding_box()
    assert last["y"] + last["height"] - top < 600  # the image and all maps are on one screen of a phone
    class_token = root.get_by_role("button", name="Ask the class token")
    size = [class_token.bounding_box()[side] for side in ("width", "height")]
    moves(root, class_token.tap)
    assert "from the class token" in words(root)
    assert [class_token.bounding_box()[side] for side in ("width", "height")] == size


def test_maps_of_a_patch_are_shown_to_a_mouse_that_passes_and_kept_when_clicked(explorer: Callable) -> None:
    root = explorer(ATTENTION)
    patch, away = root.get_by_label("patch in row 1, column 4", exact=True), root.get_by_role("combobox", name="Image")
    captions = root.locator(".explorer-panels figcaption")
    first, told, kept = pictures(root), captions.all_inner_texts(), chosen(root)
    patch.hover()
    passed = pictures(root)
    assert passed != first
    assert captions.all_inner_texts() != told
    assert chosen(root) == kept
    away.hover()
    assert (pictures(root), captions.all_inner_texts(), chosen(root)) == (first, told, kept)
    patch.click()
    away.hover()
    assert pictures(root) == passed
    assert "from row 1, column 4 " in words(root)
    assert patch.get_attribute("aria-pressed") == "true"


def test_keys_choose_for_the_kept_patch_wherever_a_mouse_rests(explorer: Callable) -> None:
    root = explorer(ATTENTION)
    kept = re.search(r"from row \d+, column \d+ ", words(root)).group()
    slider = root.get_by_role("slider", name="Block")
    slider.focus()
    root.get_by_label("patch in row 1, column 4", exact=True).hover()
    moves(root, lambda: root.page.keyboard.press("ArrowRight"))
    assert kept in words(root)
    shown = pictures(root)
    slider.hover()
    assert pictures(root) == shown


def test_scales_have_the_numbers_of_their_ends(explorer: Callable) -> None:
    root = explorer(ATTENTION)
    data, scales, steps = packed(root)
    of_row = scales[:, data["layers"].index(int(words(root).split(",")[0].split()[1])), 0, 0]  # (models, queries)
    signed = steps.reshape(len(steps), -1).min(axis=1) < 0

    def ends_at(largest: np.ndarray) -> None:
        low, high = zip(*root.evaluate(ENDS), strict=True)
        assert [float(end) for end in high] == pytest.approx(largest, rel=6e-3)
        assert low == tuple(f"−{end}" if below else "0" for end, below in zip(high, signed, strict=True))
        assert all(len(end.replace(".", "").lstrip("0")) <= 3 for end in high)

    middle = data["grid"] // 2 * (data["grid"] + 1)
    ends_at(of_row[:, data["extra"] + middle])
    root.get_by_label("patch in row 1, column 4", exact=True).hover()
    ends_at(of_row[:, data["extra"] + 3])
    root.get_by_role("combobox", name="Full colour is").select_option(index=1)
    ends_at(np.full(len(scales), of_row[:, data["extra"] + middle].max()))
    root.get_by_role("combobox", name="Show").select_option(index=1)
    assert all(low == f"−{high}" for low, high in root.evaluate(ENDS)), "less their mean, some are below zero"


@pytest.mark.parametrize("control", ["Block", "Head"])
def test_block_and_head_are_chosen_by_keyboard(explorer: Callable, control: str) -> None:
    root = explorer(ATTENTION)
    slider = root.get_by_role("slider", name=control)
    slider.focus()
    moves(root, lambda: root.page.keyboard.press("ArrowRight"))
    assert slider.get_attribute("aria-valuetext") in words(root)


def test_image_is_chosen_and_centred(explorer: Callable) -> None:
    root = explorer(ATTENTION)
    moves(root, lambda: root.get_by_role("combobox", name="Image").select_option(index=2))
    assert "of image 3" in words(root)
    moves(root, lambda: root.get_by_role("combobox", name="Show").select_option(index=1))
    assert "less the mean" in words(root)


def test_collapse_follows_epoch_and_measure(explorer: Callable) -> None:
    root = explorer(COLLAPSE)
    root.get_by_role("slider", name="Epoch").focus()
    moves(root, lambda: root.page.keyboard.press("Home"))
    assert "epoch 0." in words(root)
    moves(root, lambda: root.get_by_role("combobox", name="Compare the maps of").select_option(index=1))
    assert words(root).startswith("same image, rows centred")


def test_pair_of_blocks_is_shown_to_a_mouse_that_passes_and_kept_when_clicked(explorer: Callable) -> None:
    root = explorer(COLLAPSE)
    panel, caption = (root.locator(f".explorer-panels {part}").first for part in ("canvas", "figcaption"))
    corner, said = {"x": panel.bounding_box()["width"] - 3, "y": 3}, words(root)
    panel.hover(position=corner)
    assert "blocks 0 and 23:" in caption.inner_text()
    root.get_by_role("combobox", name="Compare the maps of").hover()
    assert "blocks 11 and 12:" in caption.inner_text()
    assert words(root) == said
    root.get_by_role("slider", name="Other block").focus()
    panel.hover(position=corner)
    moves(root, lambda: root.page.keyboard.press("ArrowRight"))
    assert "blocks 11 and 13:" in words(root)
    moves(root, lambda: panel.click(position=corner))
    assert "blocks 0 and 23:" in words(root)
    root.get_by_role("slider", name="Other block").focus()
    moves(root, lambda: root.page.keyboard.press("ArrowLeft"))
    assert "blocks 0 and 22:" in words(root)


def test_replacement_answers_when_pressed_and_not_before(explorer: Callable) -> None:
    root = explorer(COLLAPSE)
    answer = root.locator("fieldset [role=status]")
    assert "Guess first" in answer.inner_text()
    root.get_by_role("combobox", name="by").select_option(label="the uniform map")
    root.get_by_role("button", name="Replace the map").click()
    rows = answer.locator("tbody tr")
    assert rows.count() == root.locator(".explorer-panels canvas").count()
    assert re.search(r"[+−]\d\.\d{3} ± \d\.\d{3}\s+[+−]\d+\.\d ± \d+\.\d points", rows.first.inner_text())
    root.get_by_role("slider", name="Replace the map of block").press("ArrowRight")
    assert "Guess first" in answer.inner_text()


def test_epochs_play_to_the_end_and_stop_when_asked(explorer: Callable) -> None:
    root = explorer(COLLAPSE)
    slider = root.get_by_role("slider", name="Epoch")
    last = slider.input_value()
    root.get_by_role("button", name="Play").click()
    root.page.wait_for_function("slider => slider.value === '2'", arg=slider.element_handle())
    root.get_by_role("button", name="Pause").click()
    stopped = slider.input_value()
    root.page.wait_for_timeout(800)
    assert slider.input_value() == stopped
    root.get_by_role("button", name="Play").click()
    root.page.wait_for_function(f"slider => slider.value === '{last}'", arg=slider.element_handle())
    root.get_by_role("button", name="Play").wait_for()


def test_with_little_motion_an_epoch_follows_on_each_press(explorer: Callable) -> None:
    root = explorer(COLLAPSE, reduced_motion="reduce")
    slider = root.get_by_role("slider", name="Epoch")
    for epoch in ("0", "1"):
        root.get_by_role("button", name="Next").click()
        root.page.wait_for_timeout(500)
        assert slider.input_value() == epoch


@pytest.mark.parametrize(("chapter", "sliders"), [(ATTENTION, ("Block", "Head")), (COLLAPSE, ("Epoch", "One block"))])
def test_a_link_opens_the_same_view_again(explorer: Callable, chapter: str, sliders: tuple[str, ...]) -> None:
    root = explorer(chapter)
    for name in sliders:
        root.get_by_role("slider", name=name).fill("1")
    root.get_by_role("combobox").nth(1 if chapter == ATTENTION else 0).select_option(index=1)
    root.get_by_role("button", name="Link to this view").click()
    again = explorer(chapter, fragment=root.page.evaluate("location.hash"))
    assert words(again) == words(root)
    assert pictures(again) == pictures(root)


def test_one_scale_for_all_networks_makes_none_darker(explorer: Callable) -> None:
    root = explorer(ATTENTION)
    before = pictures(root)
    root.get_by_role("combobox", name="Full colour is").select_option(index=1)
    changed = [old != new for old, new in zip(before, pictures(root), strict=True)]
    assert changed.count(False) == 1, "the network with the largest weight keeps its colours"
