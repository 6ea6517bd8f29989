"""The changes that a hub value undergoes when it is written in a protocol and read back, and the losses to report.

Each protocol has a list of rules, applied in order. A rule with a `loss` that changes a value must be reported. A rule
without a loss changes the form only, not the meaning, and `why` gives the reason.
"""

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import orjson

from gproxy.protocols import hub, repair, schemas, signatures
from gproxy.protocols.custom_tools import FREE_INPUT
from gproxy.protocols.losses import Losses
from tests.conversations import PROVIDER


class Rule(NamedTuple):
    change: Callable  # of a Request or a Reply
    why: str
    loss: str | None = None
    when: Callable | None = None  # the loss must also be reported then, although the value stays the same


def apply(rules: list[Rule], value) -> tuple[object, set[str]]:
    """Returns the changed value and the losses to report."""
    lost = set()
    for rule in rules:
        changed = rule.change(value)
        if rule.loss and (changed != value or (rule.when and rule.when(value))):
            lost.add(rule.loss)
        value = changed
    return value, lost


def each_block(change: Callable[[hub.Block, hub.Turn], hub.Block | tuple[hub.Block, ...]], inside: bool = False):
    """A change of each block of a request; with `inside` also of the blocks in tool results."""

    def changed(turn: hub.Turn) -> Iterator[hub.Block]:
        for block in turn.blocks:
            if inside and isinstance(block, hub.ToolResult):
                block = replace(
                    block, blocks=tuple(new for inner in block.blocks for new in _as_tuple(change(inner, turn)))
                )
            yield from _as_tuple(change(block, turn))

    return lambda r: replace(
        r, turns=repair.merge_turns([hub.Turn(turn.role, tuple(changed(turn))) for turn in r.turns])
    )


def _as_tuple(value) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def each_media(change: Callable[[hub.Media], hub.Block]):
    """A change of the media in user turns."""
    return each_block(
        lambda block, turn: change(block) if isinstance(block, hub.Media) and turn.role != "assistant" else block,
        inside=True,
    )


def without(name: str, value=None):
    return lambda r: replace(r, **{name: value})


def omission_note(form: str):
    return lambda m: hub.Text(form.format(m.name or m.media_type or m.kind))


OMITTED = omission_note("[{} omitted: this model cannot read it]")


def _omitted_id(m: hub.Media) -> hub.Text:
    return OMITTED(replace(m, media_type=None))


NO_PARAMETERS = {"type": "object", "properties": {}}


def each_tool(change: Callable[[hub.Tool], hub.Tool | None]):
    return lambda r: replace(r, tools=tuple(new for tool in r.tools if (new := change(tool)) is not None))


def only(kind: type, change: Callable):
    """A change of blocks, or of tools, of one type only."""
    return lambda value, *more: change(value) if isinstance(value, kind) else value


# -- requests: rules of several protocols --------------------------------------------------------------------------


def _with_pairs(r: hub.Request) -> hub.Request:
    """Adds missing calls and results. tests/protocols/test_repair.py proves the details."""
    losses = Losses()
    turns = repair.pair_results(r.turns, losses)
    return replace(r, turns=turns) if losses.names() else r


PAIRED = Rule(_with_pairs, "a result without a call, or a call without a result, is an error", "tool_result")
UNIQUE_IDS = Rule(
    lambda r: replace(r, turns=repair.pair_results(r.turns, Losses())),
    "repeated ids become unique, and a result has the type of its call",
)


def _user_first(r: hub.Request) -> hub.Request:
    is_open = r.turns and r.turns[0].role == "user"
    return r if is_open else replace(r, turns=(hub.Turn("user", (hub.Text(repair.FIRST_USER_TEXT),)), *r.turns))


USER_FIRST = Rule(_user_first, "the first turn must be the user's", "turns")
NO_SYSTEM_TURN = Rule(
    lambda r: replace(r, turns=repair.without_system(r.turns, Losses())), "no system turns", "system_turn"
)
ONE_SYSTEM = Rule(
    lambda r: replace(r, system=("\n".join(r.system),) if r.system else ()), "system texts are joined into one"
)
NO_CITATIONS = Rule(
    each_block(only(hub.Text, lambda b: replace(b, citations=()))),
    "citations cannot be sent back",
    "citations",
)


def _refusal_as_text(block: hub.Block) -> hub.Block:
    return hub.Text(block.text)


REFUSAL_IS_TEXT = Rule(each_block(only(hub.Refusal, _refusal_as_text)), "no refusals; the text stays", "refusal")


def _is_from_provider(signature: hub.Signature | None) -> bool:
    return signature is not None and signature.origin == PROVIDER


def _without_thinking(is_dropped: Callable[[hub.Thinking], bool], loss: str) -> Rule:
    return Rule(
        each_block(lambda b, _: () if isinstance(b, hub.Thinking) and is_dropped(b) else b),
        "a vendor accepts only thinking that it signed itself",
        loss,
    )


