"""What each client protocol can carry to each upstream protocol, found out by translating one feature at a time."""

import base64
from dataclasses import replace
from pathlib import Path

from gproxy import protocols
from gproxy.channels.model_capabilities import capabilities
from gproxy.protocols import hub
from gproxy.protocols.losses import Losses

DOCUMENT = Path(__file__).parent.parent / "docs" / "translation.md"
LOADED = protocols.load()
ORDER = ("openai_chat", "openai_responses", "anthropic", "gemini")
TITLES = {
    "openai_chat": "Chat Completions",
    "openai_responses": "Responses",
    "anthropic": "Messages",
    "gemini": "generateContent",
}
# A current model of each, and nothing more special than that.
MODELS = {
    "openai_chat": "gpt-4.1",
    "openai_responses": "gpt-4.1",
    "anthropic": "claude-sonnet-4-5",
    "gemini": "gemini-3.5-flash",
}
THINKERS = {**MODELS, "openai_chat": "gpt-5.2", "openai_responses": "gpt-5.2"}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = hub.Tool("weather", "Tells the weather.", SCHEMA)
PDF = base64.b64encode(b"%PDF-1.7").decode()
WAV = base64.b64encode(b"RIFF").decode()


def said(*blocks) -> hub.Request:
    return hub.Request((hub.Turn("user", blocks),), max_tokens=100)


def request_with(**fields) -> hub.Request:
    return hub.Request((hub.Turn("user", (hub.Text("Hi"),)),), **{"max_tokens": 100, **fields})


def tooled(call: hub.ToolCall, result: hub.ToolResult, *tools: hub.Tool) -> hub.Request:
    turns = (hub.Turn("user", (hub.Text("Hi"),)), hub.Turn("assistant", (call,)), hub.Turn("user", (result,)))
    return hub.Request(turns, tools=tools or (TOOL,), max_tokens=100)


CALL = hub.ToolCall("call_1", "weather", '{"city":"Oslo"}')
FEATURES: dict[str, hub.Request] = {
    "text, several turns": hub.Request(
        (
            hub.Turn("user", (hub.Text("Hi"),)),
            hub.Turn("assistant", (hub.Text("Hello"),)),
            hub.Turn("user", (hub.Text("Go on"),)),
        ),
        max_tokens=100,
    ),
    "system text": hub.Request((hub.Turn("user", (hub.Text("Hi"),)),), ("Be brief.",), max_tokens=100),
    "system text in between": hub.Request(
        (
            hub.Turn("user", (hub.Text("Hi"),)),
            hub.Turn("system", (hub.Text("Be brief."),)),
            hub.Turn("user", (hub.Text("Go on"),)),
        ),
        max_tokens=100,
    ),
    "image, data": said(hub.Text("See"), hub.Media("image", "image/png", "AAAA")),
    "image, address": said(hub.Text("See"), hub.Media("image", url="https://example.com/a.png")),
    "image, detail": said(hub.Text("See"), hub.Media("image", "image/png", "AAAA", detail="high")),
    "PDF, data": said(hub.Text("Read"), hub.Media("file", "application/pdf", PDF, name="a.pdf")),
    "PDF, address": said(hub.Text("Read"), hub.Media("file", "application/pdf", url="https://example.com/a.pdf")),
    "audio": said(hub.Text("Listen"), hub.Media("audio", "audio/wav", WAV)),
    "file by the vendor's id": said(hub.Text("Read"), hub.Media("file", file_id="file-1")),
    "tools": request_with(tools=(TOOL,)),
    "tools, strict": request_with(tools=(hub.Tool("weather", None, SCHEMA, True),)),
    "custom tools (free text)": request_with(tools=(hub.Tool("patch", "Applies a patch."),)),
    "tool choice: any": request_with(tools=(TOOL,), choice=hub.ToolChoice("any")),
    "tool choice: none": request_with(tools=(TOOL,), choice=hub.ToolChoice("none")),
    "tool choice: one": request_with(tools=(TOOL,), choice=hub.ToolChoice("any", ("weather",))),
    "tool choice: one of some": request_with(
        tools=(TOOL, hub.Tool("time", None, SCHEMA)), choice=hub.ToolChoice("any", ("weather", "time"))
    ),
    "one call at a time": request_with(tools=(TOOL,), parallel=False),
    "call and result": tooled(CALL, hub.ToolResult("call_1", (hub.Text("Sun"),))),
    "result: image": tooled(CALL, hub.ToolResult("call_1", (hub.Text("See"), hub.Media("image", "image/png", "AAAA")))),
    "result: error": tooled(CALL, hub.ToolResult("call_1", (hub.Text("No such city"),), is_error=True)),
    "vendor's web search": request_with(tools=(hub.WebSearch(),)),
    "vendor's code execution": request_with(tools=(hub.CodeExecution(),)),
    "vendor's page reader": request_with(tools=(hub.WebFetch(),)),
    "JSON": replace(said(hub.Text("Tell it in JSON")), format=hub.Format()),
    "JSON by a schema": request_with(format=hub.Format(SCHEMA, "answer")),
    "stop sequences": request_with(stop=("END",)),
    "temperature": request_with(temperature=0.5),
    "top_p": request_with(top_p=0.5),
    "top_k": request_with(top_k=5),
    "seed": request_with(seed=7),
    "penalties": request_with(frequency_penalty=0.5, presence_penalty=0.5),
    "several answers": request_with(n=2),
    "log-probabilities": request_with(logprobs=2),
    "no maximum of tokens": request_with(max_tokens=None),
    "reasoning: effort": request_with(reasoning=hub.Reasoning("high"), max_tokens=4000),
    "reasoning: budget": request_with(reasoning=hub.Reasoning(None, 2000, True), max_tokens=4000),
    "reasoning: off": request_with(reasoning=hub.Reasoning("none")),
    "verbosity": request_with(verbosity="low"),
    "service tier: flex": request_with(tier="flex"),
    "service tier: priority": request_with(tier="priority"),
    "end user": request_with(end_user="alice"),
    "metadata": request_with(metadata={"team": "blue"}),
    "stored at the vendor": request_with(store=True),
    "prompt cache key": request_with(cache_key="k"),
    "earlier thinking, unsigned": hub.Request(
        (
            hub.Turn("user", (hub.Text("Hi"),)),
            hub.Turn("assistant", (hub.Thinking("Hm"), hub.Text("Hello"))),
            hub.Turn("user", (hub.Text("Go on"),)),
        ),
        max_tokens=100,
    ),
    "earlier refusal": hub.Request(
        (
            hub.Turn("user", (hub.Text("Hi"),)),
            hub.Turn("assistant", (hub.Refusal("No"),)),
            hub.Turn("user", (hub.Text("Go on"),)),
        ),
        max_tokens=100,
    ),
    "earlier citations": hub.Request(
        (
            hub.Turn("user", (hub.Text("Hi"),)),
            hub.Turn("assistant", (hub.Text("So", (hub.Citation("https://example.com", "A"),)),)),
            hub.Turn("user", (hub.Text("Go on"),)),
        ),
        max_tokens=100,
    ),
}


