"""The neutral types between protocols: blocks, requests, replies, stream events, usage and model entries.

A concept is defined here when two protocols have it. A concept of one protocol is a loss when it is translated.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, cast


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call in disjoint classes, so that nothing is priced twice. No count is negative.

    `input_tokens` are uncached input tokens; `reasoning_tokens` are a part of `output_tokens`.
    `cache_write_tokens` are writes for which the vendor reported no lifetime.
    Audio and image tokens are parts of the class in their name, and their sum never exceeds it.
    `tool_calls` are the tools that the vendor ran and their number of calls, sorted by name.
    `tier` is the service tier that the vendor reported: "default", one of the priced modes, or "" without a report.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    audio_input_tokens: int = 0
    image_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_output_tokens: int = 0
    audio_cache_read_tokens: int = 0
    # Vendors report these two outside of the token counts, not always in the same event: they are not compared.
    tool_calls: tuple[tuple[str, int], ...] = field(default=(), compare=False)
    tier: str = field(default="", compare=False)

    @property
    def prompt_tokens(self) -> int:
        """All input tokens, cached or not."""
        return self.input_tokens + self.cache_read_tokens + self.cache_creation_tokens

    @property
    def cache_creation_tokens(self) -> int:
        return self.cache_write_tokens + self.cache_write_5m_tokens + self.cache_write_1h_tokens


class RequestHead(NamedTuple):
    """The fields of a request body that routing, limits and prices need."""

    model: str | None
    is_stream: bool
    wants_usage: bool  # the client asked for usage in its stream
    end_user: str | None
    body: dict  # the fields of the body as the protocol splits it, for its other functions
    mode: str = ""  # flex, scale or priority, where the body requests that service tier
    max_output: int | None = None  # maximum output tokens of one choice, where the body sets it
    choices: int = 1


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One entry of a model list. `created` in seconds since the epoch; `raw` is the vendor's own object."""

    id: str
    display_name: str | None = None
    created: int | None = None
    owned_by: str | None = None
    raw: dict | None = field(default=None, repr=False)
    protocol: str | None = None  # the protocol of `raw`