FOREIGN_THOUGHTS = (
    _without_thinking(lambda b: not _is_from_provider(b.signature) and bool(b.signature) and not b.text, "signature"),
    _without_thinking(lambda b: not _is_from_provider(b.signature), "thinking"),
)
FOREIGN_CALLS = Rule(
    each_block(only(hub.ToolCall, lambda b: b if _is_from_provider(b.signature) else replace(b, signature=None))),
    "a vendor accepts only its own signatures",
    "signature",
)
NO_CALL_SIGNATURES = Rule(
    each_block(only(hub.ToolCall, lambda b: replace(b, signature=None))), "calls have no signature", "signature"
)
NAMELESS_RESULTS = Rule(
    each_block(only(hub.ToolResult, lambda b: replace(b, name=None))),
    "a result has the id of its call, and the call has the name",
)
PLAIN_RESULTS = Rule(
    each_block(only(hub.ToolResult, lambda b: replace(b, is_custom=False))),
    "the call shows whether the tool is custom",
)


def _joined_result(block: hub.ToolResult) -> hub.ToolResult:
    if all(isinstance(inner, hub.Text) for inner in block.blocks) and block.blocks:
        return replace(block, blocks=(hub.Text("\n".join(inner.text for inner in block.blocks)),))
    return block


EMPTY_ARGUMENTS = Rule(
    each_block(only(hub.ToolCall, lambda b: replace(b, arguments=b.arguments or ("" if b.is_custom else "{}")))),
    "empty arguments become {}",
)
JOINED_RESULTS = Rule(each_block(only(hub.ToolResult, _joined_result)), "texts of a result are joined into one")


def _error_as_text(block: hub.ToolResult) -> hub.ToolResult:
    if not block.is_error:
        return block
    texts = "\n".join(inner.text for inner in block.blocks if isinstance(inner, hub.Text))
    return replace(block, is_error=False, blocks=(hub.Text(f"Error: {texts}" if texts else "Error"),))


NO_ERRORS = Rule(
    each_block(only(hub.ToolResult, _error_as_text)), "no error flag; the text states the error", "tool_error"
)


def _media_after_results(r: hub.Request) -> hub.Request:
    turns = []
    for turn in r.turns:
        results, others = [], []
        for block in turn.blocks:
            if isinstance(block, hub.ToolResult):
                others += [inner for inner in block.blocks if isinstance(inner, hub.Media)]
                block = replace(block, blocks=tuple(inner for inner in block.blocks if isinstance(inner, hub.Text)))
                results.append(block)
            else:
                others.append(block)
        turns.append(hub.Turn(turn.role, (*results, *others)))
    return replace(r, turns=tuple(turns))


MEDIA_AFTER_RESULTS = Rule(_media_after_results, "a result contains only text; its media follow it", "tool_media")
NO_OWN_PICTURES = tuple(
    Rule(
        each_block(
            lambda b, turn, k=kind: () if isinstance(b, hub.Media) and b.kind == k and turn.role == "assistant" else b
        ),
        "an assistant turn cannot contain media",
        kind,
    )
    for kind in ("image", "file", "audio", "video")
)


def no_media(kinds: dict[str, Callable[[hub.Media], bool]]) -> tuple[Rule, ...]:
    """Rules that replace unreadable media by a note. `kinds`: kind -> whether the vendor reads a medium."""
    return tuple(
        Rule(
            each_media(lambda m, k=kind, is_read=is_read: OMITTED(m) if m.kind == k and not is_read(m) else m),
            "unreadable",
            kind,
        )
        for kind, is_read in kinds.items()
    )


def never(_: hub.Media) -> bool:
    return False


def legal_ids(legal: Callable[[str], str]) -> Rule:
    def change(block: hub.Block, _turn: hub.Turn) -> hub.Block:
        if isinstance(block, hub.ToolCall):
            return replace(block, id=legal(block.id))
        return replace(block, call_id=legal(block.call_id)) if isinstance(block, hub.ToolResult) else block

    return Rule(each_block(change), "ids follow the vendor's rules; equal ids stay equal")


def _compact(block: hub.ToolCall) -> hub.ToolCall:
    if block.is_custom:
        return block
    arguments = orjson.dumps(orjson.loads(block.arguments or "{}")).decode()
    return replace(block, arguments=arguments)


COMPACT = Rule(each_block(only(hub.ToolCall, _compact)), "arguments are an object, so white space is lost")


def _as_function(block: hub.ToolCall) -> hub.ToolCall:
    if not block.is_custom:
        return block
    arguments = orjson.dumps({"input": block.arguments}).decode()
    return replace(block, is_custom=False, arguments=arguments)


CUSTOM_CALLS = Rule(each_block(only(hub.ToolCall, _as_function)), "a custom tool is a function with one text field")
NO_CUSTOM = Rule(
    each_tool(only(hub.Tool, lambda t: replace(t, schema=FREE_INPUT) if t.is_custom else t)),
    "no custom tools",
    "custom",
)
ONLY_STRICT = Rule(
    each_tool(only(hub.Tool, lambda t: replace(t, strict=t.strict or None))), "not strict is the default"
)
NO_STRICT = Rule(each_tool(only(hub.Tool, lambda t: replace(t, strict=None))), "no strict tools", "strict")
FULL_SCHEMAS = Rule(
    each_tool(only(hub.Tool, lambda t: t if t.schema != {} else replace(t, schema=NO_PARAMETERS))),
    "an empty schema is written as an object without properties",
)


