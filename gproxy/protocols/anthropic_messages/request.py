"""Translates Messages requests to and from the hub. https://docs.anthropic.com/en/api/messages"""

import base64
import hashlib
import re
from collections.abc import Iterator

from gproxy.errors import BadRequest, NoThread
from gproxy.protocols import hub, prompts, reasoning, repair, schemas, validate
from gproxy.protocols.custom_tools import FREE_INPUT, as_arguments
from gproxy.protocols.losses import Losses
from gproxy.protocols.signatures import unwrap

# Hub field -> the client's field, as losses report it.
NAMES = {
    "turns": "messages",
    "system_turn": "messages.role",
    "choice": "tool_choice",
    "parallel": "tool_choice.disable_parallel_tool_use",
    "stop": "stop_sequences",
    "reasoning": "thinking",
    "format": "output_config.format",
    "verbosity": "output_config.effort",
    "tier": "service_tier",
    "end_user": "metadata.user_id",
    "image": "messages.content.image",
    "file": "messages.content.document",
    "filename": "messages.content.title",
    "citations": "messages.content.citations",
    "thinking": "messages.content.thinking",
    "signature": "messages.content.signature",
    "tool_result": "messages.content.tool_result",
    "tool_error": "messages.content.is_error",
    "tool_media": "messages.content.tool_result.content",
    "arguments": "messages.content.input",
    "schema": "tools.input_schema",
    "strict": "tools.strict",
    "format_schema": "output_config.format.schema",
    "format_strict": "output_config.format",
    "web_search": "tools.web_search",
    "code_execution": "tools.code_execution",
    "web_fetch": "tools.web_fetch",
}
KNOWN_FIELDS = frozenset(
    (
        "model", "messages", "system", "tools", "tool_choice", "max_tokens", "temperature", "top_p", "top_k",
        "stop_sequences", "stream", "thinking", "output_config", "metadata", "service_tier", "speed",
    )
)  # fmt: skip
MODES = {"auto": "auto", "any": "any", "none": "none", "tool": "any"}
IMAGES = frozenset(("image/jpeg", "image/png", "image/gif", "image/webp"))
ID, MAX_ID = re.compile(r"[A-Za-z0-9_-]+"), 64
# https://docs.anthropic.com/en/docs/agents-and-tools/tool-use/implement-tool-use
TOOL_NAME: tuple[re.Pattern[str], int] = (re.compile(r"[A-Za-z0-9_-]+"), 128)
# Media that may be sent as a URL: https://docs.anthropic.com/en/docs/build-with-claude/vision
URL_KINDS: frozenset[str] = frozenset(("image", "file"))
TIERS_BACK = {"auto": "auto", "priority": "auto"} | dict.fromkeys(("default", "flex", "scale"), "standard_only")
SERVER_TOOLS = (("web_search_", hub.WebSearch), ("code_execution_", hub.CodeExecution), ("web_fetch_", hub.WebFetch))
# The vendor rejects a user id that looks like an e-mail address or a telephone number.
PERSONAL, MAX_USER = re.compile(r"@|^\+?[0-9 ().-]{7,}$"), 256
# `max_tokens` for a model whose maximum output is unknown: every model can write that much.
UNKNOWN_MAXIMUM = 8192
# This vendor has no URLs that only it can open.
OWN_URLS: re.Pattern[str] | None = None


# -- reading -------------------------------------------------------------------------------------------------------


def read_request(body: dict, losses: Losses) -> hub.Request:
    """Returns the request in the hub's types. Raises BadRequest, which names the field."""
    if body.get("thread"):
        raise NoThread("thread: the conversation is kept by the vendor; send it in `messages`")
    for name in body:
        if name not in KNOWN_FIELDS and body[name] is not None:
            losses.report(name)
    output_config = validate.optional_obj(body, "output_config")
    thinking = validate.optional_obj(body, "thinking")
    choice, parallel = _read_choice(validate.optional_obj(body, "tool_choice"))
    return hub.Request(
        turns=_read_turns(body, losses),
        system=_read_system(body.get("system"), losses),
        tools=tuple(_read_tools(body, losses)),
        choice=choice,
        parallel=parallel,
        max_tokens=validate.optional_count(body, "max_tokens", minimum=0),
        temperature=validate.optional_number(body, "temperature"),
        top_p=validate.optional_number(body, "top_p"),
        top_k=validate.optional_count(body, "top_k"),
        stop=validate.texts(body.get("stop_sequences"), "stop_sequences"),
        format=_read_format(output_config),
        reasoning=reasoning.read_anthropic(thinking, output_config, "thinking"),
        tier=_read_tier(body),
        end_user=validate.optional_text(validate.optional_obj(body, "metadata"), "user_id", "metadata"),
    )


