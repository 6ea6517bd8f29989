"""Requests and replies as hub values, by name, for the tests that translate them through every protocol."""

import base64

from gproxy.protocols import hub

PROVIDER, MODEL, CLIENT_MODEL = "house", "vendor-model", "client-model"
# Traits of vendors that accept every field of their protocol.
TRAITS = {"openai_chat": frozenset(("custom_tools",)), "gemini": frozenset(), "anthropic": frozenset(("fast",))}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(60)).decode()
PDF = base64.b64encode(b"%PDF-1.7\n" + bytes(60)).decode()
WAV = base64.b64encode(b"RIFF" + bytes(60)).decode()
TRICKY = 'Grüße 東京 🗼👩‍👩‍👧 \u2028\u2029 "quoted" \\ back\ttab </script> data: [DONE] \ufeff'
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "where"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
F = hub.Tool("f", "looks it up", SCHEMA)
G = hub.Tool("g", None, {"type": "object", "properties": {"q": {"type": "string"}}})
SHELL = hub.Tool("shell", "runs a command")
Q = hub.Turn("user", (hub.Text("What is it?"),))
A = hub.Turn("assistant", (hub.Text("It is a tower."),))
CALLED = hub.Turn("assistant", (hub.Text("I look."), hub.ToolCall("toolu_1", "f", '{"city":"東京","days":2}')))
PARALLEL = hub.Turn(
    "assistant",
    (
        hub.ToolCall("toolu_1", "f", '{"city":"Rome"}'),
        hub.ToolCall("toolu_2", "g", "{}"),
        hub.ToolCall("c-3", "f", "{}"),
    ),
)


# Signature values as the reader of each protocol writes them into the hub.
OWN_SIGNATURES = {
    "anthropic": "thinking:c2ln",
    "openai_responses": "rs_1:c2ln",
    "openai_chat": '[{"type":"reasoning.encrypted","data":"c2ln"}]',
    "gemini": "c2ln",
}


def target(protocol: str, **more) -> hub.Target:
    return hub.Target(PROVIDER, MODEL, traits=TRAITS.get(protocol, frozenset()), **more)


def context(request: hub.Request | None = None, **more) -> hub.Context:
    return hub.Context(CLIENT_MODEL, PROVIDER, "req_1", 1_700_000_000, request or hub.Request(), **more)


def results_turn(*results: hub.ToolResult, text: str | None = None) -> hub.Turn:
    return hub.Turn("user", (*results, *((hub.Text(text),) if text else ())))


def request(*turns: hub.Turn, **more) -> hub.Request:
    return hub.Request(turns, max_tokens=256, **more)


def result(call_id: str, text: str, **more) -> hub.ToolResult:
    return hub.ToolResult(call_id, (hub.Text(text),), **more)