def unsupported_tool(kind: type, loss: str) -> Rule:
    return Rule(each_tool(lambda t: None if isinstance(t, kind) else t), "no such tool", loss)


def search_without(**fields) -> Rule:
    return Rule(
        each_tool(only(hub.WebSearch, lambda t: replace(t, **fields))), "its search has no such options", "web_search"
    )


EFFORTS = [(0, "none"), (4096, "minimal"), (8192, "low"), (16384, "medium"), (32768, "high")]


def _effort(reasoning: hub.Reasoning) -> str:
    if reasoning.effort or reasoning.budget is None:
        return reasoning.effort or "medium"
    return next((name for maximum, name in EFFORTS if reasoning.budget <= maximum), "xhigh")


def in_reasoning(change: Callable[[hub.Reasoning], hub.Reasoning]):
    return lambda r: replace(r, reasoning=change(r.reasoning)) if r.reasoning else r


NO_BUDGET = Rule(
    in_reasoning(lambda a: a if a.budget is None else hub.Reasoning(_effort(a), None, a.is_shown)),
    "efforts only",
    "reasoning",
)
OPEN_REASONING = Rule(
    lambda r: r if r.reasoning is None or r.reasoning.effort else replace(r, reasoning=None),
    "to decide by itself is the model's default",
)
NO_CHOICE = Rule(lambda r: r if r.tools else replace(r, choice=None, parallel=None), "no tools to choose from")
NO_PARALLEL = Rule(
    lambda r: replace(r, parallel=None if r.parallel else r.parallel),
    "parallel calls are the default",
)
DEFAULT_PENALTIES = Rule(
    lambda r: replace(r, frequency_penalty=r.frequency_penalty or None, presence_penalty=r.presence_penalty or None),
    "0 is the default",
)
ONE_CHOICE = Rule(lambda r: replace(r, n=None if r.n == 1 else r.n), "1 is the default")
DEFAULT_STORE = Rule(lambda r: replace(r, store=r.store or None), "not to store is the default")


def unsupported(*names: str) -> tuple[Rule, ...]:
    return tuple(Rule(without(name), "no such field", name) for name in names)


def at_most_stops(maximum: int) -> Rule:
    return Rule(lambda r: replace(r, stop=r.stop[:maximum]), f"at most {maximum}", "stop")


def in_format(change: Callable[[hub.Format], hub.Format | None]):
    return lambda r: replace(r, format=change(r.format)) if r.format else r


NAMED_FORMAT = Rule(
    in_format(lambda f: replace(f, name=f.name or "output") if f.schema is not None else f),
    "a schema needs a name",
)

FILE_EXTENSIONS = {"application/pdf": "pdf", "text/plain": "txt", "text/markdown": "md"}
NAMED = Rule(
    each_media(
        lambda m: (
            replace(m, name=m.name or f"file.{FILE_EXTENSIONS.get(m.media_type, 'bin')}")
            if m.kind == "file" and m.data
            else m
        )
    ),
    "a file needs a name",
)

# -- requests ------------------------------------------------------------------------------------------------------

AUDIO = ("audio/wav", "audio/mp3")


def _chat_turn(turn: hub.Turn) -> hub.Turn:
    """A message has one field each for text, refusal and calls."""
    if turn.role != "assistant":
        return turn
    texts = "".join(b.text for b in turn.blocks if isinstance(b, hub.Text))
    refusals = "".join(b.text for b in turn.blocks if isinstance(b, hub.Refusal))
    merged = (*((hub.Text(texts),) if texts else ()), *((hub.Refusal(refusals),) if refusals else ()))
    return hub.Turn("assistant", (*merged, *(b for b in turn.blocks if isinstance(b, hub.ToolCall))))


def _json_text(block: hub.ToolResult) -> hub.ToolResult:
    match block.blocks:
        case (hub.Text(text),) if text.startswith("{") and not block.is_error:
            return replace(block, blocks=(hub.Text(orjson.dumps(orjson.loads(text)).decode()),))
    return block


def _is_text(m: hub.Media) -> bool:
    return (m.media_type or "").startswith("text/") or m.media_type == "application/json"


def _inline(m: hub.Media) -> hub.Block:
    if m.kind != "file" or not m.data or not _is_text(m):
        return m
    text = base64.b64decode(m.data).decode()
    return hub.Text(f"{m.name}:\n{text}" if m.name else text)


def _anthropic_document(m: hub.Media) -> bool:
    return bool(m.url) or bool(m.data and (m.media_type == "application/pdf" or _is_text(m)))


GEMINI_IMAGES = ("image/jpeg", "image/png", "image/webp", "image/heic", "image/heif")
IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
NEAREST_EFFORT = {"minimal": "low"}


def _without_when_thinking(field: str, is_kept: Callable) -> Callable:
    def change(r: hub.Request) -> hub.Request:
        is_thinking = r.reasoning is not None and _effort(r.reasoning) != "none"
        value = getattr(r, field)
        return replace(r, **{field: None}) if is_thinking and value is not None and not is_kept(value) else r

    return change