def _read_turns(body: dict, losses: Losses) -> tuple[hub.Turn, ...]:
    turns = []
    for place, message in validate.objects(body.get("messages"), "messages"):
        role = validate.text(message.get("role"), f"{place}.role")
        validate.lookup(role, dict.fromkeys(("user", "assistant", "system")), f"{place}.role")
        turns.append(hub.Turn(role, tuple(_read_blocks(message.get("content"), f"{place}.content", losses))))
    return repair.merge_turns(turns)


def _read_system(system, losses: Losses) -> tuple[str, ...]:
    if system is None or isinstance(system, str):
        return (system,) if system and system.strip() else ()
    texts = []
    for place, block in validate.objects(system, "system"):
        text = validate.text(block.get("text"), f"{place}.text")
        _report_unread(block, ("type", "text", "citations"), "system", losses)
        if text.strip():
            texts.append(text)
    return tuple(texts)


def _report_unread(item: dict, known: tuple[str, ...], prefix: str, losses: Losses) -> None:
    for name, value in item.items():
        if name not in known and value is not None:
            losses.report(name if name == "cache_control" else f"{prefix}.{name}")


def _read_blocks(content, place: str, losses: Losses) -> Iterator[hub.Block]:
    if content is None or isinstance(content, str):
        yield hub.Text(content or "")
        return
    for block_place, block in validate.objects(content, place):
        yield from _read_block(block, block_place, losses)


def _read_inner(content, place: str, losses: Losses) -> Iterator[hub.Block]:
    """Yields the blocks inside a tool result or a document: texts and media, no nested containers."""
    if content is None or isinstance(content, str):
        yield hub.Text(content or "")
        return
    for block_place, block in validate.objects(content, place):
        if block.get("type") not in INNER_TYPES:
            losses.report(f"messages.content.{block.get('type')}")
        elif block["type"] == "document" and hub.as_object(block.get("source")).get("type") == "content":
            losses.report("messages.content.document")
        else:
            yield from _read_block(block, block_place, losses)


INNER_TYPES = ("text", "image", "document", "search_result")


def _read_block(block: dict, place: str, losses: Losses) -> Iterator[hub.Block]:
    kind = block.get("type")
    known: tuple[str, ...] = ("type",)
    match kind:
        case "text":
            known += ("text", "citations")
            citations = tuple(map(read_citation, validate.arr(block.get("citations") or [], f"{place}.citations")))
            yield hub.Text(validate.text(block.get("text"), f"{place}.text"), citations)
        case "image":
            known += ("source",)
            yield _read_source(validate.obj(block.get("source"), f"{place}.source"), "image", None, f"{place}.source")
        case "document":
            known += ("source", "title")
            title = validate.optional_text(block, "title", place)
            yield from _read_document(validate.obj(block.get("source"), f"{place}.source"), title, place, losses)
        case "thinking":
            known += ("thinking", "signature")
            signature = unwrap(validate.optional_text(block, "signature", place))
            yield hub.Thinking(validate.text(block.get("thinking"), f"{place}.thinking"), signature)
        case "redacted_thinking":
            known += ("data",)
            yield hub.Thinking("", unwrap(validate.text(block.get("data"), f"{place}.data")))
        case "tool_use":
            known += ("id", "name", "input", "caller")
            arguments = validate.dumps(validate.optional_obj(block, "input", place))
            call_id = validate.text(block.get("id"), f"{place}.id")
            yield hub.ToolCall(call_id, validate.text(block.get("name"), f"{place}.name"), arguments)
        case "tool_result":
            known += ("tool_use_id", "content", "is_error")
            yield _read_result(block, place, losses)
        case "search_result":
            known += ("title", "source", "content")
            losses.report("messages.content.search_result")
            texts = [
                validate.text(item.get("text"), f"{item_place}.text")
                for item_place, item in validate.objects(block.get("content"), f"{place}.content")
            ]
            named = (validate.optional_text(block, name, place) for name in ("title", "source"))
            yield hub.Text("\n".join(filter(None, (*named, *texts))))
        case str():
            # Steps of a vendor's own tools; their outcome is in the text blocks.
            losses.report(f"messages.content.{kind}")
            return
        case _:
            raise BadRequest(f"{place}.type: missing; name the kind of block")
    _report_unread(block, known, "messages.content", losses)


