"""The neutral vocabulary between protocols: blocks, requests, replies, events, usage, and what a model is.

A concept stands here when two protocols have it. What only one of them has is a loss on the way to the others.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call in disjoint classes, so that nothing is priced twice. None is ever negative.

    `input_tokens` are the uncached ones; `reasoning_tokens` are a part of `output_tokens`.
    `cache_write_tokens` are writes whose lifetime the vendor did not tell.
    Audio and image tokens are parts of the class in their name and together never more than it.
    `tool_calls` are names and numbers of the tools that the vendor ran, sorted.
    `tier` is the service tier that the vendor says it served: "default", one of the priced modes, or "" for untold.
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
    # What stands beside the tokens, and not always in one block with them: equal usages have equal tokens.
    tool_calls: tuple[tuple[str, int], ...] = field(default=(), compare=False)
    tier: str = field(default="", compare=False)

    @property
    def prompt_tokens(self) -> int:
        """All that was sent, cached or not."""
        return self.input_tokens + self.cache_read_tokens + self.cache_creation_tokens

    @property
    def cache_creation_tokens(self) -> int:
        return self.cache_write_tokens + self.cache_write_5m_tokens + self.cache_write_1h_tokens


class RequestHead(NamedTuple):
    """What a request body asks for, seen without reading the rest of it."""

    model: str | None
    is_stream: bool
    wants_usage: bool  # the client asked for usage in its stream
    end_user: str | None
    body: object  # the protocol's own view of the body, to be given back to its functions
    mode: str = ""  # flex, scale or priority, where the body asks to be served and charged as such
    max_output: int | None = None  # the most tokens of one choice, where the body bounds them
    choices: int = 1


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One entry of a model list. `created` in seconds since the epoch; `raw` is the vendor's own object."""

    id: str
    display_name: str | None = None
    created: int | None = None
    owned_by: str | None = None
    raw: dict | None = field(default=None, repr=False)
    protocol: str | None = None  # in whose shape `raw` is


# -- blocks: what a turn is made of --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signature:
    """An opaque value that a vendor wants back next turn. `origin` is the provider that made it, None a foreign one."""

    origin: str | None
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Citation:
    """Where a text comes from. `start` and `end` are character offsets into the block that cites."""

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


@dataclass(frozen=True, slots=True)
class Media:
    """An image, a file, audio or video: exactly one of base64 `data`, `url` and a vendor's `file_id`."""

    kind: Literal["image", "file", "audio", "video"]
    media_type: str | None = None
    data: str | None = field(default=None, repr=False)
    url: str | None = None
    file_id: str | None = None
    name: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Thinking:
    """What a model thought. Without text it is only the signature, as with redacted thinking."""

    text: str
    signature: Signature | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """`arguments` is JSON text as the model wrote it; of a custom tool it is the free text of its input."""

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


Block = Text | Refusal | Media | Thinking | ToolCall | ToolResult


# -- requests ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Turn:
    """Adjacent turns have different roles. A system turn stands after the first of the others."""

    role: Literal["user", "assistant", "system"]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the client runs. `schema` is JSON Schema, None for a custom tool, whose input is free text."""

    name: str
    description: str | None = None
    schema: dict | None = None
    strict: bool | None = None

    @property
    def is_custom(self) -> bool:
        return self.schema is None


@dataclass(frozen=True, slots=True)
class WebSearch:
    """A search that the vendor runs. `place` has any of city, region, country and timezone."""

    allowed: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    place: Mapping[str, str] = field(default_factory=dict)
    max_uses: int | None = None


@dataclass(frozen=True, slots=True)
class CodeExecution:
    """Code that the vendor runs."""


@dataclass(frozen=True, slots=True)
class WebFetch:
    """Pages that the vendor reads."""


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`any` of `names` when there are some, else of all tools."""

    mode: Literal["auto", "any", "none"]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Format:
    """What the reply's text must be: any JSON when there is no schema."""

    schema: dict | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How much a model shall think. `budget` in tokens; `is_shown`: whether the client wants to see it."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    budget: int | None = None
    is_shown: bool | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for. Model and streaming are addressing and travel apart."""

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
    logprobs: int | None = None  # alternatives for each token, 0 for none but the token itself
    format: Format | None = None
    reasoning: Reasoning | None = None
    verbosity: str | None = None
    tier: Literal["auto", "default", "flex", "priority", "scale"] | None = None
    end_user: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    store: bool | None = None
    cache_key: str | None = None

    @property
    def functions(self) -> tuple[Tool, ...]:
        return tuple(tool for tool in self.tools if isinstance(tool, Tool))


@dataclass(frozen=True, slots=True)
class Target:
    """What is known of where a translated request goes. `max_output`: the most tokens that this model writes.

    `provider` is its name and the protocol that is spoken there: what was signed by one is sent to no other.
    """

    provider: str
    model: str
    is_stream: bool = False
    max_output: int | None = None
    traits: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()  # fields of Request that this model answers with an error
    budgets: bool = False  # thinking is asked for by a budget and not by an effort
    budget_range: tuple[int, int] | None = None  # the least and the most that may be asked for
    efforts: tuple[str, ...] = ()  # the only ones that this model takes, where that is known


# -- replies and streams -------------------------------------------------------------------------------------------

Stop = Literal["stop", "length", "tools", "filtered"]


@dataclass(frozen=True, slots=True)
class Logprob:
    """One token's. `top` are its alternatives, each without any of its own."""

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
    """A block begins, still empty. Indexes count from 0 over the whole stream."""

    index: int
    block: Text | Refusal | Thinking | ToolCall | Media
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
    """A choice is over. `sequence` is the stop sequence that was met, where the vendor tells."""

    stop: Stop
    choice: int = 0
    sequence: str | None = None


