"""What both protocols of OpenAI share: the end user's id, and errors."""

import pytest

from gproxy.protocols import openai
from gproxy.protocols.losses import Losses


@pytest.mark.parametrize("user", ["u", "x" * openai.MAX_USER])
def test_the_id_of_an_end_user_is_sent_as_it_is(user):
    losses = Losses()
    assert (openai.write_user(user, losses), losses.names()) == (user, ())


@pytest.mark.parametrize("user", [None, ""])
def test_no_end_user_is_no_field(user):
    assert openai.write_user(user, Losses()) is None


def test_a_long_id_of_an_end_user_becomes_a_digest_that_is_always_the_same():
    losses = Losses()
    long = "x" * (openai.MAX_USER + 1)
    digest = openai.write_user(long, losses)
    assert digest.startswith("user_") and len(digest) <= openai.MAX_USER
    assert losses.names() == ("end_user",)
    assert openai.write_user(long, Losses()) == digest != openai.write_user(long + "y", Losses())


@pytest.mark.parametrize(
    ("status", "body", "read_as"),
    [
        (503, {"error": "busy"}, (503, "api_error", "busy")),
        (200, {"error": "busy"}, (500, "api_error", "busy")),
        (0, {"error": {"message": "no", "code": 404}}, (404, "api_error", "no")),
        (0, {"error": {"message": "no", "code": 42, "type": "rate_limit_error"}}, (429, "rate_limit_error", "no")),
        (400, {"error": {"message": "no", "code": "", "type": "x"}}, (400, "x", "no")),
        (0, {"type": "error", "message": "no", "code": "unheard"}, (500, "unheard", "no")),
        (500, {"error": {"code": "no message"}}, None),
        (200, {"id": "1"}, None),
    ],
)
def test_an_error_is_read_from_a_body_and_from_an_event(status, body, read_as):
    assert openai.read_error(status, body) == read_as
