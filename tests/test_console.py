"""What goes to a terminal: lines broken at words, in place of the progress line."""

import io

from mace_md.console import fitted


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_are_broken_at_words_to_the_width_of_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    text = "model: " + "a-long-word/with.all/kinds-of " * 12 + "https://example.org/" + 80 * "x"
    lines = fitted(text, Terminal()).removeprefix("\r\033[K").split("\n")
    assert len(lines) > 5
    assert all(len(line) <= 60 for line in lines[:-1])
    assert all(line.startswith("    ") for line in lines[1:])
    assert " ".join(" ".join(lines).split()) == " ".join(text.split())  # no word was cut
    assert fitted(text, io.StringIO()) == text