def _read_result(block: dict, place: str, losses: Losses) -> hub.ToolResult:
    inner = _read_inner(block.get("content"), f"{place}.content", losses)
    blocks = tuple(b for b in inner if isinstance(b, hub.Media) or (isinstance(b, hub.Text) and b.text))
    is_error = bool(validate.optional_flag(block, "is_error", place))
    return hub.ToolResult(validate.text(block.get("tool_use_id"), f"{place}.tool_use_id"), blocks, is_error)


def _read_source(source: dict, kind: str, title: str | None, place: str) -> hub.Media:
    match source.get("type"):
        case "base64":
            data = validate.check_base64(validate.text(source.get("data"), f"{place}.data"), f"{place}.data")
            media_type = validate.text(source.get("media_type"), f"{place}.media_type")
            return hub.Media(validate.media_kind(media_type, kind), media_type, data, name=title)
        case "url":
            media_type = "application/pdf" if kind == "file" else None
            return hub.Media(kind, media_type, url=validate.text(source.get("url"), f"{place}.url"), name=title)
        case "file":
            return hub.Media(kind, file_id=validate.text(source.get("file_id"), f"{place}.file_id"), name=title)
    raise BadRequest(f"{place}.type: expected base64, url, file, text or content")


def _read_document(source: dict, title: str | None, place: str, losses: Losses) -> Iterator[hub.Block]:
    match source.get("type"):
        case "text":
            data = validate.text(source.get("data"), f"{place}.source.data")
            yield hub.Media("file", "text/plain", base64.b64encode(data.encode()).decode(), name=title)
        case "content":
            yield from _read_inner(source.get("content"), f"{place}.source.content", losses)
        case _:
            yield _read_source(source, "file", title, f"{place}.source")


def read_citation(citation) -> hub.Citation:
    """Returns a citation by URL, title and quote; positions inside a document of the request are dropped."""
    fields = hub.as_object(citation)
    url = fields.get("url") or fields.get("source")
    title = fields.get("title") or fields.get("document_title")
    quote = fields.get("cited_text")
    return hub.Citation(*(value if isinstance(value, str) else None for value in (url, title, quote)))


def _read_tools(body: dict, losses: Losses) -> Iterator[hub.Tool | hub.WebSearch | hub.CodeExecution | hub.WebFetch]:
    for place, tool in validate.objects(body.get("tools"), "tools"):
        kind = tool.get("type") or "custom"
        if kind == "custom":
            name = validate.text(tool.get("name"), f"{place}.name")
            schema = validate.optional_obj(tool, "input_schema", place)
            known = ("type", "name", "description", "input_schema", "strict")
            _report_unread(tool, known, "tools", losses)
            description = validate.optional_text(tool, "description", place)
            yield hub.Tool(name, description, schema, validate.optional_flag(tool, "strict", place))
            continue
        server_tool = next((made for prefix, made in SERVER_TOOLS if str(kind).startswith(prefix)), None)
        if server_tool is None:
            losses.report(f"tools.{kind}")
        elif server_tool is hub.WebSearch:
            yield _read_search(tool, place)
        else:
            yield server_tool()


def _read_search(tool: dict, place: str) -> hub.WebSearch:
    location = validate.optional_obj(tool, "user_location", place)
    return hub.WebSearch(
        validate.texts(tool.get("allowed_domains"), f"{place}.allowed_domains"),
        validate.texts(tool.get("blocked_domains"), f"{place}.blocked_domains"),
        {key: value for key, value in location.items() if key != "type" and isinstance(value, str)},
        validate.optional_count(tool, "max_uses", place),
    )


def _read_choice(choice: dict) -> tuple[hub.ToolChoice | None, bool | None]:
    if not choice:
        return None, None
    kind = validate.text(choice.get("type"), "tool_choice.type")
    mode = validate.lookup(kind, MODES, "tool_choice.type")
    names = (validate.text(choice.get("name"), "tool_choice.name"),) if kind == "tool" else ()
    is_single = validate.optional_flag(choice, "disable_parallel_tool_use", "tool_choice")
    return hub.ToolChoice(mode, names), (None if is_single is None else not is_single)