def _anthropic_choice(r: hub.Request) -> hub.Request:
    """With thinking, no call can be forced. Otherwise one tool can be forced, or any of all tools."""
    if r.choice is None:
        return r
    is_thinking = r.reasoning is not None and _effort(r.reasoning) != "none"
    if r.choice.mode == "any" and is_thinking:
        return replace(r, choice=hub.ToolChoice("auto"))
    if r.choice.names and (r.choice.mode == "auto" or len(r.choice.names) > 1):
        return replace(r, choice=hub.ToolChoice(r.choice.mode))
    return r


def _format_as_prompt(r: hub.Request) -> hub.Request:
    prompt = "Answer with a single JSON object and nothing else."
    return replace(r, format=None, system=(*r.system, prompt)) if r.format and r.format.schema is None else r


def _with_json_word(r: hub.Request) -> hub.Request:
    texts = [*r.system, *(b.text for turn in r.turns for b in turn.blocks if isinstance(b, hub.Text))]
    if r.format != hub.Format() or "json" in " ".join(texts).lower():
        return r
    return replace(r, system=(*r.system, "Answer with a single JSON object and nothing else."))


def _one_system_unless_json(r: hub.Request) -> hub.Request:
    """OpenAI requires the word JSON in the input, and the instructions are then sent there as separate texts."""
    return r if _with_json_word(replace(r, system=())) != replace(r, system=()) else ONE_SYSTEM.change(r)


def _with_error_text(block: hub.ToolResult) -> hub.ToolResult:
    return replace(block, blocks=(hub.Text("Error"),)) if block.is_error and not block.blocks else block


ERROR_TEXT = Rule(each_block(only(hub.ToolResult, _with_error_text)), "an error has a text")


def _error_as_blocks(block: hub.ToolResult) -> hub.ToolResult:
    if not block.is_error or all(isinstance(inner, hub.Text) for inner in block.blocks):
        return _error_as_text(block)
    return replace(block, is_error=False, blocks=(hub.Text("Error:"), *block.blocks))


def _anthropic_parallel(r: hub.Request) -> hub.Request:
    """A field of the tool choice, but not with `none`."""
    if r.choice == hub.ToolChoice("none"):
        return replace(r, parallel=None)
    return replace(r, choice=r.choice or hub.ToolChoice("auto")) if r.parallel is False else r


JSON_WORD = Rule(_with_json_word, "a text must contain the word JSON", "format")


def _anthropic_tool(tool: hub.Tool) -> hub.Tool:
    return tool if tool.is_custom else replace(tool, schema=schemas.for_anthropic(tool.schema, "t")[0])


def _forbids_thinking(r: hub.Request) -> bool:
    return r.reasoning is not None and r.reasoning.effort == "none"


def _one_text(r: hub.Request) -> hub.Request:
    """Adjacent texts of an assistant turn are one text."""

    def merged(turn: hub.Turn) -> hub.Turn:
        out: list[hub.Block] = []
        for block in turn.blocks:
            if turn.role == "assistant" and out and isinstance(block, hub.Text) and isinstance(out[-1], hub.Text):
                out[-1] = hub.Text(out[-1].text + block.text)
            else:
                out.append(block)
        return hub.Turn(turn.role, tuple(out))

    return replace(r, turns=tuple(map(merged, r.turns)))


