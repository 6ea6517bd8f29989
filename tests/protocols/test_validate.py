"""Values in a client's body have the required type, or raise BadRequest with their path."""

import base64
import time

import pytest

from gproxy.errors import BadRequest
from gproxy.protocols import validate
from gproxy.protocols.hub import Media
from gproxy.protocols.losses import Losses

VALUES = {dict: {"a": 1}, list: [1], str: "a", bool: True, int: 5, float: 1.5, type(None): None}
TYPE_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "null",
}


@pytest.mark.parametrize(
    ("read", "kind", "expected"),
    [(validate.obj, dict, "an object"), (validate.arr, list, "a list"), (validate.text, str, "a string")],
)
@pytest.mark.parametrize("actual", VALUES)
def test_a_value_of_another_type_is_a_bad_request_with_its_path(read, kind, expected, actual):
    value = VALUES[actual]
    if actual is kind:
        assert read(value, "a.b") is value
        return
    with pytest.raises(BadRequest) as raised:
        read(value, "a.b")
    assert raised.value.message == f"invalid_request: a.b: expected {expected}, got {TYPE_NAMES[actual]}"


@pytest.mark.parametrize(
    ("read", "kinds"),
    [
        (validate.optional_obj, {dict}),
        (validate.optional_text, {str}),
        (validate.optional_flag, {bool}),
        (validate.optional_number, {int, float}),
        (validate.optional_count, {int}),
    ],
)
@pytest.mark.parametrize("actual", VALUES)
def test_a_field_may_be_absent_or_null_and_not_of_another_type(read, kinds, actual):
    absent = {} if read is validate.optional_obj else None
    assert read({}, "name", "place") == absent
    if actual is type(None):
        assert read({"name": None}, "name", "place") == absent
    elif actual in kinds:
        assert read({"name": VALUES[actual]}, "name", "place") == VALUES[actual]
    else:
        with pytest.raises(BadRequest, match=r"place\.name: expected"):
            read({"name": VALUES[actual]}, "name", "place")
        with pytest.raises(BadRequest, match=r"^invalid_request: name: expected"):
            read({"name": VALUES[actual]}, "name")


@pytest.mark.parametrize(
    ("value", "minimum", "expected"),
    [
        (5, 0, 5),
        (0, 0, 0),
        (5.0, 0, 5),
        ("5", 0, 5),
        ("-1", -1, -1),
        (-1, -1, -1),
        (10**30, 0, 10**30),
        # refused
        (-1, 0, None),
        ("-1", 0, None),
        (0, 1, None),
        (5.5, 0, None),
        ("5.0", 0, None),
        ("five", 0, None),
        ("", 0, None),
        ("9" * 19, 0, None),
        (True, 0, None),
        (float("inf"), 0, None),
        ([5], 0, None),
    ],
)
def test_a_whole_number_may_be_written_as_a_float_or_a_string(value, minimum, expected):
    if expected is None:
        with pytest.raises(BadRequest, match=r"^invalid_request: n: "):
            validate.optional_count({"n": value}, "n", minimum=minimum)
    else:
        assert validate.optional_count({"n": value}, "n", minimum=minimum) == expected


@pytest.mark.parametrize(
    ("value", "minimum", "ok"), [(0.5, None, True), (-2, None, True), (0, 0, True), (-0.1, 0, False)]
)
def test_a_number_below_its_minimum_is_a_bad_request(value, minimum, ok):
    if ok:
        assert validate.optional_number({"t": value}, "t", minimum=minimum) == value
    else:
        with pytest.raises(BadRequest, match="t: must be at least 0"):
            validate.optional_number({"t": value}, "t", minimum=minimum)


def test_the_objects_of_a_list_have_their_paths():
    assert validate.objects([{"a": 1}, {}], "x") == [("x[0]", {"a": 1}), ("x[1]", {})]
    assert validate.objects(None, "x") == []
    assert validate.objects([], "x") == []
    with pytest.raises(BadRequest, match=r"x\[1\]: expected an object, got null"):
        validate.objects([{}, None], "x")
    with pytest.raises(BadRequest, match="x: expected a list, got an object"):
        validate.objects({}, "x")


def test_a_string_or_a_list_of_strings_reads_as_a_tuple():
    assert validate.texts(None, "stop") == ()
    assert validate.texts("a", "stop") == ("a",)
    assert validate.texts(["a", ""], "stop") == ("a", "")
    with pytest.raises(BadRequest, match=r"stop\[1\]: expected a string, got a whole number"):
        validate.texts(["a", 1], "stop")
    with pytest.raises(BadRequest, match="stop: expected a list"):
        validate.texts({"a": 1}, "stop")


def test_an_unknown_value_is_a_bad_request_that_names_the_known_ones():
    assert validate.lookup("a", {"a": 1, "b": 2}, "x") == 1
    assert validate.lookup(None, {"a": 1}, "x") is None
    with pytest.raises(BadRequest, match="x: 'c' is unknown; known: a, b"):
        validate.lookup("c", {"a": 1, "b": 2}, "x")
    with pytest.raises(BadRequest) as raised:
        validate.lookup("y" * 10_000, {"a": 1}, "x")
    assert len(raised.value.message) < 200