def _read_format(output_config: dict) -> hub.Format | None:
    output_format = validate.optional_obj(output_config, "format", "output_config")
    if not output_format:
        return None
    validate.lookup(output_format.get("type"), {"json_schema": None}, "output_config.format.type")
    return hub.Format(validate.obj(output_format.get("schema"), "output_config.format.schema"), strict=True)


def _read_tier(body: dict) -> str | None:
    speed = validate.lookup(validate.optional_text(body, "speed"), {"standard": None, "fast": "priority"}, "speed")
    tiers = {"auto": "auto", "standard_only": "default"}
    return speed or validate.lookup(validate.optional_text(body, "service_tier"), tiers, "service_tier")


# -- writing -------------------------------------------------------------------------------------------------------


def write_request(request: hub.Request, target: hub.Target, losses: Losses) -> dict:
    """Returns the body for the vendor. Raises BadRequest where no valid body can be written."""
    turns = repair.pair_results(repair.without_system(request.turns, losses), losses)
    turns = repair.start_with_user(turns, bool(request.system), losses)
    if "no_prefill" in target.traits:
        turns = repair.end_with_user(turns, losses)
    maximum = _max_tokens(request, target, losses)
    system = list(request.system)
    thinking, effort = None, None
    if request.reasoning is not None:
        thinking, effort = reasoning.write_anthropic(request.reasoning, request.max_tokens, maximum, target, losses)
    if thinking and thinking["type"] == "enabled" and not _may_think(turns, target):
        losses.lose("signature")
        thinking = {"type": "disabled"}
    is_thinking = bool(thinking) and thinking["type"] != "disabled"
    config = _write_config(request, target, effort, system, losses)
    body = {
        "model": target.model,
        "max_tokens": maximum,
        "system": _write_system(system),
        "messages": [
            {"role": turn.role, "content": list(_write_blocks(turn, target, is_thinking, losses))} for turn in turns
        ],
        "tools": list(_write_tools(request, target, losses)) or None,
        "tool_choice": _write_choice(request, is_thinking, losses),
        **_write_sampling(request, target, is_thinking, losses),
        "stop_sequences": _write_stop(request, losses),
        "thinking": thinking,
        "output_config": config or None,
        "metadata": _write_metadata(request, losses),
        **_write_tier(request, target, losses),
        "stream": True if target.is_stream else None,
    }
    for name in ("seed", "frequency_penalty", "presence_penalty", "logprobs", "store", "cache_key"):
        unset = (None,) if name in ("seed", "logprobs") else (None, 0, False)
        if getattr(request, name) not in unset:
            losses.lose(name)
    if request.n not in (None, 1):
        losses.lose("n")
    if set(request.metadata) - {"user_id"}:
        losses.lose("metadata")
    body["messages"] = [_trim_prefill(message, i == len(turns) - 1) for i, message in enumerate(body["messages"])]
    body["messages"] = [message for message in body["messages"] if message["content"]]
    return {name: value for name, value in body.items() if value is not None}


def _write_metadata(request: hub.Request, losses: Losses) -> dict | None:
    """Returns `metadata`, which may hold a user id only; an id that may identify a person is replaced by a digest."""
    user_id = request.end_user or request.metadata.get("user_id")
    if not isinstance(user_id, str) or not user_id:
        return None
    if len(user_id) <= MAX_USER and not PERSONAL.search(user_id):
        return {"user_id": user_id}
    losses.lose("end_user")
    return {"user_id": f"user_{hashlib.blake2b(user_id.encode(), digest_size=16).hexdigest()}"}


def _max_tokens(request: hub.Request, target: hub.Target, losses: Losses) -> int:
    if request.max_tokens and request.max_tokens <= (target.max_output or request.max_tokens):
        return request.max_tokens
    losses.lose("max_tokens")
    return target.max_output or UNKNOWN_MAXIMUM


def _may_think(turns: tuple[hub.Turn, ...], target: hub.Target) -> bool:
    """True if the vendor accepts a thinking budget with these turns.

    Results of tool calls need the signed thinking that led to the calls, as the first block of the turn before.
    """
    if turns[-1].role == "assistant":
        return False  # a prefill is refused with thinking
    if len(turns) < 2 or not any(isinstance(block, hub.ToolResult) for block in turns[-1].blocks):
        return True
    first = turns[-2].blocks[0]
    return isinstance(first, hub.Thinking) and _is_own(first.signature, target)


def _is_own(signature: hub.Signature | None, target: hub.Target) -> bool:
    return signature is not None and signature.origin == target.provider