REQUESTS = {
    "text": request(Q),
    "system": request(Q, system=("Be brief.",)),
    "system of two": request(Q, system=("Be brief.", "Be kind.")),
    "later system": request(Q, A, hub.Turn("system", (hub.Text("From now on in German."),)), Q),
    "multi turn": request(Q, A, hub.Turn("user", (hub.Text("And"), hub.Text("then?"))), A, Q),
    "ends with the assistant": request(Q, A),
    "begins with the assistant": request(A, Q),
    "no maximum": hub.Request((Q,)),
    "image": request(hub.Turn("user", (hub.Text("see"), hub.Media("image", "image/png", PNG)))),
    "image by url": request(
        hub.Turn("user", (hub.Media("image", None, url="https://example.com/a.png"), hub.Text("see")))
    ),
    "image with detail": request(hub.Turn("user", (hub.Media("image", "image/png", PNG, detail="high"),))),
    "image of any detail by url": request(
        hub.Turn("user", (hub.Media("image", "image/png", url="https://example.com/a.png", detail="auto"),))
    ),
    "image with a name": request(hub.Turn("user", (hub.Media("image", "image/png", PNG, name="tower.png"),))),
    "image by id": request(hub.Turn("user", (hub.Media("image", file_id="file-1"),))),
    "odd image": request(hub.Turn("user", (hub.Media("image", "image/tiff", PNG),))),
    "pdf": request(hub.Turn("user", (hub.Media("file", "application/pdf", PDF, name="paper.pdf"), hub.Text("read")))),
    "pdf by url": request(hub.Turn("user", (hub.Media("file", "application/pdf", url="https://example.com/a.pdf"),))),
    "file by url": request(hub.Turn("user", (hub.Media("file", None, url="https://example.com/a"),))),
    "named pdf by url": request(
        hub.Turn("user", (hub.Media("file", "application/pdf", url="https://example.com/a.pdf", name="a.pdf"),))
    ),
    "text file": request(
        hub.Turn("user", (hub.Media("file", "text/plain", base64.b64encode(TRICKY.encode()).decode(), name="a.txt"),))
    ),
    "markdown": request(hub.Turn("user", (hub.Media("file", "text/markdown", "IyBHcsO8w59l", name="a.md"),))),
    "pdf without a name": request(hub.Turn("user", (hub.Media("file", "application/pdf", PDF),))),
    "zip": request(hub.Turn("user", (hub.Media("file", "application/zip", PDF, name="a.zip"),))),
    "audio": request(hub.Turn("user", (hub.Media("audio", "audio/wav", WAV), hub.Text("hear")))),
    "odd audio": request(hub.Turn("user", (hub.Media("audio", "audio/ogg", WAV),))),
    "video": request(hub.Turn("user", (hub.Media("video", "video/mp4", WAV),))),
    "image of the assistant": request(Q, hub.Turn("assistant", (hub.Media("image", "image/png", PNG),)), Q),
    "tools": request(Q, tools=(F, G)),
    "strict tool": request(Q, tools=(hub.Tool("f", None, SCHEMA, strict=True),)),
    "lax tool": request(Q, tools=(hub.Tool("f", None, SCHEMA, strict=False),)),
    "tool with no properties": request(Q, tools=(hub.Tool("now", None, {"type": "object", "properties": {}}),)),
    "tool without parameters": request(Q, tools=(hub.Tool("now", "the time", {}),)),
    "tool round trip": request(Q, CALLED, results_turn(result("toolu_1", "42")), tools=(F,)),
    "tool turn and a text": request(Q, CALLED, results_turn(result("toolu_1", "42"), text="go on"), tools=(F,)),
    "tool result is an object": request(Q, CALLED, results_turn(result("toolu_1", '{"deg":3.5}')), tools=(F,)),
    "tool result is an object with spaces": request(
        Q, CALLED, results_turn(result("toolu_1", '{ "deg": 3.5 }')), tools=(F,)
    ),
    "tool result is empty": request(Q, CALLED, results_turn(hub.ToolResult("toolu_1")), tools=(F,)),
    "tool result of two texts": request(
        Q, CALLED, results_turn(hub.ToolResult("toolu_1", (hub.Text("4"), hub.Text("2")))), tools=(F,)
    ),
    "parallel tools": request(
        Q, PARALLEL, results_turn(result("toolu_1", "A"), result("toolu_2", "B"), result("c-3", "C")), tools=(F, G)
    ),
    "two rounds of tools": request(
        Q, CALLED, results_turn(result("toolu_1", "A")), A, Q, CALLED, results_turn(result("toolu_1", "B")), tools=(F,)
    ),
    "tool result with an image": request(
        Q,
        CALLED,
        results_turn(hub.ToolResult("toolu_1", (hub.Text("a map"), hub.Media("image", "image/png", PNG)))),
        tools=(F,),
    ),
    "tool result that is an error": request(Q, CALLED, results_turn(result("toolu_1", "no such city", is_error=True))),
    "failed result with an image": request(
        Q,
        CALLED,
        results_turn(
            hub.ToolResult("toolu_1", (hub.Text("a map"), hub.Media("image", "image/png", PNG)), is_error=True)
        ),
    ),
    "failed result without content": request(Q, CALLED, results_turn(hub.ToolResult("toolu_1", (), is_error=True))),
    "call without a result": request(Q, CALLED, Q),
    "result without a call": request(Q, A, results_turn(result("toolu_1", "42"), text="so?")),
    "foreign ids": request(
        Q,
        hub.Turn("assistant", (hub.ToolCall("call:1/ü", "f", "{}"), hub.ToolCall("x" * 90, "g", "{}"))),
        results_turn(result("call:1/ü", "A"), result("x" * 90, "B")),
    ),
    "arguments with spaces": request(Q, hub.Turn("assistant", (hub.ToolCall("toolu_1", "f", '{ "a" : [1, 2] }'),))),
    "no arguments": request(Q, hub.Turn("assistant", (hub.ToolCall("toolu_1", "f", ""),))),
    "custom tool": request(
        Q,
        hub.Turn("assistant", (hub.ToolCall("toolu_1", "shell", "ls -l\n", is_custom=True),)),
        results_turn(result("toolu_1", "total 0", is_custom=True)),
        tools=(SHELL, F),
    ),
    "choice auto": request(Q, tools=(F, G), choice=hub.ToolChoice("auto")),
    "choice none": request(Q, tools=(F, G), choice=hub.ToolChoice("none")),
    "choice any": request(Q, tools=(F, G), choice=hub.ToolChoice("any")),
    "forced tool": request(Q, tools=(F, G), choice=hub.ToolChoice("any", ("f",))),
    "one of two tools": request(Q, tools=(F, G, SHELL), choice=hub.ToolChoice("any", ("f", "g"))),
    "allowed tools": request(Q, tools=(F, G), choice=hub.ToolChoice("auto", ("f",))),
    "one call at a time": request(Q, tools=(F,), choice=hub.ToolChoice("auto"), parallel=False),
    "one call at a time and no choice": request(Q, tools=(F,), parallel=False),
    "one call at a time and choice none": request(Q, tools=(F,), choice=hub.ToolChoice("none"), parallel=False),
    "thinking hidden without an effort": request(Q, reasoning=hub.Reasoning(is_shown=False)),
    "search and a choice": request(Q, tools=(hub.WebSearch(),), choice=hub.ToolChoice("auto"), parallel=False),
    "parallel calls": request(Q, tools=(F,), parallel=True),
    "search": request(Q, tools=(hub.WebSearch(),)),
    "search in a location": request(
        Q, tools=(hub.WebSearch(("a.com",), (), {"city": "Rome", "country": "IT"}, max_uses=3),)
    ),
    "search with blocked domains": request(Q, tools=(hub.WebSearch(blocked=("b.com",)),)),
    "search beside functions": request(Q, tools=(F, hub.WebSearch())),
    "code and fetch beside functions": request(Q, tools=(F, hub.CodeExecution(), hub.WebFetch())),
    "code and fetch": request(Q, tools=(hub.CodeExecution(), hub.WebFetch())),
    "structured": request(Q, format=hub.Format(SCHEMA, "weather", "the weather", True)),
    "structured with an optional": request(
        Q, format=hub.Format({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}})
    ),
    "any json": request(Q, format=hub.Format()),
    "any json as instructed": request(Q, format=hub.Format(), system=("Be brief.", "Answer in JSON.")),
    "any json as asked": request(
        hub.Turn("user", (hub.Text("Give me JSON."),)), format=hub.Format(), system=("a", "b")
    ),
    "sampling": request(Q, temperature=0.5, top_p=0.25, stop=("X", "YY")),
    "zeros": request(Q, temperature=0, top_p=0, seed=0, logprobs=0),
    "high temperature": request(Q, temperature=1.5),
    "top k": request(Q, top_k=5),
    "penalties": request(Q, frequency_penalty=0.5, presence_penalty=-0.5),
    "seed": request(Q, seed=7),
    "five stops": request(Q, stop=("a", "b", "c", "d", "e")),
    "six stops": request(Q, stop=("a", "b", "c", "d", "e", "f")),
    "blank stop": request(Q, stop=("\n\n", "X")),
    "two choices": request(Q, n=2),
    "one choice and zero penalties": request(Q, n=1, frequency_penalty=0, presence_penalty=0.0),
    "choice none without tools": request(Q, choice=hub.ToolChoice("none"), parallel=False),
    "logprobs": request(Q, logprobs=3),
    "small maximum": hub.Request((Q,), max_tokens=8),
    "no thinking": request(Q, reasoning=hub.Reasoning("none")),
    "minimal thinking": request(Q, reasoning=hub.Reasoning("minimal")),
    "medium thinking": request(Q, reasoning=hub.Reasoning("medium")),
    "thinking shown": request(Q, reasoning=hub.Reasoning("high", is_shown=True)),
    "thinking hidden": request(Q, reasoning=hub.Reasoning("high", is_shown=False)),
    "maximum thinking": request(Q, reasoning=hub.Reasoning("xhigh")),
    "thinking budget": request(Q, reasoning=hub.Reasoning(budget=6000)),
    "thinking without an effort": request(Q, reasoning=hub.Reasoning(is_shown=True)),
    "thinking with temperature and a forced call": request(
        Q,
        reasoning=hub.Reasoning("high"),
        temperature=0.5,
        top_p=0.5,
        top_k=3,
        tools=(F,),
        choice=hub.ToolChoice("any"),
    ),
    "thinking of another provider": request(
        Q, hub.Turn("assistant", (hub.Thinking("hm", hub.Signature("another", "thinking:sig")), hub.Text("so"))), Q
    ),
    "unsigned thinking": request(Q, hub.Turn("assistant", (hub.Thinking("hm"), hub.Text("so"))), Q),
    "foreign signature": request(
        Q, hub.Turn("assistant", (hub.Thinking("", hub.Signature(None, "sig")), hub.Text("so"))), Q
    ),
    "call with a signature of another provider": request(
        Q,
        hub.Turn("assistant", (hub.ToolCall("toolu_1", "f", "{}", signature=hub.Signature("another", "c2ln")),)),
        results_turn(result("toolu_1", "42")),
        tools=(F,),
    ),
    "refusal": request(Q, hub.Turn("assistant", (hub.Refusal("I cannot."),)), Q),
    "citations": request(Q, hub.Turn("assistant", (hub.Text("It is so.", (hub.Citation("https://a.com", "A"),)),)), Q),
    "verbosity": request(Q, verbosity="low"),
    "tier auto": request(Q, tier="auto"),
    "tier default": request(Q, tier="default"),
    "tier flex": request(Q, tier="flex"),
    "tier priority": request(Q, tier="priority"),
    "tier scale": request(Q, tier="scale"),
    "end user": request(Q, end_user="user-7"),
    "metadata": request(Q, metadata={"team": "a"}),
    "stored with metadata": request(Q, metadata={"team": "a"}, store=True),
    "user in the metadata": request(Q, metadata={"user_id": "user-7"}),
    "not stored": request(Q, store=False),
    "cache key": request(Q, cache_key="k1"),
    "long": request(hub.Turn("user", (hub.Text("東京 tower 🗼\n" * 20_000),))),
    "text in two blocks": request(Q, hub.Turn("assistant", (hub.Text("It is"), hub.Text(" a tower."))), Q),
    "unicode": request(
        hub.Turn("user", (hub.Text(TRICKY),)),
        hub.Turn("assistant", (hub.ToolCall("toolu_1", "f", '{"q":"🗼\u2028\\u0000"}'),)),
        results_turn(result("toolu_1", TRICKY)),
        system=(TRICKY,),
        tools=(
            hub.Tool("f", TRICKY, {"type": "object", "properties": {"ü": {"type": "string", "description": TRICKY}}}),
        ),
    ),
}