def requests(modules: dict) -> dict[str, list[Rule]]:
    """The rules of requests by protocol. `modules` are the protocols' modules, for their legal ids."""
    chat, responses, anthropic = (modules[name] for name in ("openai_chat", "openai_responses", "anthropic"))
    return {
        "openai_chat": [
            PAIRED, UNIQUE_IDS, EMPTY_ARGUMENTS, NO_CITATIONS, *FOREIGN_THOUGHTS, FOREIGN_CALLS, *NO_OWN_PICTURES,
            Rule(
                lambda r: replace(r, turns=repair.merge_turns(list(map(_chat_turn, r.turns)))), "one field per kind"
            ),
            legal_ids(chat.request.legal_call_id),
            MEDIA_AFTER_RESULTS, NO_ERRORS, JOINED_RESULTS, PLAIN_RESULTS, NAMELESS_RESULTS,
            Rule(each_media(_inline), "text files become text blocks"),
            *no_media({
                "image": lambda m: bool(m.url or m.data),
                "audio": lambda m: bool(m.data and m.media_type in AUDIO),
                "file": lambda m: bool(m.data),
                "video": never,
            }),
            Rule(
                each_media(lambda m: replace(m, name=None) if m.kind in ("image", "audio") else m),
                "no file names",
                "filename",
            ),
            Rule(each_media(lambda m: replace(m, media_type=None) if m.url else m), "no media type beside a URL"),
            NAMED,
            JSON_WORD, ONE_SYSTEM, FULL_SCHEMAS, ONLY_STRICT,
            unsupported_tool(hub.CodeExecution, "code_execution"), unsupported_tool(hub.WebFetch, "web_fetch"),
            search_without(allowed=(), blocked=(), max_uses=None),
            Rule(lambda r: r if r.functions else replace(r, choice=None, parallel=None), "a choice needs functions"),
            at_most_stops(4), NAMED_FORMAT, NO_BUDGET, OPEN_REASONING,
            Rule(in_reasoning(lambda a: replace(a, is_shown=None)), "the host decides whether thinking is shown"),
            *unsupported("top_k"),
            Rule(lambda r: r if r.store else replace(r, metadata={}), "metadata needs store", "metadata"),
            DEFAULT_STORE,
        ],
        "openai_responses": [
            PAIRED, UNIQUE_IDS, EMPTY_ARGUMENTS, NO_CITATIONS, *FOREIGN_THOUGHTS, NO_CALL_SIGNATURES, *NO_OWN_PICTURES,
            legal_ids(responses.request.legal_call_id),
            Rule(
                each_block(only(hub.ToolResult, _error_as_blocks)),
                "no error flag; the text states the error",
                "tool_error",
            ),
            JOINED_RESULTS, NAMELESS_RESULTS,
            *no_media({
                "image": lambda m: bool(m.url or m.data),
                "audio": lambda m: bool(m.data and m.media_type in AUDIO),
                "file": lambda m: bool(m.data or m.url),
                "video": never,
            }),
            Rule(
                each_media(lambda m: replace(m, name=None) if m.kind in ("image", "audio") or m.url else m),
                "only data of files has a name",
                "filename",
            ),
            Rule(each_media(lambda m: replace(m, media_type=None) if m.url else m), "no media type beside a URL"),
            NAMED,
            Rule(
                each_media(lambda m: replace(m, detail=m.detail or "auto") if m.kind == "image" else m),
                "a required field",
            ),
            JSON_WORD, Rule(_one_system_unless_json, "system texts are joined into one"), FULL_SCHEMAS,
            Rule(
                each_tool(only(hub.Tool, lambda t: t if t.is_custom else replace(t, strict=bool(t.strict)))),
                "a required field",
            ),
            unsupported_tool(hub.WebFetch, "web_fetch"), search_without(blocked=(), max_uses=None),
            NO_CHOICE, NAMED_FORMAT, NO_BUDGET, OPEN_REASONING,
            Rule(
                in_reasoning(lambda a: replace(a, is_shown=True if a.is_shown and a.effort != "none" else None)),
                "hidden is the default",
            ),
            Rule(
                lambda r: replace(r, max_tokens=None if r.max_tokens is None else max(16, r.max_tokens)),
                "at least 16",
                "max_tokens",
            ),
            Rule(lambda r: replace(r, store=bool(r.store)), "a required field"),
            DEFAULT_PENALTIES, ONE_CHOICE,
            *unsupported("top_k", "seed", "frequency_penalty", "presence_penalty", "n"),
            Rule(without("stop", ()), "no such field", "stop"),
        ],
        "anthropic": [
            NO_SYSTEM_TURN, PAIRED, UNIQUE_IDS, USER_FIRST, NO_CITATIONS, REFUSAL_IS_TEXT, *FOREIGN_THOUGHTS,
            NO_CALL_SIGNATURES,
            *NO_OWN_PICTURES, CUSTOM_CALLS, COMPACT, legal_ids(anthropic.request.legal_call_id),
            PLAIN_RESULTS, NAMELESS_RESULTS, ERROR_TEXT,
            *no_media({
                "image": lambda m: bool(m.url or (m.data and m.media_type in IMAGES)),
                "file": _anthropic_document,
                "audio": never,
                "video": never,
            }),
            Rule(each_media(lambda m: replace(m, detail=None) if m.detail != "auto" else m), "no such field", "detail"),
            Rule(each_media(lambda m: replace(m, detail=None)), "`auto` is the default"),
            Rule(
                each_media(lambda m: replace(m, name=None) if m.kind == "image" else m),
                "only documents have a name",
                "filename",
            ),
            Rule(
                each_media(lambda m: replace(m, media_type=None) if m.kind == "image" and m.url else m),
                "no media type beside the URL of an image",
            ),
            Rule(
                each_media(lambda m: replace(m, media_type="application/pdf") if m.kind == "file" and m.url else m),
                "a URL is always a PDF's",
            ),
            Rule(
                each_media(lambda m: m if m.media_type in (*IMAGES, "application/pdf", None) else replace(
                    m, media_type="text/plain", data=base64.b64encode(base64.b64decode(m.data)).decode()
                )),
                "every text type becomes text/plain",
            ),
            NO_CUSTOM, Rule(each_tool(only(hub.Tool, _anthropic_tool)), "a schema has the type object"), ONLY_STRICT,
            NO_CHOICE,
            Rule(_anthropic_choice, "thinking forbids forced calls; one tool or all can be named", "choice"),
            NO_PARALLEL,
            Rule(_anthropic_parallel, "a field of the choice"),
            Rule(lambda r: replace(r, max_tokens=r.max_tokens or 8192), "a required field", "max_tokens"),
            Rule(
                lambda r: replace(r, end_user=r.end_user or r.metadata.get("user_id"))
                if r.metadata.get("user_id") else r,
                "its metadata contain only the user",
            ),
            Rule(
                lambda r: replace(r, metadata={}) if set(r.metadata) - {"user_id"} else r,
                "no other metadata",
                "metadata",
            ),
            Rule(without("metadata", {}), "its metadata contain only the user"),
            Rule(
                in_reasoning(lambda a: hub.Reasoning(_effort(a), None, a.is_shown) if a.budget is not None else a),
                "efforts only",
                "reasoning",
            ),
            Rule(
                in_reasoning(lambda a: replace(a, effort=NEAREST_EFFORT.get(a.effort, a.effort))),
                "five efforts",
                "reasoning",
            ),
            Rule(
                in_reasoning(lambda a: replace(a, is_shown=True if a.is_shown and a.effort != "none" else None)),
                "hidden is the default",
            ),
            Rule(_without_when_thinking("temperature", lambda v: v == 1), "not together with thinking", "temperature"),
            Rule(_without_when_thinking("top_p", lambda v: 0.95 <= v <= 1), "not together with thinking", "top_p"),
            Rule(_without_when_thinking("top_k", lambda v: False), "not together with thinking", "top_k"),
            Rule(
                lambda r: replace(r, temperature=None if r.temperature is None else min(r.temperature, 1)),
                "at most 1",
                "temperature",
            ),
            Rule(lambda r: replace(r, stop=tuple(s for s in r.stop if s.strip())), "no blank stop sequences", "stop"),
            Rule(_format_as_prompt, "no JSON without a schema: a prompt asks for it", "format"),
            Rule(
                in_format(lambda f: replace(f, schema=schemas.strict(f.schema, "s")[0])),
                "all properties are required",
                "format_schema.required",
            ),
            Rule(
                in_format(lambda f: hub.Format(f.schema, None, None, True)),
                "a schema has no name and is always strict",
            ),
            Rule(lambda r: replace(r, tier="default") if r.tier in ("flex", "scale") else r, "only two tiers", "tier"),
            DEFAULT_PENALTIES, ONE_CHOICE, DEFAULT_STORE,
            *unsupported("seed", "frequency_penalty", "presence_penalty", "logprobs"),
            *unsupported("store", "cache_key", "n", "verbosity"),
        ],
        "gemini": [
            NO_SYSTEM_TURN, PAIRED, UNIQUE_IDS, USER_FIRST, NO_CITATIONS, REFUSAL_IS_TEXT, *FOREIGN_THOUGHTS,
            FOREIGN_CALLS,
            CUSTOM_CALLS, COMPACT, Rule(_one_text, "adjacent texts of the model are one text"),
            MEDIA_AFTER_RESULTS, PLAIN_RESULTS, ERROR_TEXT,
            JOINED_RESULTS,
            Rule(each_block(only(hub.ToolResult, _json_text)), "a result is an object, so white space is lost"),
            *(
                Rule(
                    each_media(lambda m, k=kind: _omitted_id(m) if m.kind == k and m.file_id else m),
                    "no ids of files",
                    kind,
                )
                for kind in ("image", "file", "audio", "video")
            ),
            Rule(each_media(lambda m: replace(m, detail=None) if m.detail != "auto" else m), "no such field", "detail"),
            Rule(each_media(lambda m: replace(m, detail=None)), "`auto` is the default"),
            Rule(each_media(lambda m: replace(m, name=None)), "no file names", "filename"),
            Rule(
                each_media(
                    lambda m: OMITTED(m) if m.kind == "image" and m.data and m.media_type not in GEMINI_IMAGES else m
                ),
                "unreadable",
                "image",
            ),
            Rule(
                each_media(lambda m: replace(m, kind="file") if m.url and not m.media_type else m),
                "a URL without a type may be any file",
            ),
            NO_CUSTOM, ONLY_STRICT, NO_STRICT,
            Rule(
                each_tool(only(hub.Tool, lambda t: replace(t, schema={}) if t.schema == NO_PARAMETERS else t)),
                "no parameters are an empty schema",
            ),
            *(
                Rule(
                    lambda r, k=kind: unsupported_tool(k, "")[0](r) if r.functions else r,
                    "either functions or the vendor's tools",
                    loss,
                )
                for kind, loss in (
                    (hub.WebSearch, "web_search"),
                    (hub.CodeExecution, "code_execution"),
                    (hub.WebFetch, "web_fetch"),
                )
            ),
            search_without(allowed=(), blocked=(), place={}, max_uses=None),
            Rule(lambda r: r if r.functions else replace(r, choice=None, parallel=None), "a choice needs functions"),
            Rule(
                lambda r: replace(r, choice=hub.ToolChoice(r.choice.mode))
                if r.choice and r.choice.names and r.choice.mode != "any" else r,
                "names need mode any",
                "choice",
            ),
            NO_PARALLEL,
            *unsupported("parallel"),
            at_most_stops(5),
            Rule(in_format(lambda f: hub.Format(f.schema)), "a schema has no name and is always strict"),
            NO_BUDGET,
            Rule(
                in_reasoning(lambda a: replace(a, effort="high") if a.effort in ("xhigh", "max") else a),
                "four levels",
                "reasoning",
            ),
            Rule(lambda r: r, "these models always think", "reasoning", _forbids_thinking),
            Rule(
                in_reasoning(
                    lambda a: hub.Reasoning("none")
                    if a.effort == "none" or (a.effort is None and a.is_shown is False)
                    else replace(a, is_shown=a.is_shown is not False)
                ),
                "a required flag; clients send false for no thinking",
            ),
            Rule(lambda r: replace(r, tier=None if r.tier == "auto" else r.tier), "the default"),
            Rule(lambda r: replace(r, tier="priority") if r.tier == "scale" else r, "no such tier", "tier"),
            Rule(without("metadata", {}), "only Vertex has labels", "metadata"),
            DEFAULT_STORE,
            *unsupported("verbosity", "end_user", "store", "cache_key"),
        ],
    }  # fmt: skip


