"""The buffer of a streamed text, and the size of the text in a reply."""

import sys

import pytest

from gproxy.protocols.hub import TextBuffer, text_bytes


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


@pytest.mark.parametrize(
    ("reply", "size"),
    [
        ({"choices": [{"message": {"role": "assistant", "content": "hällo", "reasoning_content": "hm"}}]}, 8),
        ({"choices": [{"message": {"tool_calls": [{"id": "call_1", "function": {"arguments": "{}"}}]}}]}, 2),
        (
            {
                "content": [
                    {"type": "text", "text": "hi"},
                    {"type": "thinking", "thinking": "hm", "signature": "s" * 99},
                ]
            },
            4,
        ),
        ({"content": ["a", "b", 7, None, ["c"]]}, 3),
        ({"candidates": [{"content": {"parts": [{"text": "東"}], "role": "model"}}]}, 3),
        ({"id": "resp_1", "model": "m", "text": 7}, 0),
        ("content", 0),
        (None, 0),
    ],
)
def test_the_text_of_a_reply_is_counted_in_bytes_and_no_other_field(reply, size):
    assert text_bytes(reply) == size