def target(protocol: str, feature: str) -> hub.Target:
    model = (THINKERS if feature.startswith("reasoning") else MODELS)[protocol]
    known = capabilities(protocol, model)
    traits = known.traits | {"custom_tools"}
    return hub.Target(
        "p", model, False, known.max_output, traits, known.refused, known.budgets, known.budget_range, known.efforts
    )


def cell(client: str, upstream: str, feature: str) -> str | None:
    """Returns the names of the losses, "" without losses, None if the client's protocol cannot express the feature."""
    codec = LOADED[client].CODECS["generate_content"]
    unsaid = Losses()
    wire = codec.write_request(
        FEATURES[feature], hub.Target("client", "m", traits=frozenset(("custom_tools",))), unsaid
    )
    read = codec.read_request(wire, Losses())
    if unsaid.names() or not _says(read, FEATURES[feature]):
        return None
    losses = Losses(LOADED[client].NAMES)
    urls = [b for turn in read.turns for b in turn.blocks if isinstance(b, hub.Media) and b.url]
    if any(media.kind not in LOADED[upstream].URL_KINDS for media in urls):
        return "fetched or refused"
    LOADED[upstream].CODECS["generate_content"].write_request(read, target(upstream, feature), losses)
    return ", ".join(f"`{name}`" for name in losses.names())


def _says(read: hub.Request, meant: hub.Request) -> bool:
    """Returns whether the client's protocol can express the request."""
    plain = {"turns", "system", "max_tokens"}
    fields = [name for name in hub.Request.__dataclass_fields__ if name not in plain]
    is_complete = all(
        getattr(read, name) == getattr(meant, name) or name in ("format", "reasoning", "tools")
        for name in fields
        if getattr(meant, name) not in (None, (), {})
    )
    kinds = lambda request: {type(b) for turn in request.turns for b in turn.blocks}  # noqa: E731
    roles = lambda request: {turn.role for turn in request.turns}  # noqa: E731
    same = kinds(meant) <= kinds(read) and roles(meant) <= roles(read)
    tools = {type(tool) for tool in meant.tools} <= {type(tool) for tool in read.tools}
    return is_complete and same and tools and (meant.reasoning is None) == (read.reasoning is None)


def table(client: str) -> str:
    """The Markdown table of one client protocol."""
    others = [name for name in ORDER if name != client]
    lines = [
        f"| {TITLES[client]} client says | " + " | ".join(f"to {TITLES[name]}" for name in others) + " |",
        "| --- | " + " | ".join("---" for _ in others) + " |",
    ]
    for feature in FEATURES:
        cells = [cell(client, name, feature) for name in others]
        if all(found is None for found in cells):
            continue
        lines.append(f"| {feature} | " + " | ".join("yes" if found == "" else found or "" for found in cells) + " |")
    return "\n".join(lines)


def document(text: str) -> str:
    """The document with its tables as the code makes them. Raises ValueError where one has no single place."""
    for client in ORDER:
        begin, end = f"<!-- {client} -->\n", f"\n<!-- /{client} -->"
        before, rest = text.split(begin)
        _, after = rest.split(end)
        text = before + begin + table(client) + end + after
    return text


if __name__ == "__main__":  # writes them anew
    DOCUMENT.write_text(document(DOCUMENT.read_text()))