@pytest.mark.parametrize("value", [0, 7, 1.5, True, [], ["a"], {}, {"a": 1}])
def test_a_looked_up_value_that_is_not_a_string_is_a_bad_request(value):
    with pytest.raises(BadRequest, match=r"^invalid_request: x: expected a string, got "):
        validate.lookup(value, {"a": 1, 7: 2}, "x")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        ("{}", {}),
        ("", {}),
        (" \n", {}),
        # text that is not an object is kept as it was written, and reported as a loss
        ('{"a": ', None),
        ("[1]", None),
        ("null", None),
        ("7", None),
        ('"text"', None),
        ("{'a': 1}", None),
        ("[" * 100_000, None),
        ('{"a": ' * 5000, None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_arguments_of_a_call_become_an_object(written, expected):
    losses = Losses({"arguments": "messages.tool_calls"})
    assert validate.arguments_object(written, losses) == ({"raw_arguments": written} if expected is None else expected)
    assert losses.names() == (("messages.tool_calls",) if expected is None else ())


def test_json_text_is_compact_and_a_deep_value_is_a_bad_request():
    assert validate.dumps({"a": [1, "ü"]}) == '{"a":[1,"ü"]}'
    deep: dict = {}
    for _ in range(1000):
        deep = {"a": deep}
    with pytest.raises(BadRequest, match="nested too deeply"):
        validate.dumps(deep)


AAAA = base64.b64encode(b"\0\0\0").decode()


@pytest.mark.parametrize(
    ("url", "kind", "name", "expected"),
    [
        (f"data:image/png;base64,{AAAA}", "image", None, Media("image", "image/png", AAAA)),
        (f"data:IMAGE/PNG;BASE64,{AAAA}", "image", None, Media("image", "image/png", AAAA)),
        (f"data:image/png;name=a.png;base64,{AAAA}", "image", None, Media("image", "image/png", AAAA)),
        # the media type decides the kind
        (f"data:application/pdf;base64,{AAAA}", "image", None, Media("file", "application/pdf", AAAA)),
        (f"data:audio/wav;base64,{AAAA}", "file", None, Media("audio", "audio/wav", AAAA)),
        (f"data:;base64,{AAAA}", "file", "a.PDF", Media("file", "application/pdf", AAAA, name="a.PDF")),
        (f"data:;base64,{AAAA}", "image", None, Media("image", None, AAAA)),
        # without base64 it is percent-encoded text
        (
            *("data:text/plain,a%20b%C3%BC+", "file", None),
            Media("file", "text/plain", base64.b64encode("a bü+".encode()).decode()),
        ),
        (
            *("data:text/plain;charset=utf-8,hi", "file", None),
            Media("file", "text/plain", base64.b64encode(b"hi").decode()),
        ),
        # URLs
        ("https://x/a.png", "image", None, Media("image", None, url="https://x/a.png")),
        ("https://x/a", "file", "a.txt", Media("file", "text/plain", url="https://x/a", name="a.txt")),
    ],
)
def test_media_of_a_url_or_data_url(url, kind, name, expected):
    assert validate.media_of_url(url, kind, "place", name) == expected


@pytest.mark.parametrize(
    "url", ["data:image/png", "data:image/png;base64", "data:", "data:image/png;base64,not base64!", "data:;base64,a,b"]
)
def test_an_invalid_data_url_is_a_bad_request(url):
    with pytest.raises(BadRequest, match="place: not"):
        validate.media_of_url(url, "image", "place")


def test_a_long_invalid_data_url_is_refused_in_linear_time():
    started = time.process_time()
    for part in (";", ";a", "a"):
        with pytest.raises(BadRequest, match="not a readable data URL"):
            validate.media_of_url("data:" + part * 500_000, "image", "place")
    assert time.process_time() - started < 0.05


@pytest.mark.parametrize(
    ("data", "ok"),
    [
        ("", True),
        ("AAAA", True),
        ("AA==", True),
        ("AA-_", True),
        ("AA\r\nAA\n", True),
        ("A" * 100_000, True),
        ("https://x", False),
        ("AA==AA", False),
        ("{" + "A" * 1000, False),
        ("A" * 1000 + "}", False),
        ("ü", False),
    ],
    ids=lambda value: str(value)[:20],
)
def test_data_that_is_not_base64_is_a_bad_request(data, ok):
    if ok:
        assert validate.check_base64(data, "place") is data
    else:
        with pytest.raises(BadRequest, match="place: not base64"):
            validate.check_base64(data, "place")


def test_media_of_the_bytes_of_a_file():
    assert validate.media_of_bytes("image/png", b"\0\0\0") == Media("image", "image/png", AAAA)
    assert validate.media_of_bytes("application/pdf", b"\0\0\0") == Media("file", "application/pdf", AAAA)
    assert validate.data_url("image/png", AAAA) == f"data:image/png;base64,{AAAA}"
    assert validate.data_url(None, AAAA) == f"data:application/octet-stream;base64,{AAAA}"
    assert validate.media_of_url(validate.data_url("image/png", AAAA), "image", "place") == Media(
        "image", "image/png", AAAA
    )


@pytest.mark.parametrize(
    ("data", "text"), [(base64.b64encode("bü".encode()).decode(), "bü"), ("", ""), ("//79", None), ("A", None)]
)
def test_the_text_of_base64_data(data, text):
    assert validate.text_of_base64(data) == text


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.pdf", "application/pdf"),
        ("A.JPG", "image/jpeg"),
        ("a.b.md", "text/markdown"),
        ("pdf", None),
        ("a.xyz", None),
    ],
)
def test_a_media_type_by_a_file_name(name, media_type):
    assert validate.media_type_of(name) == media_type
    assert validate.media_type_of(None) is None
    assert validate.media_type_of("") is None


@pytest.mark.parametrize(
    ("media_type", "extension"), [("image/jpeg", "jpg"), ("text/plain", "txt"), ("x/y", "bin"), (None, "bin")]
)
def test_a_file_extension_by_a_media_type(media_type, extension):
    assert validate.file_extension(media_type) == extension
