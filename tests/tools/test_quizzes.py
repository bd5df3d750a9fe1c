"""The quizzes: five questions a chapter, one right answer each, and a reason for every answer."""

import re

import pytest

from tools.exercises.bank import chapter_files

QUESTION = re.compile(r"^\*\*Question (\d)\.\*\* (.*?)(?=^\*\*Question|\Z)", re.M | re.S)
ANSWER = re.compile(r"^```\{dropdown\} (?P<title>[^\n]+)\n(?P<text>.*?)^```$", re.M | re.S)


def quiz_of(chapter: int) -> str:
    text = chapter_files()[chapter].read_text(encoding="utf-8")
    return text[text.index("\n## Quiz\n") : text.index("\n## Exercises\n")]


@pytest.mark.parametrize("chapter", chapter_files())
def test_five_questions_each_with_one_right_answer_and_reasons(chapter: int) -> None:
    questions = QUESTION.findall(quiz_of(chapter))
    assert [int(number) for number, _ in questions] == [1, 2, 3, 4, 5]
    for number, body in questions:
        answers = [(found["title"], found["text"].strip()) for found in ANSWER.finditer(body)]
        verdicts = [re.match(r"\*\*(Right|No)\.\*\*", text) for _, text in answers]
        assert all(verdicts), f"question {number}"
        assert 3 <= len(answers) <= 4
        assert [verdict[1] for verdict in verdicts].count("Right") == 1
        assert all(len(text.split()) >= 7 for _, text in answers), "an answer without its reason"
        assert len({title for title, _ in answers}) == len(answers)


def test_the_right_answer_has_no_habitual_place() -> None:
    places = set()
    for chapter in chapter_files():
        for _, body in QUESTION.findall(quiz_of(chapter)):
            places.add([found["text"].startswith("**Right") for found in ANSWER.finditer(body)].index(True))
    assert len(places) >= 3