# -- replies -------------------------------------------------------------------------------------------------------

WRAPPED = re.compile(re.escape(signatures.WRAPPED_PREFIX) + "[A-Za-z0-9+/=]*")


def innermost(signature: hub.Signature | None) -> hub.Signature | None:
    """Returns the innermost wrapped signature, None when its value is empty."""
    while signature and (match := WRAPPED.search(signature.value)):
        signature = signatures.unwrap(match[0])
    return signature if signature and signature.value else None


def comparable(reply: hub.Reply) -> hub.Reply:
    """Returns the reply with unwrapped signatures and with {} for empty arguments, so that replies can be compared."""

    def unwrapped(block: hub.Block) -> hub.Block | tuple:
        block = replace(block, signature=innermost(block.signature)) if getattr(block, "signature", None) else block
        return () if block == hub.Thinking("") else block

    return NO_ARGUMENTS.change(each_reply_block(unwrapped)(reply))


def each_answer(change: Callable[[hub.Answer], hub.Answer]):
    return lambda reply: replace(reply, answers=tuple(map(change, reply.answers)))


def each_reply_block(change: Callable[[hub.Block], hub.Block | tuple[hub.Block, ...]]):
    """A change of each block of a reply."""
    return each_answer(
        lambda a: replace(a, blocks=tuple(new for block in a.blocks for new in _as_tuple(change(block))))
    )


