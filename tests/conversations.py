"""Conversations in the hub's words, which every protocol has to carry: requests, and replies by what they show."""

import base64

from gproxy.protocols.hub import (
    Answer,
    Citation,
    CodeExecution,
    Context,
    Format,
    Logprob,
    Media,
    Reasoning,
    Refusal,
    Reply,
    Request,
    Signature,
    Target,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
    Usage,
    WebFetch,
    WebSearch,
)

PROVIDER, MODEL, SHOWN = "house", "vendor-model", "shown-model"
# Vendors that take all that their protocol can say.
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
F = Tool("f", "looks it up", SCHEMA)
G = Tool("g", None, {"type": "object", "properties": {"q": {"type": "string"}}})
SHELL = Tool("shell", "runs a command")
Q = Turn("user", (Text("What is it?"),))
A = Turn("assistant", (Text("It is a tower."),))
CALLED = Turn("assistant", (Text("I look."), ToolCall("toolu_1", "f", '{"city":"東京","days":2}')))
PARALLEL = Turn(
    "assistant",
    (ToolCall("toolu_1", "f", '{"city":"Rome"}'), ToolCall("toolu_2", "g", "{}"), ToolCall("c-3", "f", "{}")),
)


# What a vendor wants back, as the reader of each protocol keeps it.
OWN = {
    "anthropic": "thinking:c2ln",
    "openai_responses": "rs_1:c2ln",
    "openai_chat": '[{"type":"reasoning.encrypted","data":"c2ln"}]',
    "gemini": "c2ln",
}


def target(protocol: str, **more) -> Target:
    return Target(PROVIDER, MODEL, traits=TRAITS.get(protocol, frozenset()), **more)


def context(request: Request | None = None, **more) -> Context:
    return Context(SHOWN, PROVIDER, "req_1", 1_700_000_000, request or Request(), **more)


def answered(*results: ToolResult, text: str | None = None) -> Turn:
    return Turn("user", (*results, *((Text(text),) if text else ())))


def said(*turns: Turn, **more) -> Request:
    return Request(turns, max_tokens=256, **more)


def result(call_id: str, text: str, **more) -> ToolResult:
    return ToolResult(call_id, (Text(text),), **more)