def _write_system(system: list[str]):
    if not system:
        return None
    return system[0] if len(system) == 1 else [{"type": "text", "text": text} for text in system]


def _trim_prefill(message: dict, is_last: bool) -> dict:
    """A prefill must not end in white space."""
    content = message["content"]
    if is_last and message["role"] == "assistant" and content and content[-1]["type"] == "text":
        content[-1]["text"] = content[-1]["text"].rstrip()  # no blank text is written
    return message


def _write_blocks(turn: hub.Turn, target: hub.Target, is_thinking: bool, losses: Losses) -> Iterator[dict]:
    for block in turn.blocks:
        match block:
            case hub.Text(text):
                if block.citations:
                    losses.lose("citations")
                yield {"type": "text", "text": text}
            case hub.Refusal(text):
                losses.lose("refusal")
                if text.strip():
                    yield {"type": "text", "text": text}
            case hub.Thinking():
                yield from _write_thinking(block, target, losses)
            case hub.ToolCall():
                if block.signature:
                    losses.lose("signature")
                yield _write_call(block, losses)
            case hub.ToolResult():
                yield _write_result(block, losses)
            case hub.Media() if turn.role == "assistant":
                losses.lose(block.kind)
            case hub.Media():
                yield _write_media(block, losses)


def _write_thinking(block: hub.Thinking, target: hub.Target, losses: Losses) -> Iterator[dict]:
    """Yields thinking that this provider signed in this protocol; the vendor rejects any other."""
    kind, _, value = block.signature.value.partition(":") if _is_own(block.signature, target) else ("", "", "")
    if kind not in ("thinking", "redacted"):
        losses.lose("signature" if block.signature and not block.text else "thinking")
        return
    if kind == "redacted":
        yield {"type": "redacted_thinking", "data": value}
    else:
        yield {"type": "thinking", "thinking": block.text, "signature": value}


def _write_call(block: hub.ToolCall, losses: Losses) -> dict:
    written = as_arguments(block.arguments) if block.is_custom else block.arguments
    arguments = validate.arguments_object(written, losses)
    return {"type": "tool_use", "id": legal_call_id(block.id), "name": block.name, "input": arguments}


def legal_call_id(call_id: str) -> str:
    return repair.legal_id(call_id, ID, MAX_ID)


def _write_result(block: hub.ToolResult, losses: Losses) -> dict:
    parts = [
        _write_media(part, losses) if isinstance(part, hub.Media) else {"type": "text", "text": part.text}
        for part in block.blocks
        if isinstance(part, hub.Media) or part.text.strip()
    ]
    content = parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts
    result = {"type": "tool_result", "tool_use_id": legal_call_id(block.call_id)}
    if block.is_error:
        return {**result, "content": content or "Error", "is_error": True}
    return {**result, "content": content} if content else result


def _write_media(block: hub.Media, losses: Losses) -> dict:
    if block.detail not in (None, "auto"):
        losses.lose("detail")
    if block.name and block.kind == "image":
        losses.lose("filename")
    if block.kind == "image" and block.url:
        return {"type": "image", "source": {"type": "url", "url": block.url}}
    if block.kind == "image" and block.data and block.media_type in IMAGES:
        source = {"type": "base64", "media_type": block.media_type, "data": block.data}
        return {"type": "image", "source": source}
    if block.kind == "file" and (source := _document_source(block)):
        named = {"title": block.name} if block.name else {}
        return {"type": "document", "source": source, **named}
    losses.lose(block.kind)
    return {"type": "text", "text": validate.OMITTED_FILE.format(block.name or block.media_type or block.kind)}


def _document_source(block: hub.Media) -> dict | None:
    if block.url:
        return {"type": "url", "url": block.url}
    if block.data and block.media_type == "application/pdf":
        return {"type": "base64", "media_type": block.media_type, "data": block.data}
    is_text = (block.media_type or "").startswith("text/") or block.media_type == "application/json"
    if block.data and is_text and (text := validate.text_of_base64(block.data)) is not None:
        return {"type": "text", "media_type": "text/plain", "data": text}
    return None