USAGE = hub.Usage(input_tokens=10, output_tokens=20, reasoning_tokens=5, cache_read_tokens=4)
CALL = hub.ToolCall("toolu_1", "f", '{"city":"東京"}')


def reply(*blocks, stop="stop", usage=USAGE, tier=None, **more) -> hub.Reply:
    return hub.Reply("resp_1", CLIENT_MODEL, (hub.Answer(blocks, stop, **more),), usage, tier)


LOGPROBS = (
    hub.Logprob("It", -0.1, (hub.Logprob("It", -0.1), hub.Logprob("That", -2.5))),
    hub.Logprob(" is", -0.25, (hub.Logprob(" is", -0.25), hub.Logprob("'s", -3.5))),
)
CITED_TEXT = hub.Text(
    "It is so. 🗼 Yes.",
    (hub.Citation("https://a.com/", "A", "quoted", 0, 9), hub.Citation("https://b.com/", "B", None, 10, 16)),
)
REPLIES = {
    "text": reply(hub.Text("It is a tower.")),
    "unicode": reply(hub.Text(TRICKY)),
    "long": reply(hub.Text("東京 tower 🗼\n" * 20_000)),
    "empty": reply(),
    "empty text": reply(hub.Text("")),
    "white space": reply(hub.Text(" \n")),
    "tool call": reply(hub.Text("I look."), CALL, stop="tools"),
    "tool call alone": reply(CALL, stop="tools"),
    "tool call without arguments": reply(hub.ToolCall("toolu_1", "f", ""), stop="tools"),
    "parallel tools": reply(
        CALL, hub.ToolCall("toolu_2", "g", "{}"), hub.ToolCall("toolu_3", "f", '{"a":[1,{}]}'), stop="tools"
    ),
    "cut inside a call": reply(hub.Text("I look."), CALL, stop="length"),
    "custom tool": reply(hub.ToolCall("toolu_1", "shell", 'ls "-l"\n', is_custom=True), stop="tools"),
    "broken arguments": reply(hub.ToolCall("toolu_1", "f", '{"a":'), stop="tools"),
    "arguments that are a list": reply(hub.ToolCall("toolu_1", "f", "[1]"), stop="tools"),
    "thinking": reply(hub.Thinking("hm 🗼"), hub.Text("42")),
    "signed thinking": reply(hub.Thinking("hm", hub.Signature("origin", "U0lH")), hub.Text("42")),
    "redacted thinking": reply(hub.Thinking("", hub.Signature("origin", "U0lH")), hub.Text("42")),
    "thinking and a call": reply(
        hub.Thinking("hm", hub.Signature("origin", "U0lH")), hub.Text("I look."), CALL, stop="tools"
    ),
    "signed call": reply(
        hub.ToolCall("toolu_1", "f", "{}", signature=hub.Signature("origin", "U0lH")),
        hub.ToolCall("t2", "f", "{}"),
        stop="tools",
    ),
    "refusal": reply(hub.Refusal("I cannot."), stop="filtered"),
    "polite refusal": reply(hub.Refusal("I cannot.")),
    "filtered": reply(stop="filtered"),
    "filtered in the middle": reply(hub.Text("It is"), stop="filtered"),
    "length": reply(hub.Text("It is"), stop="length"),
    "length and nothing": reply(hub.Thinking("hm"), stop="length"),
    "stop sequence": reply(hub.Text("It is"), sequence="X"),
    "citations": reply(CITED_TEXT),
    "citation without a range": reply(hub.Text("It is so.", (hub.Citation("https://a.com/"),))),
    "citation of a document": reply(hub.Text("It is so.", (hub.Citation(None, "paper.pdf", "so it is"),))),
    "logprobs": reply(hub.Text("It is"), logprobs=LOGPROBS),
    "image": reply(hub.Text("see"), hub.Media("image", "image/png", PNG)),
    "image by url": reply(hub.Media("image", None, url="https://a.com/a.png")),
    "audio": reply(hub.Text("hear"), hub.Media("audio", "audio/wav", WAV)),
    "two answers": hub.Reply(
        "resp_1",
        CLIENT_MODEL,
        (
            hub.Answer((hub.Text("one"),), "stop"),
            hub.Answer((hub.Text("two"), hub.ToolCall("toolu_1", "f", "{}")), "tools"),
        ),
        USAGE,
    ),
    "cached": reply(hub.Text("42"), usage=hub.Usage(10, 20, 0, 4, 3)),
    "cached for an hour": reply(hub.Text("42"), usage=hub.Usage(10, 20, 0, 4, 3, 2, 1)),
    "no usage": reply(hub.Text("42"), usage=None),
    "tier": reply(hub.Text("42"), tier="priority"),
    "tier flex": reply(hub.Text("42"), tier="flex"),
}
# The request of replies that cannot be read without its tools.
REQUEST_WITH_TOOLS = request(Q, tools=(F, G, SHELL))