def each_citation(change: Callable[[hub.Citation, hub.Text], hub.Citation | None]):
    def changed(block: hub.Text) -> hub.Text:
        return replace(block, citations=tuple(new for c in block.citations if (new := change(c, block))))

    return each_reply_block(only(hub.Text, changed))


ONE_ANSWER = Rule(lambda reply: replace(reply, answers=reply.answers[:1]), "one answer", "n")
NO_SEQUENCE = Rule(each_answer(lambda a: replace(a, sequence=None)), "no stop sequence in replies")
NO_LOGPROBS = Rule(each_answer(lambda a: replace(a, logprobs=())), "no such field", "logprobs")
NO_EMPTY_TEXT = Rule(each_reply_block(lambda b: () if b == hub.Text("") else b), "an empty text is not sent")
NO_UNCITABLE = Rule(each_citation(lambda c, _: c if c.url else None), "only URLs can be cited", "citations")
SPANS = Rule(
    each_citation(lambda c, b: replace(c, start=c.start or 0, end=len(b.text) if c.end is None else c.end)),
    "a citation needs a range: its block",
)
TITLED = Rule(
    each_citation(lambda c, _: replace(c, title=c.title or c.url, quote=None)),
    "a title is required, and there are no quotes",
)
SIGNATURE_BEFORE_CALL = Rule(
    each_reply_block(
        lambda b: (
            (hub.Thinking("", b.signature), replace(b, signature=None))
            if isinstance(b, hub.ToolCall) and b.signature
            else b
        )
    ),
    "a call's signature is sent in a thinking block before it",
)
NO_ARGUMENTS = Rule(
    each_reply_block(only(hub.ToolCall, lambda b: replace(b, arguments=b.arguments or ("" if b.is_custom else "{}")))),
    "empty arguments become {}",
)


def _raw_arguments(block: hub.ToolCall) -> hub.ToolCall:
    if block.is_custom:
        return block
    try:
        if isinstance(orjson.loads(block.arguments), dict):
            return block
    except ValueError:
        pass
    raw = orjson.dumps({"raw_arguments": block.arguments}).decode()
    return replace(block, arguments=raw)


RAW_ARGUMENTS = Rule(each_reply_block(only(hub.ToolCall, _raw_arguments)), "arguments are an object", "arguments")
COMPACT_REPLY = Rule(each_reply_block(only(hub.ToolCall, _compact)), "arguments are an object, so white space is lost")
PLAIN_REFUSAL = Rule(each_reply_block(only(hub.Refusal, _refusal_as_text)), "the text and the stop reason stay")
STOP_FOR_CALLS = Rule(
    each_answer(
        lambda a: (
            replace(a, stop="tools") if a.stop == "stop" and any(isinstance(b, hub.ToolCall) for b in a.blocks) else a
        )
    ),
    "the calls decide whether the model stopped for calls",
)
STOP_WITHOUT_CALLS = Rule(
    each_answer(
        lambda a: (
            replace(a, stop="stop")
            if a.stop == "tools" and not any(isinstance(b, hub.ToolCall) for b in a.blocks)
            else a
        )
    ),
    "the calls decide whether the model stopped for calls",
)


def only_media(is_sent: Callable[[hub.Media], bool]) -> tuple[Rule, ...]:
    return tuple(
        Rule(
            each_reply_block(
                lambda b, k=kind: () if isinstance(b, hub.Media) and b.kind == k and not is_sent(b) else b
            ),
            "not sent",
            kind,
        )
        for kind in ("image", "file", "audio", "video")
    )


