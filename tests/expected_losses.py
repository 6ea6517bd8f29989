"""What each protocol cannot say, or says otherwise: what is left of a hub's value once it went over its wire.

One table of rules by protocol, applied in order. A rule that changes a value and has a `loss` must be told; one
without a loss changes the form and not what is meant, and says why that is so.
"""

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import orjson

from gproxy.protocols import repair, schemas, signatures
from gproxy.protocols.custom_tools import FREE_INPUT
from gproxy.protocols.hub import (
    Answer,
    Block,
    Citation,
    CodeExecution,
    Format,
    Media,
    Reasoning,
    Refusal,
    Reply,
    Request,
    Signature,
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
from gproxy.protocols.losses import Losses
from tests.conversations import PROVIDER


class Rule(NamedTuple):
    change: Callable  # of a Request or a Reply
    why: str
    loss: str | None = None
    when: Callable | None = None  # it must be told then, although nothing changes


def apply(rules: list[Rule], value) -> tuple[object, set[str]]:
    """What is left of it, and what must be told."""
    lost = set()
    for rule in rules:
        changed = rule.change(value)
        if rule.loss and (changed != value or (rule.when and rule.when(value))):
            lost.add(rule.loss)
        value = changed
    return value, lost


def blocks(change: Callable[[Block, Turn], Block | tuple[Block, ...]], inside: bool = False):
    """A rule's change on each block of a request; with `inside` also on those in tool results."""

    def each(turn: Turn) -> Iterator[Block]:
        for block in turn.blocks:
            if inside and isinstance(block, ToolResult):
                block = replace(
                    block, blocks=tuple(inner for one in block.blocks for inner in _several(change(one, turn)))
                )
            yield from _several(change(block, turn))

    return lambda r: replace(r, turns=repair.merge_turns([Turn(turn.role, tuple(each(turn))) for turn in r.turns]))


def _several(found) -> tuple:
    return found if isinstance(found, tuple) else (found,)


def media(change: Callable[[Media], Block]):
    """The same on media of the user's."""
    return blocks(
        lambda block, turn: change(block) if isinstance(block, Media) and turn.role != "assistant" else block,
        inside=True,
    )


def without(name: str, value=None):
    return lambda r: replace(r, **{name: value})


def note(form: str):
    return lambda m: Text(form.format(m.name or m.media_type or m.kind))


NOTE = note("[{} omitted: this model cannot read it]")


def _note_of_id(m: Media) -> Text:
    return NOTE(replace(m, media_type=None))


NO_PARAMETERS = {"type": "object", "properties": {}}


def tools(change: Callable[[Tool], Tool | None]):
    return lambda r: replace(r, tools=tuple(found for tool in r.tools if (found := change(tool)) is not None))


def of(kind: type, change: Callable):
    """A change of blocks, or tools, of one kind only."""
    return lambda value, *more: change(value) if isinstance(value, kind) else value


# -- requests: what several protocols share ------------------------------------------------------------------------


def _paired(r: Request) -> Request:
    """What tests/protocols/test_repair.py says, where that is more than to put results where they belong."""
    losses = Losses()
    turns = repair.pair_results(r.turns, losses)
    return replace(r, turns=turns) if losses.names() else r


PAIRED = Rule(_paired, "a result without its call, or a call without its result, is an error there", "tool_result")
ARRANGED = Rule(
    lambda r: replace(r, turns=repair.pair_results(r.turns, Losses())),
    "ids that are used again are told apart, and a result is of the kind of its call",
)


def _opened(r: Request) -> Request:
    is_open = r.turns and r.turns[0].role == "user"
    return r if is_open else replace(r, turns=(Turn("user", (Text(repair.FIRST_USER_TEXT),)), *r.turns))


OPENED = Rule(_opened, "there the user speaks first, or it is an error", "turns")
NO_SYSTEM_TURN = Rule(
    lambda r: replace(r, turns=repair.without_system(r.turns, Losses())), "there is no later system turn", "system_turn"
)
ONE_SYSTEM = Rule(
    lambda r: replace(r, system=("\n".join(r.system),) if r.system else ()), "one text there: the same words in one"
)
NO_CITATIONS = Rule(
    blocks(of(Text, lambda b: replace(b, citations=()))), "a model is not shown where its texts came from", "citations"
)


def _refused(block: Block) -> Block:
    return Text(block.text)


REFUSAL_IS_TEXT = Rule(blocks(of(Refusal, _refused)), "there are no refusals, and the words stay", "refusal")


def _is_own(signature: Signature | None) -> bool:
    return signature is not None and signature.origin == PROVIDER


def _thoughts(are_gone: Callable[[Thinking], bool], loss: str) -> Rule:
    return Rule(
        blocks(lambda b, _: () if isinstance(b, Thinking) and are_gone(b) else b),
        "a vendor takes only the thinking that it signed itself",
        loss,
    )


FOREIGN_THOUGHTS = (
    _thoughts(lambda b: not _is_own(b.signature) and bool(b.signature) and not b.text, "signature"),
    _thoughts(lambda b: not _is_own(b.signature), "thinking"),
)
FOREIGN_CALLS = Rule(
    blocks(of(ToolCall, lambda b: b if _is_own(b.signature) else replace(b, signature=None))),
    "a vendor takes only its own signatures",
    "signature",
)
NO_CALL_SIGNATURES = Rule(
    blocks(of(ToolCall, lambda b: replace(b, signature=None))), "calls carry no signature there", "signature"
)
NAMELESS_RESULTS = Rule(
    blocks(of(ToolResult, lambda b: replace(b, name=None))), "a result names its call there, which names the function"
)
PLAIN_RESULTS = Rule(
    blocks(of(ToolResult, lambda b: replace(b, is_custom=False))), "a result's call tells whether it was a custom one"
)


def _joined_result(block: ToolResult) -> ToolResult:
    if all(isinstance(one, Text) for one in block.blocks) and block.blocks:
        return replace(block, blocks=(Text("\n".join(one.text for one in block.blocks)),))
    return block


SAID_ARGUMENTS = Rule(
    blocks(of(ToolCall, lambda b: replace(b, arguments=b.arguments or ("" if b.is_custom else "{}")))), "none are {}"
)
JOINED_RESULTS = Rule(blocks(of(ToolResult, _joined_result)), "a result is one text there: the same words in one")


def _failed(block: ToolResult) -> ToolResult:
    if not block.is_error:
        return block
    texts = "\n".join(one.text for one in block.blocks if isinstance(one, Text))
    return replace(block, is_error=False, blocks=(Text(f"Error: {texts}" if texts else "Error"),))


NO_ERRORS = Rule(blocks(of(ToolResult, _failed)), "a result cannot be an error there; its text says it", "tool_error")


def _media_behind(r: Request) -> Request:
    turns = []
    for turn in r.turns:
        results, rest = [], []
        for block in turn.blocks:
            if isinstance(block, ToolResult):
                rest += [one for one in block.blocks if isinstance(one, Media)]
                block = replace(block, blocks=tuple(one for one in block.blocks if isinstance(one, Text)))
                results.append(block)
            else:
                rest.append(block)
        turns.append(Turn(turn.role, (*results, *rest)))
    return replace(r, turns=tuple(turns))


MEDIA_BEHIND = Rule(_media_behind, "a result holds only text there: what it shows stands behind it", "tool_media")
NO_OWN_PICTURES = tuple(
    Rule(
        blocks(lambda b, turn, k=kind: () if isinstance(b, Media) and b.kind == k and turn.role == "assistant" else b),
        "the model's turn holds no pictures there",
        kind,
    )
    for kind in ("image", "file", "audio", "video")
)


def no_media(kinds: dict[str, Callable[[Media], bool]]) -> tuple[Rule, ...]:
    """A note stands for what cannot be read. By kind: whether one can."""
    return tuple(
        Rule(
            media(lambda m, k=kind, is_read=is_read: NOTE(m) if m.kind == k and not is_read(m) else m), "not read", kind
        )
        for kind, is_read in kinds.items()
    )


def never(_: Media) -> bool:
    return False


def legal_ids(legal: Callable[[str], str]) -> Rule:
    def change(block: Block, _turn: Turn) -> Block:
        if isinstance(block, ToolCall):
            return replace(block, id=legal(block.id))
        return replace(block, call_id=legal(block.call_id)) if isinstance(block, ToolResult) else block

    return Rule(blocks(change), "ids are the vendor's to restrict; the same one gets the same one")


def _compact(block: ToolCall) -> ToolCall:
    if block.is_custom:
        return block
    arguments = orjson.dumps(orjson.loads(block.arguments or "{}")).decode()
    return replace(block, arguments=arguments)


COMPACT = Rule(blocks(of(ToolCall, _compact)), "arguments are an object there, not its spelling")


def _as_function(block: ToolCall) -> ToolCall:
    if not block.is_custom:
        return block
    arguments = orjson.dumps({"input": block.arguments}).decode()
    return replace(block, is_custom=False, arguments=arguments)


CUSTOM_CALLS = Rule(blocks(of(ToolCall, _as_function)), "a custom tool is a function of one text there")
NO_CUSTOM = Rule(
    tools(of(Tool, lambda t: replace(t, schema=FREE_INPUT) if t.is_custom else t)),
    "there are no custom tools",
    "custom",
)
ONLY_STRICT = Rule(
    tools(of(Tool, lambda t: replace(t, strict=t.strict or None))), "what is not said is not strict there"
)
NO_STRICT = Rule(tools(of(Tool, lambda t: replace(t, strict=None))), "no tool is strict there", "strict")
WHOLE_SCHEMAS = Rule(
    tools(of(Tool, lambda t: t if t.schema != {} else replace(t, schema=NO_PARAMETERS))),
    "no parameters are said in full there",
)


def gone(kind: type, loss: str) -> Rule:
    return Rule(tools(lambda t: None if isinstance(t, kind) else t), "the vendor has no such tool", loss)


def search(**fields) -> Rule:
    return Rule(tools(of(WebSearch, lambda t: replace(t, **fields))), "its search cannot be told", "web_search")


EFFORTS = [(0, "none"), (4096, "minimal"), (8192, "low"), (16384, "medium"), (32768, "high")]


def _effort(asked: Reasoning) -> str:
    if asked.effort or asked.budget is None:
        return asked.effort or "medium"
    return next((name for maximum, name in EFFORTS if asked.budget <= maximum), "xhigh")


def thinking(change: Callable[[Reasoning], Reasoning]):
    return lambda r: replace(r, reasoning=change(r.reasoning)) if r.reasoning else r


NO_BUDGET = Rule(
    thinking(lambda a: a if a.budget is None else Reasoning(_effort(a), None, a.is_shown)), "efforts only", "reasoning"
)
AS_IT_LIKES = Rule(
    lambda r: r if r.reasoning is None or r.reasoning.effort else replace(r, reasoning=None),
    "to think as it likes is what it does unasked",
)
NO_CHOICE = Rule(lambda r: r if r.tools else replace(r, choice=None, parallel=None), "nothing to choose from")
NO_PARALLEL = Rule(
    lambda r: replace(r, parallel=None if r.parallel else r.parallel),
    "several calls at a time are what it does unasked",
)
ZERO_PENALTIES = Rule(
    lambda r: replace(r, frequency_penalty=r.frequency_penalty or None, presence_penalty=r.presence_penalty or None),
    "nothing is what it does unasked",
)
ONE = Rule(lambda r: replace(r, n=None if r.n == 1 else r.n), "one is what it does unasked")
NOT_STORED = Rule(lambda r: replace(r, store=r.store or None), "it keeps nothing unasked")


def unsaid(*names: str) -> tuple[Rule, ...]:
    return tuple(Rule(without(name), "there is no word for it", name) for name in names)


def few_stops(maximum: int) -> Rule:
    return Rule(lambda r: replace(r, stop=r.stop[:maximum]), f"at most {maximum}", "stop")


def format_(change: Callable[[Format], Format | None]):
    return lambda r: replace(r, format=change(r.format)) if r.format else r


NAMED_FORMAT = Rule(
    format_(lambda f: replace(f, name=f.name or "output") if f.schema is not None else f),
    "a schema must have a name there",
)

ENDINGS = {"application/pdf": "pdf", "text/plain": "txt", "text/markdown": "md"}
NAMED = Rule(
    media(
        lambda m: (
            replace(m, name=m.name or f"file.{ENDINGS.get(m.media_type, 'bin')}") if m.kind == "file" and m.data else m
        )
    ),
    "a file must have a name there",
)

# -- requests ------------------------------------------------------------------------------------------------------

AUDIO = ("audio/wav", "audio/mp3")


def _chat_turn(turn: Turn) -> Turn:
    """Thoughts, text, refusal, calls: a message has one field for each."""
    if turn.role != "assistant":
        return turn
    texts = "".join(b.text for b in turn.blocks if isinstance(b, Text))
    refusals = "".join(b.text for b in turn.blocks if isinstance(b, Refusal))
    found = (*((Text(texts),) if texts else ()), *((Refusal(refusals),) if refusals else ()))
    return Turn("assistant", (*found, *(b for b in turn.blocks if isinstance(b, ToolCall))))


def _json_text(block: ToolResult) -> ToolResult:
    match block.blocks:
        case (Text(text),) if text.startswith("{") and not block.is_error:
            found = orjson.loads(text)
            return replace(block, blocks=(Text(orjson.dumps(found).decode()),))
    return block


def _is_text(m: Media) -> bool:
    return (m.media_type or "").startswith("text/") or m.media_type == "application/json"


def _inline(m: Media) -> Block:
    if m.kind != "file" or not m.data or not _is_text(m):
        return m
    text = base64.b64decode(m.data).decode()
    return Text(f"{m.name}:\n{text}" if m.name else text)


def _anthropic_document(m: Media) -> bool:
    return bool(m.url) or bool(m.data and (m.media_type == "application/pdf" or _is_text(m)))


GEMINI_IMAGES = ("image/jpeg", "image/png", "image/webp", "image/heic", "image/heif")
IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
NEAREST = {"minimal": "low"}


def _relaxed(field: str, is_kept: Callable) -> Callable:
    def change(r: Request) -> Request:
        is_thinking = r.reasoning is not None and _effort(r.reasoning) != "none"
        value = getattr(r, field)
        return replace(r, **{field: None}) if is_thinking and value is not None and not is_kept(value) else r

    return change


def _anthropic_choice(r: Request) -> Request:
    """With thinking a model chooses freely; of some tools, all or one may be forced."""
    if r.choice is None:
        return r
    is_thinking = r.reasoning is not None and _effort(r.reasoning) != "none"
    if r.choice.mode == "any" and is_thinking:
        return replace(r, choice=ToolChoice("auto"))
    if r.choice.names and (r.choice.mode == "auto" or len(r.choice.names) > 1):
        return replace(r, choice=ToolChoice(r.choice.mode))
    return r


def _in_words(r: Request) -> Request:
    words = "Answer with a single JSON object and nothing else."
    return replace(r, format=None, system=(*r.system, words)) if r.format and r.format.schema is None else r


def _json_is_named(r: Request) -> Request:
    texts = [*r.system, *(b.text for turn in r.turns for b in turn.blocks if isinstance(b, Text))]
    if r.format != Format() or "json" in " ".join(texts).lower():
        return r
    return replace(r, system=(*r.system, "Answer with a single JSON object and nothing else."))


def _one_system(r: Request) -> Request:
    """OpenAI looks for the word JSON in the input, and then the instructions stand there, one by one."""
    return r if _json_is_named(replace(r, system=())) != replace(r, system=()) else ONE_SYSTEM.change(r)


def _error_says_something(block: ToolResult) -> ToolResult:
    return replace(block, blocks=(Text("Error"),)) if block.is_error and not block.blocks else block


NO_EMPTY_ERRORS = Rule(blocks(of(ToolResult, _error_says_something)), "an error says something")


def _failed_in_parts(block: ToolResult) -> ToolResult:
    if not block.is_error or all(isinstance(one, Text) for one in block.blocks):
        return _failed(block)
    return replace(block, is_error=False, blocks=(Text("Error:"), *block.blocks))


def _anthropic_parallel(r: Request) -> Request:
    """Said inside the choice; beside `none` there is nothing to say."""
    if r.choice == ToolChoice("none"):
        return replace(r, parallel=None)
    return replace(r, choice=r.choice or ToolChoice("auto")) if r.parallel is False else r


JSON_IS_NAMED = Rule(_json_is_named, "the word must stand somewhere", "format")


def _anthropic_tool(tool: Tool) -> Tool:
    return tool if tool.is_custom else replace(tool, schema=schemas.for_anthropic(tool.schema, "t")[0])


def _shall_not_think(r: Request) -> bool:
    return r.reasoning is not None and r.reasoning.effort == "none"


def _grown(r: Request) -> Request:
    """The model's texts are pieces of one."""

    def grown(turn: Turn) -> Turn:
        out: list[Block] = []
        for block in turn.blocks:
            if turn.role == "assistant" and out and isinstance(block, Text) and isinstance(out[-1], Text):
                out[-1] = Text(out[-1].text + block.text)
            else:
                out.append(block)
        return Turn(turn.role, tuple(out))

    return replace(r, turns=tuple(map(grown, r.turns)))


def requests(modules: dict) -> dict[str, list[Rule]]:
    """By protocol. `modules` for the ids that they take."""
    chat, responses, anthropic = (modules[name] for name in ("openai_chat", "openai_responses", "anthropic"))
    return {
        "openai_chat": [
            PAIRED, ARRANGED, SAID_ARGUMENTS, NO_CITATIONS, *FOREIGN_THOUGHTS, FOREIGN_CALLS, *NO_OWN_PICTURES,
            Rule(
                lambda r: replace(r, turns=repair.merge_turns(list(map(_chat_turn, r.turns)))), "one field per kind"
            ),
            legal_ids(chat.request.legal_call_id),
            MEDIA_BEHIND, NO_ERRORS, JOINED_RESULTS, PLAIN_RESULTS, NAMELESS_RESULTS,
            Rule(media(_inline), "PDFs are files there, and texts are texts"),
            *no_media({
                "image": lambda m: bool(m.url or m.data),
                "audio": lambda m: bool(m.data and m.media_type in AUDIO),
                "file": lambda m: bool(m.data),
                "video": never,
            }),
            Rule(media(lambda m: replace(m, name=None) if m.kind in ("image", "audio") else m), "no names", "filename"),
            Rule(media(lambda m: replace(m, media_type=None) if m.url else m), "an address tells its type by itself"),
            NAMED,
            JSON_IS_NAMED, ONE_SYSTEM, WHOLE_SCHEMAS, ONLY_STRICT,
            gone(CodeExecution, "code_execution"), gone(WebFetch, "web_fetch"),
            search(allowed=(), blocked=(), max_uses=None),
            Rule(lambda r: r if r.functions else replace(r, choice=None, parallel=None), "only functions are chosen"),
            few_stops(4), NAMED_FORMAT, NO_BUDGET, AS_IT_LIKES,
            Rule(thinking(lambda a: replace(a, is_shown=None)), "whether it is shown, the host decides"),
            *unsaid("top_k"),
            Rule(lambda r: r if r.store else replace(r, metadata={}), "only what is kept has metadata", "metadata"),
            NOT_STORED,
        ],
        "openai_responses": [
            PAIRED, ARRANGED, SAID_ARGUMENTS, NO_CITATIONS, *FOREIGN_THOUGHTS, NO_CALL_SIGNATURES, *NO_OWN_PICTURES,
            legal_ids(responses.request.legal_call_id),
            Rule(blocks(of(ToolResult, _failed_in_parts)), "a result is no error; its text says it", "tool_error"),
            JOINED_RESULTS, NAMELESS_RESULTS,
            *no_media({
                "image": lambda m: bool(m.url or m.data),
                "audio": lambda m: bool(m.data and m.media_type in AUDIO),
                "file": lambda m: bool(m.data or m.url),
                "video": never,
            }),
            Rule(
                media(lambda m: replace(m, name=None) if m.kind in ("image", "audio") or m.url else m),
                "no names of what is no file's data",
                "filename",
            ),
            Rule(media(lambda m: replace(m, media_type=None) if m.url else m), "an address tells its type by itself"),
            NAMED,
            Rule(media(lambda m: replace(m, detail=m.detail or "auto") if m.kind == "image" else m), "must be said"),
            JSON_IS_NAMED, Rule(_one_system, "one text there: the same words in one"), WHOLE_SCHEMAS,
            Rule(tools(of(Tool, lambda t: t if t.is_custom else replace(t, strict=bool(t.strict)))), "must be said"),
            gone(WebFetch, "web_fetch"), search(blocked=(), max_uses=None),
            NO_CHOICE, NAMED_FORMAT, NO_BUDGET, AS_IT_LIKES,
            Rule(
                thinking(lambda a: replace(a, is_shown=True if a.is_shown and a.effort != "none" else None)),
                "not shown is what it does unasked",
            ),
            Rule(
                lambda r: replace(r, max_tokens=None if r.max_tokens is None else max(16, r.max_tokens)),
                "at least 16",
                "max_tokens",
            ),
            Rule(lambda r: replace(r, store=bool(r.store)), "must be said"),
            ZERO_PENALTIES, ONE,
            *unsaid("top_k", "seed", "frequency_penalty", "presence_penalty", "n"),
            Rule(without("stop", ()), "there is no word for it", "stop"),
        ],
        "anthropic": [
            NO_SYSTEM_TURN, PAIRED, ARRANGED, OPENED, NO_CITATIONS, REFUSAL_IS_TEXT, *FOREIGN_THOUGHTS,
            NO_CALL_SIGNATURES,
            *NO_OWN_PICTURES, CUSTOM_CALLS, COMPACT, legal_ids(anthropic.request.legal_call_id),
            PLAIN_RESULTS, NAMELESS_RESULTS, NO_EMPTY_ERRORS,
            *no_media({
                "image": lambda m: bool(m.url or (m.data and m.media_type in IMAGES)),
                "file": _anthropic_document,
                "audio": never,
                "video": never,
            }),
            Rule(media(lambda m: replace(m, detail=None) if m.detail != "auto" else m), "no such word", "detail"),
            Rule(media(lambda m: replace(m, detail=None)), "`auto` is what it does unasked"),
            Rule(media(lambda m: replace(m, name=None) if m.kind == "image" else m), "only documents", "filename"),
            Rule(media(lambda m: replace(m, media_type=None) if m.kind == "image" and m.url else m), "it finds out"),
            Rule(
                media(lambda m: replace(m, media_type="application/pdf") if m.kind == "file" and m.url else m),
                "only PDFs have addresses",
            ),
            Rule(
                media(lambda m: m if m.media_type in (*IMAGES, "application/pdf", None) else replace(
                    m, media_type="text/plain", data=base64.b64encode(base64.b64decode(m.data)).decode()
                )),
                "all texts are plain ones",
            ),
            NO_CUSTOM, Rule(tools(of(Tool, _anthropic_tool)), "a schema says that it is an object"), ONLY_STRICT,
            NO_CHOICE,
            Rule(_anthropic_choice, "with thinking a model chooses freely; and one or all can be named", "choice"),
            NO_PARALLEL,
            Rule(_anthropic_parallel, "said inside the choice"),
            Rule(lambda r: replace(r, max_tokens=r.max_tokens or 8192), "it must be said", "max_tokens"),
            Rule(
                lambda r: replace(r, end_user=r.end_user or r.metadata.get("user_id"))
                if r.metadata.get("user_id") else r,
                "its metadata are the user",
            ),
            Rule(lambda r: replace(r, metadata={}) if set(r.metadata) - {"user_id"} else r, "no others", "metadata"),
            Rule(without("metadata", {}), "its metadata are the user"),
            Rule(
                thinking(lambda a: Reasoning(_effort(a), None, a.is_shown) if a.budget is not None else a),
                "efforts only",
                "reasoning",
            ),
            Rule(thinking(lambda a: replace(a, effort=NEAREST.get(a.effort, a.effort))), "five efforts", "reasoning"),
            Rule(
                thinking(lambda a: replace(a, is_shown=True if a.is_shown and a.effort != "none" else None)),
                "not shown is what it does unasked",
            ),
            Rule(_relaxed("temperature", lambda v: v == 1), "not beside thinking", "temperature"),
            Rule(_relaxed("top_p", lambda v: 0.95 <= v <= 1), "not beside thinking", "top_p"),
            Rule(_relaxed("top_k", lambda v: False), "not beside thinking", "top_k"),
            Rule(
                lambda r: replace(r, temperature=None if r.temperature is None else min(r.temperature, 1)),
                "at most 1",
                "temperature",
            ),
            Rule(lambda r: replace(r, stop=tuple(s for s in r.stop if s.strip())), "no blank ones", "stop"),
            Rule(_in_words, "no JSON without a schema: it is asked for in words", "format"),
            Rule(
                format_(lambda f: replace(f, schema=schemas.strict(f.schema, "s")[0])),
                "all is required",
                "format_schema.required",
            ),
            Rule(format_(lambda f: Format(f.schema, None, None, True)), "a schema has no name there, and is strict"),
            Rule(lambda r: replace(r, tier="default") if r.tier in ("flex", "scale") else r, "fast or not", "tier"),
            ZERO_PENALTIES, ONE, NOT_STORED,
            *unsaid("seed", "frequency_penalty", "presence_penalty", "logprobs"),
            *unsaid("store", "cache_key", "n", "verbosity"),
        ],
        "gemini": [
            NO_SYSTEM_TURN, PAIRED, ARRANGED, OPENED, NO_CITATIONS, REFUSAL_IS_TEXT, *FOREIGN_THOUGHTS, FOREIGN_CALLS,
            CUSTOM_CALLS, COMPACT, Rule(_grown, "texts of the model are pieces of one"),
            MEDIA_BEHIND, PLAIN_RESULTS, NO_EMPTY_ERRORS,
            JOINED_RESULTS,
            Rule(blocks(of(ToolResult, _json_text)), "a result is an object there, not its spelling"),
            *(
                Rule(media(lambda m, k=kind: _note_of_id(m) if m.kind == k and m.file_id else m), "not its id", kind)
                for kind in ("image", "file", "audio", "video")
            ),
            Rule(media(lambda m: replace(m, detail=None) if m.detail != "auto" else m), "no such word", "detail"),
            Rule(media(lambda m: replace(m, detail=None)), "`auto` is what it does unasked"),
            Rule(media(lambda m: replace(m, name=None)), "no names", "filename"),
            Rule(
                media(lambda m: NOTE(m) if m.kind == "image" and m.data and m.media_type not in GEMINI_IMAGES else m),
                "not read",
                "image",
            ),
            Rule(
                media(lambda m: replace(m, kind="file") if m.url and not m.media_type else m),
                "an address does not tell what stands there",
            ),
            NO_CUSTOM, ONLY_STRICT, NO_STRICT,
            Rule(
                tools(of(Tool, lambda t: replace(t, schema={}) if t.schema == NO_PARAMETERS else t)),
                "no parameters are not said there",
            ),
            *(
                Rule(lambda r, k=kind: gone(k, "")[0](r) if r.functions else r, "either functions or its own", loss)
                for kind, loss in (
                    (WebSearch, "web_search"), (CodeExecution, "code_execution"), (WebFetch, "web_fetch"),
                )
            ),
            search(allowed=(), blocked=(), place={}, max_uses=None),
            Rule(lambda r: r if r.functions else replace(r, choice=None, parallel=None), "only functions are chosen"),
            Rule(
                lambda r: replace(r, choice=ToolChoice(r.choice.mode))
                if r.choice and r.choice.names and r.choice.mode != "any" else r,
                "only forced ones are named",
                "choice",
            ),
            NO_PARALLEL,
            *unsaid("parallel"),
            few_stops(5),
            Rule(format_(lambda f: Format(f.schema)), "a schema has no name there, and is always kept to"),
            NO_BUDGET,
            Rule(
                thinking(lambda a: replace(a, effort="high") if a.effort in ("xhigh", "max") else a),
                "four levels",
                "reasoning",
            ),
            Rule(lambda r: r, "these models cannot be kept from it", "reasoning", _shall_not_think),
            Rule(
                thinking(
                    lambda a: Reasoning("none")
                    if a.effort == "none" or (a.effort is None and a.is_shown is False)
                    else replace(a, is_shown=a.is_shown is not False)
                ),
                "it must be said whether it is shown, and not shown is what clients say for none",
            ),
            Rule(lambda r: replace(r, tier=None if r.tier == "auto" else r.tier), "what it does unasked"),
            Rule(lambda r: replace(r, tier="priority") if r.tier == "scale" else r, "no such tier", "tier"),
            Rule(without("metadata", {}), "no labels but on Vertex", "metadata"),
            NOT_STORED,
            *unsaid("verbosity", "end_user", "store", "cache_key"),
        ],
    }  # fmt: skip


# -- replies -------------------------------------------------------------------------------------------------------

SEAL = re.compile(re.escape(signatures.WRAPPED_PREFIX) + "[A-Za-z0-9+/=]*")


def peeled(signature: Signature | None) -> Signature | None:
    """What stands in the innermost envelope, however each protocol carries it; nothing in an empty one."""
    while signature and (found := SEAL.search(signature.value)):
        signature = signatures.unwrap(found[0])
    return signature if signature and signature.value else None


def unsealed(reply: Reply) -> Reply:
    """The reply with its signatures out of all envelopes, and no arguments as {}, so that replies can be compared."""

    def opened(block: Block) -> Block | tuple:
        block = replace(block, signature=peeled(block.signature)) if getattr(block, "signature", None) else block
        return () if block == Thinking("") else block

    return NO_ARGUMENTS.change(parts(opened)(reply))


def answers(change: Callable[[Answer], Answer]):
    return lambda reply: replace(reply, answers=tuple(map(change, reply.answers)))


def parts(change: Callable[[Block], Block | tuple[Block, ...]]):
    """A change of each block of a reply."""
    return answers(lambda a: replace(a, blocks=tuple(found for block in a.blocks for found in _several(change(block)))))


def cited(change: Callable[[Citation, Text], Citation | None]):
    def one(block: Text) -> Text:
        return replace(block, citations=tuple(found for c in block.citations if (found := change(c, block))))

    return parts(of(Text, one))


ONE_ANSWER = Rule(lambda reply: replace(reply, answers=reply.answers[:1]), "one answer there", "n")
NO_SEQUENCE = Rule(answers(lambda a: replace(a, sequence=None)), "that it stopped is told, but not at what")
NO_LOGPROBS = Rule(answers(lambda a: replace(a, logprobs=())), "there is no word for it", "logprobs")
NO_EMPTY_TEXT = Rule(parts(lambda b: () if b == Text("") else b), "nothing is not said")
NO_UNCITABLE = Rule(cited(lambda c, _: c if c.url else None), "only addresses can be cited there", "citations")
SPANS = Rule(
    cited(lambda c, b: replace(c, start=c.start or 0, end=len(b.text) if c.end is None else c.end)),
    "a citation says what it holds for: its block",
)
TITLED = Rule(cited(lambda c, _: replace(c, title=c.title or c.url, quote=None)), "titles are needed, quotes unknown")
SIGNED_BEFORE = Rule(
    parts(
        lambda b: (
            (Thinking("", b.signature), replace(b, signature=None)) if isinstance(b, ToolCall) and b.signature else b
        )
    ),
    "a call's signature travels in a thought of its own before it",
)
NO_ARGUMENTS = Rule(
    parts(of(ToolCall, lambda b: replace(b, arguments=b.arguments or ("" if b.is_custom else "{}")))),
    "no arguments are {}",
)


def _raw(block: ToolCall) -> ToolCall:
    if block.is_custom:
        return block
    try:
        if isinstance(orjson.loads(block.arguments), dict):
            return block
    except ValueError:
        pass
    raw = orjson.dumps({"raw_arguments": block.arguments}).decode()
    return replace(block, arguments=raw)


OBJECTS = Rule(parts(of(ToolCall, _raw)), "arguments are an object there", "arguments")
SPELLING = Rule(parts(of(ToolCall, _compact)), "arguments are an object there, not its spelling")
PLAIN_REFUSAL = Rule(parts(of(Refusal, _refused)), "the words stay, and so does why it stopped")
BY_CALLS = Rule(
    answers(
        lambda a: replace(a, stop="tools") if a.stop == "stop" and any(isinstance(b, ToolCall) for b in a.blocks) else a
    ),
    "that it stopped for calls is told by the calls",
)
NOT_BY_CALLS = Rule(
    answers(
        lambda a: (
            replace(a, stop="stop") if a.stop == "tools" and not any(isinstance(b, ToolCall) for b in a.blocks) else a
        )
    ),
    "that it stopped for calls is told by the calls",
)


def seen(is_seen: Callable[[Media], bool]) -> tuple[Rule, ...]:
    return tuple(
        Rule(
            parts(lambda b, k=kind: () if isinstance(b, Media) and b.kind == k and not is_seen(b) else b),
            "not shown",
            kind,
        )
        for kind in ("image", "file", "audio", "video")
    )


def used(change: Callable[[Usage], Usage]):
    return lambda reply: replace(reply, usage=change(reply.usage or Usage()))


ONE_WRITE = Rule(
    used(
        lambda u: replace(
            u, cache_write_tokens=u.cache_creation_tokens, cache_write_5m_tokens=0, cache_write_1h_tokens=0
        )
    ),
    "how long a cache lives is told by no other vendor",
)


def _merged(found: list[Block]) -> list[Block]:
    """Neighbouring pieces of one text, and of one thought, as one."""
    out: list[Block] = []
    for block in found:
        match (out[-1] if out else None), block:
            case Text(before, citations), Text(text, more):
                out[-1] = Text(before + text, (*citations, *more))
            case Thinking(before, None), Thinking(text, signature):
                out[-1] = Thinking(before + text, signature)
            case _:
                out.append(block)
    return out


def _chat_answer(answer: Answer) -> Answer:
    kinds = (Thinking, Text, Refusal, Media, ToolCall)
    found = [block for kind in kinds for block in answer.blocks if isinstance(block, kind)]
    return replace(answer, blocks=tuple(_merged(found)))


def _blocked(answer: Answer) -> Answer:
    is_blocked = answer.stop == "filtered" and not answer.blocks
    return replace(answer, blocks=(Refusal("blocked_by_other"),)) if is_blocked else answer


def _blocked_alone(reply: Reply) -> Reply:
    return answers(_blocked)(reply) if len(reply.answers) == 1 else reply


def _last_cites(answer: Answer) -> Answer:
    """Citations come last and hold for the whole: the last text has them."""
    start, found = 0, []
    for block in answer.blocks:
        if isinstance(block, Text):
            found += [replace(c, start=start + c.start, end=start + c.end, quote=None) for c in block.citations]
            start += len(block.text)
    last = max((i for i, b in enumerate(answer.blocks) if isinstance(b, Text)), default=None)
    return replace(
        answer,
        blocks=tuple(
            replace(b, citations=tuple(found) if i == last else ()) if isinstance(b, Text) else b
            for i, b in enumerate(answer.blocks)
        ),
    )


def replies(is_stream: bool) -> dict[str, list[Rule]]:
    """By protocol. In a stream, arguments are written as they come, where the protocol has pieces of them."""
    return {
        "openai_chat": [
            ONE_WRITE, NO_SEQUENCE, NO_EMPTY_TEXT, NO_UNCITABLE, SPANS, TITLED, NO_ARGUMENTS, BY_CALLS,
            *seen(lambda m: m.kind == "image" and bool(m.url or m.data)),
            Rule(answers(_chat_answer), "a message has one field for each kind"),
        ],
        "openai_responses": [
            ONE_WRITE, ONE_ANSWER, NO_SEQUENCE, NO_EMPTY_TEXT, NO_UNCITABLE, SPANS, TITLED, NO_ARGUMENTS, BY_CALLS,
            NOT_BY_CALLS, SIGNED_BEFORE, *seen(lambda m: m.kind == "image" and bool(m.data)),
            Rule(lambda reply: replace(reply, tier=reply.tier or "default"), "it must be said"),
        ],
        "anthropic": [
            ONE_WRITE, ONE_ANSWER, NO_LOGPROBS, PLAIN_REFUSAL, SIGNED_BEFORE, NO_UNCITABLE, NO_ARGUMENTS,
            *([] if is_stream else [OBJECTS, SPELLING]), *seen(lambda m: False),
            Rule(cited(lambda c, _: replace(c, start=None, end=None, quote=c.quote or "")), "a block cites as a whole"),
            Rule(
                lambda reply: replace(reply, tier={"flex": "default", "scale": "default"}.get(reply.tier, reply.tier)),
                "fast or not",
            ),
        ],
        "gemini": [
            ONE_WRITE, NO_SEQUENCE, PLAIN_REFUSAL, NO_EMPTY_TEXT, NO_UNCITABLE, SPANS, NO_ARGUMENTS, OBJECTS, SPELLING,
            BY_CALLS, NOT_BY_CALLS, *seen(lambda m: bool(m.data)),
            Rule(answers(lambda a: replace(a, blocks=tuple(_merged(list(a.blocks))))), "texts are pieces of one"),
            Rule(answers(_last_cites), "citations hold for all of it"),
            Rule(_blocked_alone, "a filter that let nothing through is told of the prompt"),
            Rule(lambda reply: replace(reply, tier=None), "it does not tell"),
            Rule(
                used(lambda u: replace(u, input_tokens=u.input_tokens + u.cache_write_tokens, cache_write_tokens=0)),
                "what is written into a cache is not told apart",
            ),
        ],
    }  # fmt: skip