REQUESTS = {
    "text": said(Q),
    "system": said(Q, system=("Be brief.",)),
    "system of two": said(Q, system=("Be brief.", "Be kind.")),
    "later system": said(Q, A, Turn("system", (Text("From now on in German."),)), Q),
    "multi turn": said(Q, A, Turn("user", (Text("And"), Text("then?"))), A, Q),
    "ends with the assistant": said(Q, A),
    "begins with the assistant": said(A, Q),
    "no maximum": Request((Q,)),
    "image": said(Turn("user", (Text("see"), Media("image", "image/png", PNG)))),
    "image by url": said(Turn("user", (Media("image", None, url="https://example.com/a.png"), Text("see")))),
    "image with detail": said(Turn("user", (Media("image", "image/png", PNG, detail="high"),))),
    "image of any detail by url": said(
        Turn("user", (Media("image", "image/png", url="https://example.com/a.png", detail="auto"),))
    ),
    "image with a name": said(Turn("user", (Media("image", "image/png", PNG, name="tower.png"),))),
    "image by id": said(Turn("user", (Media("image", file_id="file-1"),))),
    "odd image": said(Turn("user", (Media("image", "image/tiff", PNG),))),
    "pdf": said(Turn("user", (Media("file", "application/pdf", PDF, name="paper.pdf"), Text("read")))),
    "pdf by url": said(Turn("user", (Media("file", "application/pdf", url="https://example.com/a.pdf"),))),
    "file by url": said(Turn("user", (Media("file", None, url="https://example.com/a"),))),
    "named pdf by url": said(
        Turn("user", (Media("file", "application/pdf", url="https://example.com/a.pdf", name="a.pdf"),))
    ),
    "text file": said(
        Turn("user", (Media("file", "text/plain", base64.b64encode(TRICKY.encode()).decode(), name="a.txt"),))
    ),
    "markdown": said(Turn("user", (Media("file", "text/markdown", "IyBHcsO8w59l", name="a.md"),))),
    "pdf without a name": said(Turn("user", (Media("file", "application/pdf", PDF),))),
    "zip": said(Turn("user", (Media("file", "application/zip", PDF, name="a.zip"),))),
    "audio": said(Turn("user", (Media("audio", "audio/wav", WAV), Text("hear")))),
    "odd audio": said(Turn("user", (Media("audio", "audio/ogg", WAV),))),
    "video": said(Turn("user", (Media("video", "video/mp4", WAV),))),
    "picture drawn by the model": said(Q, Turn("assistant", (Media("image", "image/png", PNG),)), Q),
    "tools": said(Q, tools=(F, G)),
    "strict tool": said(Q, tools=(Tool("f", None, SCHEMA, strict=True),)),
    "lax tool": said(Q, tools=(Tool("f", None, SCHEMA, strict=False),)),
    "tool with no properties": said(Q, tools=(Tool("now", None, {"type": "object", "properties": {}}),)),
    "tool without parameters": said(Q, tools=(Tool("now", "the time", {}),)),
    "tool round trip": said(Q, CALLED, answered(result("toolu_1", "42")), tools=(F,)),
    "tool turn and a text": said(Q, CALLED, answered(result("toolu_1", "42"), text="go on"), tools=(F,)),
    "tool result is an object": said(Q, CALLED, answered(result("toolu_1", '{"deg":3.5}')), tools=(F,)),
    "tool result is a spelt object": said(Q, CALLED, answered(result("toolu_1", '{ "deg": 3.5 }')), tools=(F,)),
    "tool result is empty": said(Q, CALLED, answered(ToolResult("toolu_1")), tools=(F,)),
    "tool result of two texts": said(Q, CALLED, answered(ToolResult("toolu_1", (Text("4"), Text("2")))), tools=(F,)),
    "parallel tools": said(
        Q, PARALLEL, answered(result("toolu_1", "A"), result("toolu_2", "B"), result("c-3", "C")), tools=(F, G)
    ),
    "two rounds of tools": said(
        Q, CALLED, answered(result("toolu_1", "A")), A, Q, CALLED, answered(result("toolu_1", "B")), tools=(F,)
    ),
    "tool result with an image": said(
        Q, CALLED, answered(ToolResult("toolu_1", (Text("a map"), Media("image", "image/png", PNG)))), tools=(F,)
    ),
    "tool result that is an error": said(Q, CALLED, answered(result("toolu_1", "no such city", is_error=True))),
    "failed result with an image": said(
        Q, CALLED, answered(ToolResult("toolu_1", (Text("a map"), Media("image", "image/png", PNG)), is_error=True))
    ),
    "failed result that says nothing": said(Q, CALLED, answered(ToolResult("toolu_1", (), is_error=True))),
    "call without a result": said(Q, CALLED, Q),
    "result without a call": said(Q, A, answered(result("toolu_1", "42"), text="so?")),
    "foreign ids": said(
        Q,
        Turn("assistant", (ToolCall("call:1/ü", "f", "{}"), ToolCall("x" * 90, "g", "{}"))),
        answered(result("call:1/ü", "A"), result("x" * 90, "B")),
    ),
    "arguments with spaces": said(Q, Turn("assistant", (ToolCall("toolu_1", "f", '{ "a" : [1, 2] }'),))),
    "no arguments": said(Q, Turn("assistant", (ToolCall("toolu_1", "f", ""),))),
    "custom tool": said(
        Q,
        Turn("assistant", (ToolCall("toolu_1", "shell", "ls -l\n", is_custom=True),)),
        answered(result("toolu_1", "total 0", is_custom=True)),
        tools=(SHELL, F),
    ),
    "choice auto": said(Q, tools=(F, G), choice=ToolChoice("auto")),
    "choice none": said(Q, tools=(F, G), choice=ToolChoice("none")),
    "choice any": said(Q, tools=(F, G), choice=ToolChoice("any")),
    "forced tool": said(Q, tools=(F, G), choice=ToolChoice("any", ("f",))),
    "one of two tools": said(Q, tools=(F, G, SHELL), choice=ToolChoice("any", ("f", "g"))),
    "allowed tools": said(Q, tools=(F, G), choice=ToolChoice("auto", ("f",))),
    "one call at a time": said(Q, tools=(F,), choice=ToolChoice("auto"), parallel=False),
    "one call at a time and no choice": said(Q, tools=(F,), parallel=False),
    "one call at a time of none": said(Q, tools=(F,), choice=ToolChoice("none"), parallel=False),
    "thinking hidden as it likes": said(Q, reasoning=Reasoning(is_shown=False)),
    "search and a choice": said(Q, tools=(WebSearch(),), choice=ToolChoice("auto"), parallel=False),
    "many calls at a time": said(Q, tools=(F,), parallel=True),
    "search": said(Q, tools=(WebSearch(),)),
    "search in a place": said(Q, tools=(WebSearch(("a.com",), (), {"city": "Rome", "country": "IT"}, max_uses=3),)),
    "search without some": said(Q, tools=(WebSearch(blocked=("b.com",)),)),
    "search beside functions": said(Q, tools=(F, WebSearch())),
    "code and fetch beside functions": said(Q, tools=(F, CodeExecution(), WebFetch())),
    "code and fetch": said(Q, tools=(CodeExecution(), WebFetch())),
    "structured": said(Q, format=Format(SCHEMA, "weather", "the weather", True)),
    "structured with an optional": said(
        Q, format=Format({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}})
    ),
    "any json": said(Q, format=Format()),
    "any json as instructed": said(Q, format=Format(), system=("Be brief.", "Answer in JSON.")),
    "any json as asked": said(Turn("user", (Text("Give me JSON."),)), format=Format(), system=("a", "b")),
    "sampling": said(Q, temperature=0.5, top_p=0.25, stop=("X", "YY")),
    "zeros": said(Q, temperature=0, top_p=0, seed=0, logprobs=0),
    "hot": said(Q, temperature=1.5),
    "few of many": said(Q, top_k=5),
    "penalties": said(Q, frequency_penalty=0.5, presence_penalty=-0.5),
    "seed": said(Q, seed=7),
    "five stops": said(Q, stop=("a", "b", "c", "d", "e")),
    "six stops": said(Q, stop=("a", "b", "c", "d", "e", "f")),
    "blank stop": said(Q, stop=("\n\n", "X")),
    "n of two": said(Q, n=2),
    "n of one": said(Q, n=1, frequency_penalty=0, presence_penalty=0.0),
    "choice of nothing": said(Q, choice=ToolChoice("none"), parallel=False),
    "logprobs": said(Q, logprobs=3),
    "small maximum": Request((Q,), max_tokens=8),
    "no thinking": said(Q, reasoning=Reasoning("none")),
    "minimal thinking": said(Q, reasoning=Reasoning("minimal")),
    "medium thinking": said(Q, reasoning=Reasoning("medium")),
    "thinking shown": said(Q, reasoning=Reasoning("high", is_shown=True)),
    "thinking hidden": said(Q, reasoning=Reasoning("high", is_shown=False)),
    "most thinking": said(Q, reasoning=Reasoning("xhigh")),
    "thinking budget": said(Q, reasoning=Reasoning(budget=6000)),
    "thinking as it likes": said(Q, reasoning=Reasoning(is_shown=True)),
    "thinking hot and forced": said(
        Q, reasoning=Reasoning("high"), temperature=0.5, top_p=0.5, top_k=3, tools=(F,), choice=ToolChoice("any")
    ),
    "thought elsewhere": said(
        Q, Turn("assistant", (Thinking("hm", Signature("another", "thinking:sig")), Text("so"))), Q
    ),
    "thought and not signed": said(Q, Turn("assistant", (Thinking("hm"), Text("so"))), Q),
    "signed elsewhere": said(Q, Turn("assistant", (Thinking("", Signature(None, "sig")), Text("so"))), Q),
    "call signed elsewhere": said(
        Q,
        Turn("assistant", (ToolCall("toolu_1", "f", "{}", signature=Signature("another", "c2ln")),)),
        answered(result("toolu_1", "42")),
        tools=(F,),
    ),
    "refusal": said(Q, Turn("assistant", (Refusal("I cannot."),)), Q),
    "citations": said(Q, Turn("assistant", (Text("It is so.", (Citation("https://a.com", "A"),)),)), Q),
    "verbosity": said(Q, verbosity="low"),
    "tier auto": said(Q, tier="auto"),
    "tier default": said(Q, tier="default"),
    "tier flex": said(Q, tier="flex"),
    "tier priority": said(Q, tier="priority"),
    "tier scale": said(Q, tier="scale"),
    "end user": said(Q, end_user="user-7"),
    "metadata": said(Q, metadata={"team": "a"}),
    "stored with metadata": said(Q, metadata={"team": "a"}, store=True),
    "user in the metadata": said(Q, metadata={"user_id": "user-7"}),
    "not stored": said(Q, store=False),
    "cache key": said(Q, cache_key="k1"),
    "long": said(Turn("user", (Text("東京 tower 🗼\n" * 20_000),))),
    "said in pieces": said(Q, Turn("assistant", (Text("It is"), Text(" a tower."))), Q),
    "unicode": said(
        Turn("user", (Text(TRICKY),)),
        Turn("assistant", (ToolCall("toolu_1", "f", '{"q":"🗼\u2028\\u0000"}'),)),
        answered(result("toolu_1", TRICKY)),
        system=(TRICKY,),
        tools=(Tool("f", TRICKY, {"type": "object", "properties": {"ü": {"type": "string", "description": TRICKY}}}),),
    ),
}