# -- blocks: the parts of a turn -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signature:
    """An opaque value that its vendor requires back in later turns.

    `origin` is the provider that made it, as in `Target.provider`; None where gproxy did not wrap the value.
    """

    origin: str | None
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Citation:
    """A source of a text. `start` and `end` are character offsets into the citing block."""

    url: str | None = None
    title: str | None = None
    quote: str | None = None
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    citations: tuple[Citation, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    text: str


MediaKind = Literal["image", "file", "audio", "video"]


@dataclass(frozen=True, slots=True)
class Media:
    """An image, a file, audio or video: exactly one of base64 `data`, `url` and a vendor's `file_id`."""

    kind: MediaKind
    media_type: str | None = None
    data: str | None = field(default=None, repr=False)
    url: str | None = None
    file_id: str | None = None
    name: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Thinking:
    """Reasoning of a model. Redacted thinking has a signature and no text."""

    text: str
    signature: Signature | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """`arguments` is JSON text as the model wrote it, or the free text of a custom tool's input."""

    id: str
    name: str
    arguments: str = ""
    is_custom: bool = False
    signature: Signature | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    call_id: str
    blocks: tuple["Text | Media", ...] = ()
    is_error: bool = False
    is_custom: bool = False
    name: str | None = None


ReplyBlock = Text | Refusal | Media | Thinking | ToolCall
Block = ReplyBlock | ToolResult


# -- requests ------------------------------------------------------------------------------------------------------


Role = Literal["user", "assistant", "system"]


@dataclass(frozen=True, slots=True)
class Turn:
    """Adjacent turns have different roles. A system turn never comes first."""

    role: Role
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the client runs. `schema` is JSON Schema, or None for a custom tool: its input is free text."""

    name: str
    description: str | None = None
    schema: dict | None = None
    strict: bool | None = None

    @property
    def is_custom(self) -> bool:
        return self.schema is None


@dataclass(frozen=True, slots=True)
class WebSearch:
    """A web search that the vendor runs. `place` has any of city, region, country and timezone."""

    allowed: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    place: Mapping[str, str] = field(default_factory=dict)
    max_uses: int | None = None


@dataclass(frozen=True, slots=True)
class CodeExecution:
    """Code execution by the vendor."""


@dataclass(frozen=True, slots=True)
class WebFetch:
    """Fetching of web pages by the vendor."""


ToolMode = Literal["auto", "any", "none"]


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Mode `any` requires a tool call. `names` limits the tools that may be called; empty: all tools."""

    mode: ToolMode
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Format:
    """The required format of the reply's text: JSON by `schema`, or any JSON without one."""

    schema: dict | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Requested reasoning. `budget` in tokens; `is_shown`: whether the client wants to receive the thinking."""

    effort: Effort | None = None
    budget: int | None = None
    is_shown: bool | None = None


Tier = Literal["auto", "default", "flex", "priority", "scale"]


@dataclass(frozen=True, slots=True)
class Request:
    """A request to generate. The model and streaming are in `Target`."""

    turns: tuple[Turn, ...] = ()
    system: tuple[str, ...] = ()
    tools: tuple[Tool | WebSearch | CodeExecution | WebFetch, ...] = ()
    choice: ToolChoice | None = None
    parallel: bool | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    n: int | None = None
    logprobs: int | None = None  # alternatives per token; 0: only the log-probability of the token itself
    format: Format | None = None
    reasoning: Reasoning | None = None
    verbosity: str | None = None
    tier: Tier | None = None
    end_user: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    store: bool | None = None
    cache_key: str | None = None

    @property
    def functions(self) -> tuple[Tool, ...]:
        """The tools that the client runs."""
        return tuple(tool for tool in self.tools if isinstance(tool, Tool))


@dataclass(frozen=True, slots=True)
class Target:
    """The target of a translated request. `max_output`: maximum output tokens of the model.

    `provider` is `<provider name>/<protocol>`: a signature is sent only to the target that made it.
    """

    provider: str
    model: str
    is_stream: bool = False
    max_output: int | None = None
    traits: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()  # fields of Request that the model rejects with an error
    budgets: bool = False  # thinking is requested by a budget, not by an effort
    budget_range: tuple[int, int] | None = None  # minimum and maximum thinking budget, in tokens
    efforts: tuple[str, ...] = ()  # the efforts that the model accepts; empty: unknown


# -- replies and streams -------------------------------------------------------------------------------------------

Stop = Literal["stop", "length", "tools", "filtered"]


@dataclass(frozen=True, slots=True)
class Logprob:
    """Log-probability of one token. `top` are its alternatives, each with an empty `top`."""

    token: str
    logprob: float
    top: tuple["Logprob", ...] = ()


@dataclass(frozen=True, slots=True)
class Start:
    id: str
    model: str
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Open:
    """A block begins, still empty. Indexes count from 0 over the whole stream, across choices."""

    index: int
    block: ReplyBlock
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Signed:
    index: int
    signature: Signature


@dataclass(frozen=True, slots=True)
class Cited:
    index: int
    citation: Citation


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Log-probabilities of tokens of an open block."""

    index: int
    logprobs: tuple[Logprob, ...]


@dataclass(frozen=True, slots=True)
class Close:
    index: int


@dataclass(frozen=True, slots=True)
class Finish:
    """A choice is complete. `sequence` is the stop sequence that was generated, if the vendor reports it."""

    stop: Stop
    choice: int = 0
    sequence: str | None = None


@dataclass(frozen=True, slots=True)
class Used:
    usage: Usage
    tier: str | None = None


@dataclass(frozen=True, slots=True)
class End:
    """The stream ended as its protocol requires. No event follows."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The stream broke off or ended with the upstream's own error. No event follows."""

    status: int
    code: str
    message: str


Event = Start | Open | Delta | Signed | Cited | Logprobs | Close | Finish | Used | End | Failed


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice of a reply."""

    blocks: tuple[ReplyBlock, ...]
    stop: Stop
    sequence: str | None = None
    logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    id: str
    model: str
    answers: tuple[Answer, ...]
    usage: Usage | None = None
    tier: str | None = None


# -- other operations ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Input tokens of a request."""

    tokens: int


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Texts to embed, one vector each. `is_packed`: the client requests vectors as base64 of their floats."""

    inputs: tuple[str, ...]
    dimensions: int | None = None
    task: str | None = None
    title: str | None = None
    end_user: str | None = None
    is_packed: bool = False


@dataclass(frozen=True, slots=True)
class Embeddings:
    vectors: tuple[tuple[float, ...], ...]
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """Facts about the call that reading and writing its reply need.

    `name` is the model name that the client sent, `created` is in seconds since the epoch, `body` has the fields of the
    client's request that its protocol repeats in a reply.
    """

    name: str
    provider: str
    request_id: str
    created: int
    request: Request | EmbeddingRequest = field(default_factory=Request)
    wants_usage: bool = True
    body: Mapping = field(default_factory=dict, repr=False)


class StreamFailed(ValueError):
    """A stream that `fold` read ended with `failed`."""

    def __init__(self, failed: Failed):
        self.failed = failed
        super().__init__(failed.message)


class TextBuffer:
    """Collects a streamed text. As bytes: a list of strings takes ten times the memory while the stream is open."""

    __slots__ = ("_content", "length")

    def __init__(self):
        self._content, self.length = bytearray(), 0

    def add(self, text: str) -> None:
        self._content += text.encode("utf-8", "surrogatepass")
        self.length += len(text)

    def __str__(self) -> str:
        return self._content.decode("utf-8", "surrogatepass")


def fold(events: Iterable[Event | None]) -> Reply:
    """Returns the whole reply of an event stream. None among the events is ignored. Raises StreamFailed."""
    start, used = Start("", ""), Used(Usage())
    blocks: dict[int, ReplyBlock] = {}
    texts: dict[int, TextBuffer] = {}
    choices: dict[int, int] = {}  # of a block
    logprobs: dict[int, list[Logprob]] = {}
    finished: dict[int, Finish] = {}
    for event in events:
        match event:
            case Delta(index, text):
                texts[index].add(text)
            case Open(index, block, choice):
                blocks[index], texts[index], choices[index] = block, TextBuffer(), choice
            case Close(index):
                blocks[index] = _with_text(blocks[index], str(texts[index]))
            case Signed(index, signature):
                blocks[index] = replace(blocks[index], signature=signature)
            case Cited(index, citation):
                cited = cast(Text, blocks[index])  # no other block has citations
                blocks[index] = replace(cited, citations=(*cited.citations, citation))
            case Logprobs(index, added):
                logprobs.setdefault(choices[index], []).extend(added)
            case Finish(choice=choice):
                finished[choice] = event
            case Used():
                used = event
            case Start():
                start = event
                used = Used(start.usage) if start.usage else used
            case Failed():
                raise StreamFailed(event)
    answers = tuple(
        Answer(
            tuple(blocks[i] for i in sorted(blocks) if choices[i] == choice),
            finished[choice].stop,
            finished[choice].sequence,
            tuple(logprobs.get(choice, ())),
        )
        for choice in sorted(finished)
    )
    return Reply(start.id, start.model, answers, used.usage, used.tier)


def _with_text(block: ReplyBlock, text: str) -> ReplyBlock:
    match block:
        case ToolCall():
            return replace(block, arguments=block.arguments + text)
        case Media():
            return block
    return replace(block, text=block.text + text)


def unfold(reply: Reply) -> Iterator[Event]:
    """Yields the events of a whole reply."""
    yield Start(reply.id, reply.model)
    index = 0
    for choice, answer in enumerate(reply.answers):
        logprobs = answer.logprobs
        for block in answer.blocks:
            yield from _open_events(index, block, choice)
            if logprobs and isinstance(block, Text | Refusal):
                yield Logprobs(index, logprobs)
                logprobs = ()
            yield Close(index)
            index += 1
        yield Finish(answer.stop, choice, answer.sequence)
    yield Used(reply.usage or Usage(), reply.tier)
    yield End()


def _open_events(index: int, block: ReplyBlock, choice: int) -> Iterator[Event]:
    match block:
        case Text(text, citations):
            yield Open(index, Text(""), choice)
            yield Delta(index, text)
            for citation in citations:
                yield Cited(index, citation)
        case Refusal(text):
            yield Open(index, Refusal(""), choice)
            yield Delta(index, text)
        case Thinking(text, signature):
            yield Open(index, Thinking(""), choice)
            if text:
                yield Delta(index, text)
            if signature:
                yield Signed(index, signature)
        case ToolCall(arguments=arguments):
            yield Open(index, replace(block, arguments=""), choice)
            yield Delta(index, arguments)
        case _:
            yield Open(index, block, choice)


# More than any call uses; sums and prices of counts up to it fit into 63 bits.
MAX_TOKENS = 10**12
MAX_CALLS = 10**6  # of one tool that the vendor runs


def as_count(value: object, maximum: int = MAX_TOKENS) -> int:
    """Returns a count from a vendor's body, 0 unless it is a whole number from 1 to `maximum`."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= maximum else 0


def as_list(value: object) -> list:
    """Returns the value if it is a list, else an empty list."""
    return value if isinstance(value, list) else []


def as_object(value: object) -> dict:
    """Returns the value if it is an object, else an empty object."""
    return value if isinstance(value, dict) else {}


TEXT_FIELDS = frozenset(
    ("content", "text", "reasoning_content", "reasoning", "refusal", "arguments", "thinking", "partial_json", "summary")
)


def text_bytes(value: object, inside: bool = False) -> int:
    """Returns the bytes of text in a reply, for an estimate where the vendor reported no usage."""
    if isinstance(value, str):
        return len(value.encode()) if inside else 0
    if isinstance(value, list):
        return sum(text_bytes(item, inside) for item in value)
    if isinstance(value, dict):
        return sum(text_bytes(item, key in TEXT_FIELDS) for key, item in value.items())
    return 0
