"""Values off a client's wire: of the type that they must have, or a refusal that names their place."""

import base64

import pytest

from gproxy.errors import BadRequest
from gproxy.protocols import validate
from gproxy.protocols.hub import Media
from gproxy.protocols.losses import Losses

VALUES = {dict: {"a": 1}, list: [1], str: "a", bool: True, int: 5, float: 1.5, type(None): None}
NAMED = {
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
@pytest.mark.parametrize("given", VALUES)
def test_a_value_of_another_type_is_refused_by_its_place(read, kind, expected, given):
    value = VALUES[given]
    if given is kind:
        assert read(value, "a.b") is value
        return
    with pytest.raises(BadRequest) as refused:
        read(value, "a.b")
    assert refused.value.message == f"invalid_request: a.b: expected {expected}, got {NAMED[given]}"


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
@pytest.mark.parametrize("given", VALUES)
def test_a_field_may_be_absent_or_null_and_not_of_another_type(read, kinds, given):
    absent = {} if read is validate.optional_obj else None
    assert read({}, "name", "place") == absent
    if given is type(None):
        assert read({"name": None}, "name", "place") == absent
    elif given in kinds:
        assert read({"name": VALUES[given]}, "name", "place") == VALUES[given]
    else:
        with pytest.raises(BadRequest, match=r"place\.name: expected"):
            read({"name": VALUES[given]}, "name", "place")
        with pytest.raises(BadRequest, match=r"^invalid_request: name: expected"):
            read({"name": VALUES[given]}, "name")


@pytest.mark.parametrize(
    ("value", "minimum", "found"),
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
def test_a_whole_number_however_it_is_written(value, minimum, found):
    if found is None:
        with pytest.raises(BadRequest, match=r"^invalid_request: n: "):
            validate.optional_count({"n": value}, "n", minimum=minimum)
    else:
        assert validate.optional_count({"n": value}, "n", minimum=minimum) == found


@pytest.mark.parametrize(
    ("value", "minimum", "ok"), [(0.5, None, True), (-2, None, True), (0, 0, True), (-0.1, 0, False)]
)
def test_a_number_and_its_bound(value, minimum, ok):
    if ok:
        assert validate.optional_number({"t": value}, "t", minimum=minimum) == value
    else:
        with pytest.raises(BadRequest, match="t: must be at least 0"):
            validate.optional_number({"t": value}, "t", minimum=minimum)


def test_a_list_of_objects_each_with_its_place():
    assert validate.objects([{"a": 1}, {}], "x") == [("x[0]", {"a": 1}), ("x[1]", {})]
    assert validate.objects(None, "x") == []
    assert validate.objects([], "x") == []
    with pytest.raises(BadRequest, match=r"x\[1\]: expected an object, got null"):
        validate.objects([{}, None], "x")
    with pytest.raises(BadRequest, match="x: expected a list, got an object"):
        validate.objects({}, "x")


def test_a_text_or_a_list_of_texts():
    assert validate.texts(None, "stop") == ()
    assert validate.texts("a", "stop") == ("a",)
    assert validate.texts(["a", ""], "stop") == ("a", "")
    with pytest.raises(BadRequest, match=r"stop\[1\]: expected a string, got a whole number"):
        validate.texts(["a", 1], "stop")
    with pytest.raises(BadRequest, match="stop: expected a list"):
        validate.texts({"a": 1}, "stop")


def test_a_spelling_that_no_table_knows_is_refused_with_those_that_it_does():
    assert validate.lookup("a", {"a": 1, "b": 2}, "x") == 1
    assert validate.lookup(None, {"a": 1}, "x") is None
    with pytest.raises(BadRequest, match="x: 'c' is unknown; known: a, b"):
        validate.lookup("c", {"a": 1, "b": 2}, "x")
    with pytest.raises(BadRequest) as refused:
        validate.lookup("y" * 10_000, {"a": 1}, "x")
    assert len(refused.value.message) < 200


@pytest.mark.parametrize("value", [0, 7, 1.5, True, [], ["a"], {}, {"a": 1}])
def test_a_spelling_that_is_no_text_is_refused_and_no_fault_of_ours(value):
    with pytest.raises(BadRequest, match=r"^invalid_request: x: expected a string, got "):
        validate.lookup(value, {"a": 1, 7: 2}, "x")


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        ("{}", {}),
        ("", {}),
        (" \n", {}),
        # what is no object is kept as it was written, and told
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
def test_the_arguments_of_a_call_as_an_object(written, found):
    losses = Losses({"arguments": "messages.tool_calls"})
    assert validate.arguments_object(written, losses) == ({"raw_arguments": written} if found is None else found)
    assert losses.names() == (("messages.tool_calls",) if found is None else ())


def test_json_text_is_compact_and_a_deep_value_is_refused():
    assert validate.dumps({"a": [1, "ü"]}) == '{"a":[1,"ü"]}'
    deep: dict = {}
    for _ in range(1000):
        deep = {"a": deep}
    with pytest.raises(BadRequest, match="nested too deeply"):
        validate.dumps(deep)


AAAA = base64.b64encode(b"\0\0\0").decode()


@pytest.mark.parametrize(
    ("url", "kind", "name", "found"),
    [
        (f"data:image/png;base64,{AAAA}", "image", None, Media("image", "image/png", AAAA)),
        (f"data:IMAGE/PNG;BASE64,{AAAA}", "image", None, Media("image", "image/png", AAAA)),
        (f"data:image/png;name=a.png;base64,{AAAA}", "image", None, Media("image", "image/png", AAAA)),
        # the type decides what it is
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
        # addresses
        ("https://x/a.png", "image", None, Media("image", None, url="https://x/a.png")),
        ("https://x/a", "file", "a.txt", Media("file", "text/plain", url="https://x/a", name="a.txt")),
    ],
)
def test_a_url_may_hold_its_data(url, kind, name, found):
    assert validate.media_of_url(url, kind, "place", name) == found


@pytest.mark.parametrize(
    "url", ["data:image/png", "data:image/png;base64", "data:", "data:image/png;base64,not base64!", "data:;base64,a,b"]
)
def test_a_data_url_that_holds_none_is_refused(url):
    with pytest.raises(BadRequest, match="place: not"):
        validate.media_of_url(url, "image", "place")


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
def test_what_is_clearly_no_base64_is_refused(data, ok):
    if ok:
        assert validate.check_base64(data, "place") is data
    else:
        with pytest.raises(BadRequest, match="place: not base64"):
            validate.check_base64(data, "place")


def test_the_bytes_of_a_file_as_media():
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
def test_the_text_of_a_file(data, text):
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
def test_a_type_by_a_name(name, media_type):
    assert validate.media_type_of(name) == media_type
    assert validate.media_type_of(None) is None
    assert validate.media_type_of("") is None


@pytest.mark.parametrize(
    ("media_type", "ending"), [("image/jpeg", "jpg"), ("text/plain", "txt"), ("x/y", "bin"), (None, "bin")]
)
def test_a_name_by_a_type(media_type, ending):
    assert validate.file_extension(media_type) == ending
