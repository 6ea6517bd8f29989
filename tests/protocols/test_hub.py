"""The buffer of a streamed text."""

import sys

from gproxy.protocols.hub import TextBuffer


def test_a_text_buffer_returns_the_added_texts():
    buffer = TextBuffer()
    assert (str(buffer), buffer.length) == ("", 0)
    for text in ("a", "", "ä😀", "\ud83d", "漢"):
        buffer.add(text)
    assert (str(buffer), buffer.length) == ("aä😀\ud83d漢", 5)


def test_a_text_buffer_takes_little_more_memory_than_its_text():
    buffer = TextBuffer()
    for number in range(1000):
        buffer.add(f"{number:04} ")
    assert sys.getsizeof(buffer._content) < 1.3 * len(str(buffer))