def _write_tools(request: hub.Request, target: hub.Target, losses: Losses) -> Iterator[dict]:
    for i, tool in enumerate(request.tools):
        match tool:
            case hub.Tool(schema=None):
                losses.lose("custom")
                yield _tool_body(tool, FREE_INPUT)
            case hub.Tool():
                yield _write_function(tool, f"tools[{i}]: input_schema", target, losses)
            case hub.WebSearch():
                location = {"type": "approximate", **tool.place} if tool.place else None
                search = {
                    "type": "web_search_20250305",
                    "name": "web_search",
                    "allowed_domains": list(tool.allowed) or None,
                    "blocked_domains": list(tool.blocked) or None,
                    "max_uses": tool.max_uses,
                    "user_location": location,
                }
                yield {name: value for name, value in search.items() if value is not None}
            case hub.CodeExecution():
                yield {"type": "code_execution_20250825", "name": "code_execution"}
            case hub.WebFetch():
                yield {"type": "web_fetch_20250910", "name": "web_fetch"}


def _write_function(tool: hub.Tool, place: str, target: hub.Target, losses: Losses) -> dict:
    """`strict` is set only if it was requested and both the schema and the model support it."""
    schema, lost = schemas.for_anthropic(tool.schema, place)
    for keyword in lost:
        losses.report(f"{losses.wire_name('schema')}.{keyword}")
    is_strict = bool(tool.strict) and "format" not in target.refused and schemas.is_strict(schema, place)
    if tool.strict and not is_strict:
        losses.lose("strict")
    return {**_tool_body(tool, schema), **({"strict": True} if is_strict else {})}


def _tool_body(tool: hub.Tool, schema: dict) -> dict:
    described = {"description": tool.description} if tool.description else {}
    return {"name": tool.name, **described, "input_schema": schema}


def _write_choice(request: hub.Request, is_thinking: bool, losses: Losses) -> dict | None:
    """With thinking enabled the vendor accepts only a free choice of tools."""
    if not request.tools:
        return None
    single = {"disable_parallel_tool_use": True} if request.parallel is False else {}
    choice = request.choice
    if choice is None:
        return {"type": "auto", **single} if single else None
    if choice.mode == "none":
        return {"type": "none"}
    if choice.mode == "any" and is_thinking:
        losses.lose("choice")
        return {"type": "auto", **single}
    if choice.names and (choice.mode == "auto" or len(choice.names) > 1):
        losses.lose("choice")
        return {"type": choice.mode, **single}
    if choice.names:
        return {"type": "tool", "name": choice.names[0], **single}
    return {"type": choice.mode, **single}


def _write_sampling(request: hub.Request, target: hub.Target, is_thinking: bool, losses: Losses) -> dict:
    """Returns the sampling fields that this model accepts: temperatures up to 1, and almost no field with thinking."""
    sampling = {"temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k}
    sampling = {name: value for name, value in sampling.items() if value is not None}
    for name in list(sampling):
        is_default = name == "temperature" and sampling[name] == 1
        is_default = is_default or (name == "top_p" and 0.95 <= sampling[name] <= 1)
        is_second = name == "top_p" and "temperature" in sampling and "one_of_temperature_and_top_p" in target.traits
        if name in target.refused or (is_thinking and not is_default) or is_second:
            losses.lose(name)
            del sampling[name]
    if sampling.get("temperature", 0) > 1:
        losses.lose("temperature")
        sampling["temperature"] = 1.0
    return sampling


def _write_stop(request: hub.Request, losses: Losses) -> list[str] | None:
    kept = [text for text in request.stop if text.strip()]
    if len(kept) < len(request.stop):
        losses.lose("stop")
    return kept or None


def _write_config(
    request: hub.Request, target: hub.Target, effort: str | None, system: list[str], losses: Losses
) -> dict:
    """Returns `output_config`; a format that the model does not support is requested in words, appended to `system`."""
    config = {}
    if effort:
        config["effort"] = effort
    if request.verbosity:
        losses.lose("verbosity")
    if request.format is None:
        return config
    if request.format.schema is not None and "format" not in target.refused:
        schema, lost = schemas.strict(request.format.schema, losses.wire_name("format_schema"))
        if "$ref" not in lost:
            for keyword in lost:
                losses.report(f"{losses.wire_name('format_schema')}.{keyword}")
            config["format"] = {"type": "json_schema", "schema": schema}
            return config
    losses.lose("format")
    system.append(prompts.format_prompt(request.format))
    return config


def _write_tier(request: hub.Request, target: hub.Target, losses: Losses) -> dict:
    if request.tier is None:
        return {}
    if request.tier == "priority" and "fast" in target.traits:
        return {"speed": "fast"}
    if request.tier in ("flex", "scale", "priority"):
        losses.lose("tier")
    return {"service_tier": TIERS_BACK[request.tier]}
