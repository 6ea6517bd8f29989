import sys

from gproxy.protocols.hub import TextBuffer


def test_pieces_are_the_text_that_came_in_them():
    pieces = TextBuffer()
    assert (str(pieces), pieces.length) == ("", 0)
    for text in ("a", "", "ä😀", "\ud83d", "漢"):
        pieces.add(text)
    assert (str(pieces), pieces.length) == ("aä😀\ud83d漢", 5)


def test_pieces_of_a_long_stream_take_little_more_than_its_text():
    pieces = TextBuffer()
    for number in range(1000):
        pieces.add(f"{number:04} ")
    assert sys.getsizeof(pieces._content) < 1.3 * len(str(pieces))