def in_usage(change: Callable[[hub.Usage], hub.Usage]):
    return lambda reply: replace(reply, usage=change(reply.usage or hub.Usage()))


ONE_WRITE = Rule(
    in_usage(
        lambda u: replace(
            u, cache_write_tokens=u.cache_creation_tokens, cache_write_5m_tokens=0, cache_write_1h_tokens=0
        )
    ),
    "no other vendor reports the lifetime of caches",
)


def _merged(blocks: list[hub.Block]) -> list[hub.Block]:
    """Merges adjacent texts, and adjacent thinking blocks."""
    out: list[hub.Block] = []
    for block in blocks:
        match (out[-1] if out else None), block:
            case hub.Text(before, citations), hub.Text(text, more):
                out[-1] = hub.Text(before + text, (*citations, *more))
            case hub.Thinking(before, None), hub.Thinking(text, signature):
                out[-1] = hub.Thinking(before + text, signature)
            case _:
                out.append(block)
    return out


def _chat_answer(answer: hub.Answer) -> hub.Answer:
    kinds = (hub.Thinking, hub.Text, hub.Refusal, hub.Media, hub.ToolCall)
    ordered = [block for kind in kinds for block in answer.blocks if isinstance(block, kind)]
    return replace(answer, blocks=tuple(_merged(ordered)))


def _blocked(answer: hub.Answer) -> hub.Answer:
    is_blocked = answer.stop == "filtered" and not answer.blocks
    return replace(answer, blocks=(hub.Refusal("blocked_by_other"),)) if is_blocked else answer


def _blocked_alone(reply: hub.Reply) -> hub.Reply:
    return each_answer(_blocked)(reply) if len(reply.answers) == 1 else reply


def _last_cites(answer: hub.Answer) -> hub.Answer:
    """Citations are sent last, with offsets into the whole text: the last text gets all of them."""
    start, citations = 0, []
    for block in answer.blocks:
        if isinstance(block, hub.Text):
            citations += [replace(c, start=start + c.start, end=start + c.end, quote=None) for c in block.citations]
            start += len(block.text)
    last = max((i for i, b in enumerate(answer.blocks) if isinstance(b, hub.Text)), default=None)
    return replace(
        answer,
        blocks=tuple(
            replace(b, citations=tuple(citations) if i == last else ()) if isinstance(b, hub.Text) else b
            for i, b in enumerate(answer.blocks)
        ),
    )


def replies(is_stream: bool) -> dict[str, list[Rule]]:
    """The rules of replies by protocol. A stream keeps the spelling of arguments that the protocol sends in parts."""
    return {
        "openai_chat": [
            ONE_WRITE, NO_SEQUENCE, NO_EMPTY_TEXT, NO_UNCITABLE, SPANS, TITLED, NO_ARGUMENTS, STOP_FOR_CALLS,
            *only_media(lambda m: m.kind == "image" and bool(m.url or m.data)),
            Rule(each_answer(_chat_answer), "a message has one field per kind"),
        ],
        "openai_responses": [
            ONE_WRITE, ONE_ANSWER, NO_SEQUENCE, NO_EMPTY_TEXT, NO_UNCITABLE, SPANS, TITLED, NO_ARGUMENTS,
            STOP_FOR_CALLS,
            STOP_WITHOUT_CALLS, SIGNATURE_BEFORE_CALL, *only_media(lambda m: m.kind == "image" and bool(m.data)),
            Rule(lambda reply: replace(reply, tier=reply.tier or "default"), "a required field"),
        ],
        "anthropic": [
            ONE_WRITE, ONE_ANSWER, NO_LOGPROBS, PLAIN_REFUSAL, SIGNATURE_BEFORE_CALL, NO_UNCITABLE, NO_ARGUMENTS,
            *([] if is_stream else [RAW_ARGUMENTS, COMPACT_REPLY]), *only_media(lambda m: False),
            Rule(
                each_citation(lambda c, _: replace(c, start=None, end=None, quote=c.quote or "")),
                "a citation covers its whole block",
            ),
            Rule(
                lambda reply: replace(reply, tier={"flex": "default", "scale": "default"}.get(reply.tier, reply.tier)),
                "only two tiers",
            ),
        ],
        "gemini": [
            ONE_WRITE, NO_SEQUENCE, PLAIN_REFUSAL, NO_EMPTY_TEXT, NO_UNCITABLE, SPANS, NO_ARGUMENTS, RAW_ARGUMENTS,
            COMPACT_REPLY,
            STOP_FOR_CALLS, STOP_WITHOUT_CALLS, *only_media(lambda m: bool(m.data)),
            Rule(
                each_answer(lambda a: replace(a, blocks=tuple(_merged(list(a.blocks))))), "adjacent texts are one text"
            ),
            Rule(each_answer(_last_cites), "citations have offsets into the whole text"),
            Rule(_blocked_alone, "a blocked reply without text is reported as a blocked prompt"),
            Rule(lambda reply: replace(reply, tier=None), "no tier in replies"),
            Rule(
                in_usage(
                    lambda u: replace(u, input_tokens=u.input_tokens + u.cache_write_tokens, cache_write_tokens=0)
                ),
                "cache writes are not reported separately",
            ),
        ],
    }  # fmt: skip