USED = Usage(input_tokens=10, output_tokens=20, reasoning_tokens=5, cache_read_tokens=4)
CALL = ToolCall("toolu_1", "f", '{"city":"東京"}')


def reply(*blocks, stop="stop", usage=USED, tier=None, **more) -> Reply:
    return Reply("resp_1", SHOWN, (Answer(blocks, stop, **more),), usage, tier)


LOGPROBS = (
    Logprob("It", -0.1, (Logprob("It", -0.1), Logprob("That", -2.5))),
    Logprob(" is", -0.25, (Logprob(" is", -0.25), Logprob("'s", -3.5))),
)
CITED = Text(
    "It is so. 🗼 Yes.",
    (Citation("https://a.com/", "A", "quoted", 0, 9), Citation("https://b.com/", "B", None, 10, 16)),
)
REPLIES = {
    "text": reply(Text("It is a tower.")),
    "unicode": reply(Text(TRICKY)),
    "long": reply(Text("東京 tower 🗼\n" * 20_000)),
    "nothing": reply(),
    "empty text": reply(Text("")),
    "white space": reply(Text(" \n")),
    "tool call": reply(Text("I look."), CALL, stop="tools"),
    "tool call alone": reply(CALL, stop="tools"),
    "tool call without arguments": reply(ToolCall("toolu_1", "f", ""), stop="tools"),
    "parallel tools": reply(
        CALL, ToolCall("toolu_2", "g", "{}"), ToolCall("toolu_3", "f", '{"a":[1,{}]}'), stop="tools"
    ),
    "cut inside a call": reply(Text("I look."), CALL, stop="length"),
    "custom tool": reply(ToolCall("toolu_1", "shell", 'ls "-l"\n', is_custom=True), stop="tools"),
    "broken arguments": reply(ToolCall("toolu_1", "f", '{"a":'), stop="tools"),
    "arguments that are a list": reply(ToolCall("toolu_1", "f", "[1]"), stop="tools"),
    "thinking": reply(Thinking("hm 🗼"), Text("42")),
    "signed thinking": reply(Thinking("hm", Signature("origin", "U0lH")), Text("42")),
    "redacted thinking": reply(Thinking("", Signature("origin", "U0lH")), Text("42")),
    "thinking and a call": reply(Thinking("hm", Signature("origin", "U0lH")), Text("I look."), CALL, stop="tools"),
    "signed call": reply(
        ToolCall("toolu_1", "f", "{}", signature=Signature("origin", "U0lH")), ToolCall("t2", "f", "{}"), stop="tools"
    ),
    "refusal": reply(Refusal("I cannot."), stop="filtered"),
    "polite refusal": reply(Refusal("I cannot.")),
    "filtered": reply(stop="filtered"),
    "filtered in the middle": reply(Text("It is"), stop="filtered"),
    "length": reply(Text("It is"), stop="length"),
    "length and nothing": reply(Thinking("hm"), stop="length"),
    "stop sequence": reply(Text("It is"), sequence="X"),
    "citations": reply(CITED),
    "citation of the whole": reply(Text("It is so.", (Citation("https://a.com/"),))),
    "citation of a document": reply(Text("It is so.", (Citation(None, "paper.pdf", "so it is"),))),
    "logprobs": reply(Text("It is"), logprobs=LOGPROBS),
    "image": reply(Text("see"), Media("image", "image/png", PNG)),
    "image by url": reply(Media("image", None, url="https://a.com/a.png")),
    "audio": reply(Text("hear"), Media("audio", "audio/wav", WAV)),
    "two answers": Reply(
        "resp_1",
        SHOWN,
        (Answer((Text("one"),), "stop"), Answer((Text("two"), ToolCall("toolu_1", "f", "{}")), "tools")),
        USED,
    ),
    "cached": reply(Text("42"), usage=Usage(10, 20, 0, 4, 3)),
    "cached for an hour": reply(Text("42"), usage=Usage(10, 20, 0, 4, 3, 2, 1)),
    "no usage": reply(Text("42"), usage=None),
    "tier": reply(Text("42"), tier="priority"),
    "tier flex": reply(Text("42"), tier="flex"),
}
# What the client asked for, where a reply cannot be read without it.
ASKED = said(Q, tools=(F, G, SHELL))