@dataclass(frozen=True, slots=True)
class Used:
    usage: Usage
    tier: str | None = None


@dataclass(frozen=True, slots=True)
class End:
    """The stream ended as its protocol ends: nothing follows."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The stream ended without its end, or with the upstream's own error: nothing follows."""

    status: int
    code: str
    message: str


Event = Start | Open | Delta | Signed | Cited | Logprobs | Close | Finish | Used | End | Failed


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice of a reply."""

    blocks: tuple[Block, ...]
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
    """How many tokens a request is read as."""

    tokens: int


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Texts of which each shall become one vector. `is_packed`: the client takes vectors as base64 of their floats."""

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
    """What a reply is read and written with: `name` is the model as the client calls it, `created` in seconds.

    `body` is what the client sent, for a protocol whose replies repeat it.
    """

    name: str
    provider: str
    request_id: str
    created: int
    request: Request | EmbeddingRequest = field(default_factory=Request)
    wants_usage: bool = True
    body: Mapping = field(default_factory=dict, repr=False)


class StreamFailed(ValueError):
    """A stream that was to be folded told a failure."""

    def __init__(self, failed: Failed):
        self.failed = failed
        super().__init__(failed.message)


class TextBuffer:
    """A text that arrives in pieces. As bytes: a list would take ten times as much while the stream is open."""

    __slots__ = ("_held", "length")

    def __init__(self):
        self._held, self.length = bytearray(), 0

    def add(self, text: str) -> None:
        self._held += text.encode("utf-8", "surrogatepass")
        self.length += len(text)

    def __str__(self) -> str:
        return self._held.decode("utf-8", "surrogatepass")


def fold(events: Iterable[Event | None]) -> Reply:
    """A whole reply from its event stream; the one aggregator for all protocols. Raises StreamFailed."""
    start, used = Start("", ""), Used(Usage())
    blocks: dict[int, Block] = {}
    pieces: dict[int, TextBuffer] = {}
    places: dict[int, int] = {}
    logprobs: dict[int, list[Logprob]] = {}
    finished: dict[int, Finish] = {}
    for event in events:
        match event:
            case Delta(index, text):
                pieces[index].add(text)
            case Open(index, block, choice):
                blocks[index], pieces[index], places[index] = block, TextBuffer(), choice
            case Close(index):
                blocks[index] = _grown(blocks[index], str(pieces[index]))
            case Signed(index, signature):
                blocks[index] = replace(blocks[index], signature=signature)
            case Cited(index, citation):
                blocks[index] = replace(blocks[index], citations=(*blocks[index].citations, citation))
            case Logprobs(index, found):
                logprobs.setdefault(places[index], []).extend(found)
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
            tuple(blocks[i] for i in sorted(blocks) if places[i] == choice),
            finished[choice].stop,
            finished[choice].sequence,
            tuple(logprobs.get(choice, ())),
        )
        for choice in sorted(finished)
    )
    return Reply(start.id, start.model, answers, used.usage, used.tier)


def _grown(block: Block, text: str) -> Block:
    match block:
        case ToolCall():
            return replace(block, arguments=block.arguments + text)
        case Media():
            return block
    return replace(block, text=block.text + text)


def unfold(reply: Reply) -> Iterator[Event]:
    """The same reply as a stream."""
    yield Start(reply.id, reply.model)
    index = 0
    for choice, answer in enumerate(reply.answers):
        likely = answer.logprobs
        for block in answer.blocks:
            yield from _opened(index, block, choice)
            if likely and isinstance(block, Text | Refusal):
                yield Logprobs(index, likely)
                likely = ()
            yield Close(index)
            index += 1
        yield Finish(answer.stop, choice, answer.sequence)
    yield Used(reply.usage or Usage(), reply.tier)
    yield End()


def _opened(index: int, block: Block, choice: int) -> Iterator[Event]:
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


# Beyond any call; below it every sum and every price of one fits into 63 bits.
MAX_TOKENS = 10**12
MAX_CALLS = 10**6  # of one tool that the vendor runs


def as_count(value: object, maximum: int = MAX_TOKENS) -> int:
    """A count off the wire: anything that is no positive whole number, or no possible count, counts as none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= maximum else 0


def as_list(value: object) -> list:
    """A list off the wire, or an empty one in its place."""
    return value if isinstance(value, list) else []


def as_object(value: object) -> dict:
    """An object off the wire, or an empty one in its place."""
    return value if isinstance(value, dict) else {}


TEXT_FIELDS = frozenset(
    ("content", "text", "reasoning_content", "reasoning", "refusal", "arguments", "thinking", "partial_json", "summary")
)


def text_bytes(value: object, inside: bool = False) -> int:
    """Bytes of text that a reply delivers, for an estimate where the vendor told no usage."""
    if isinstance(value, str):
        return len(value.encode()) if inside else 0
    if isinstance(value, list):
        return sum(text_bytes(item, inside) for item in value)
    if isinstance(value, dict):
        return sum(text_bytes(item, key in TEXT_FIELDS) for key, item in value.items())
    return 0
