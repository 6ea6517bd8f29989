"""Translates Chat Completions requests to and from the hub.

https://platform.openai.com/docs/api-reference/chat/create
"""

import re
from collections.abc import Iterator

import orjson

from gproxy.errors import BadRequest
from gproxy.protocols import hub, prompts, reasoning, repair, schemas, validate
from gproxy.protocols.custom_tools import FREE_INPUT, as_arguments
from gproxy.protocols.losses import Losses
from gproxy.protocols.openai import (
    AUDIO,
    TIERS,
    TIERS_BACK,
    drop_refused,
    read_format,
    write_format,
    write_max_tokens,
    write_parameters,
    write_user,
)
from gproxy.protocols.signatures import is_wrapped, unwrap

# Hub field -> the client's field, as losses report it.
NAMES = {
    "turns": "messages",
    "system": "messages",
    "system_turn": "messages.role",
    "choice": "tool_choice",
    "parallel": "parallel_tool_calls",
    "max_tokens": "max_completion_tokens",
    "reasoning": "reasoning_effort",
    "format": "response_format",
    "format_schema": "response_format.json_schema.schema",
    "format_strict": "response_format.json_schema.strict",
    "tier": "service_tier",
    "end_user": "user",
    "cache_key": "prompt_cache_key",
    "image": "messages.content.image_url",
    "file": "messages.content.file",
    "audio": "messages.content.input_audio",
    "detail": "messages.content.image_url.detail",
    "filename": "messages.content.file.filename",
    "refusal": "messages.refusal",
    "thinking": "messages.reasoning_content",
    "signature": "messages.reasoning_details",
    "tool_result": "messages.tool_call_id",
    "tool_media": "messages.content",
    "arguments": "messages.tool_calls.function.arguments",
    "schema": "tools.function.parameters",
    "strict": "tools.function.strict",
    "custom": "tools.custom",
    "web_search": "web_search_options",
    "citations": "messages.annotations",
}
KNOWN_FIELDS = frozenset(
    (
        "model", "messages", "tools", "functions", "tool_choice", "function_call", "parallel_tool_calls",
        "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "stop", "stream", "stream_options",
        "seed", "frequency_penalty", "presence_penalty", "n", "logprobs", "top_logprobs", "response_format",
        "reasoning_effort", "verbosity", "service_tier", "user", "safety_identifier", "metadata", "store",
        "prompt_cache_key", "web_search_options", "thinking", "extra_body",
    )
)  # fmt: skip
ROLES = dict.fromkeys(("system", "developer", "user", "assistant", "tool", "function"))
MODES = {"auto": "auto", "none": "none", "required": "any"}
MODES_BACK = {"auto": "auto", "none": "none", "any": "required"}
ID, MAX_ID = re.compile(r"[\x21-\x7e]+"), 40
TOOL_NAME: tuple[re.Pattern[str], int] = (re.compile(r"[A-Za-z0-9_-]+"), 64)
# Media that may be sent as a URL.
URL_KINDS: frozenset[str] = frozenset(("image",))
MAX_STOPS = 4
# This vendor has no URLs that only it can open.
OWN_URLS: re.Pattern[str] | None = None


# -- reading -------------------------------------------------------------------------------------------------------


def read_request(body: dict, losses: Losses) -> hub.Request:
    """Returns the request in the hub's types. Raises BadRequest, which names the field."""
    for name in body:
        if name not in KNOWN_FIELDS and body[name] not in (None, ["text"] if name == "modalities" else None):
            losses.report(name)
    system, turns = _read_messages(body, losses)
    choice = _read_choice(body)
    max_tokens = validate.optional_count(body, "max_completion_tokens")
    if max_tokens is None:
        max_tokens = validate.optional_count(body, "max_tokens")
    logprobs = validate.optional_count(body, "top_logprobs")
    if validate.optional_flag(body, "logprobs"):
        logprobs = logprobs or 0
    return hub.Request(
        turns=repair.merge_turns(turns),
        system=system,
        tools=tuple(_read_tools(body, losses)),
        choice=choice,
        parallel=validate.optional_flag(body, "parallel_tool_calls"),
        max_tokens=max_tokens,
        temperature=validate.optional_number(body, "temperature"),
        top_p=validate.optional_number(body, "top_p"),
        top_k=validate.optional_count(body, "top_k"),  # a field of compatible hosts
        stop=validate.texts(body.get("stop"), "stop"),
        seed=validate.optional_count(body, "seed", minimum=-(2**63)),
        frequency_penalty=validate.optional_number(body, "frequency_penalty"),
        presence_penalty=validate.optional_number(body, "presence_penalty"),
        n=validate.optional_count(body, "n", minimum=1),
        logprobs=logprobs,
        format=_read_format(body),
        reasoning=_read_reasoning(body, losses),
        verbosity=validate.optional_text(body, "verbosity"),
        tier=validate.lookup(validate.optional_text(body, "service_tier"), TIERS, "service_tier"),
        end_user=validate.optional_text(body, "user") or validate.optional_text(body, "safety_identifier"),
        metadata=validate.optional_obj(body, "metadata"),
        store=validate.optional_flag(body, "store"),
        cache_key=validate.optional_text(body, "prompt_cache_key"),
    )


def _read_messages(body: dict, losses: Losses) -> tuple[tuple[str, ...], list[hub.Turn]]:
    """Returns the instructions before the first other message, and the turns."""
    system: list[str] = []
    turns: list[hub.Turn] = []
    newest: dict[str, str] = {}  # function name -> id of its newest call
    for place, message in validate.objects(body.get("messages"), "messages"):
        role = validate.text(message.get("role"), f"{place}.role")
        validate.lookup(role, ROLES, f"{place}.role")
        if message.get("name") is not None and role != "function":
            losses.report("messages.name")
        match role:
            case "system" | "developer":
                texts = [block.text for block in _read_content(message, place, losses) if isinstance(block, hub.Text)]
                if turns:
                    turns.append(hub.Turn("system", tuple(map(hub.Text, texts))))
                else:
                    system += [text for text in texts if text.strip()]
            case "user":
                turns.append(hub.Turn("user", tuple(_read_content(message, place, losses))))
            case "assistant":
                turns.append(hub.Turn("assistant", tuple(_read_assistant(message, place, losses))))
                newest |= {block.name: block.id for block in turns[-1].blocks if isinstance(block, hub.ToolCall)}
            case "tool":
                blocks = tuple(block for block in _read_content(message, place, losses) if _is_output(block))
                call_id = validate.text(message.get("tool_call_id"), f"{place}.tool_call_id")
                turns.append(hub.Turn("user", (hub.ToolResult(call_id, blocks),)))
            case "function":
                turns.append(_read_function(message, place, newest, losses))
    return tuple(system), turns


def _is_output(block: hub.Block) -> bool:
    return isinstance(block, hub.Media) or (isinstance(block, hub.Text) and bool(block.text))


def _read_function(message: dict, place: str, newest: dict[str, str], losses: Losses) -> hub.Turn:
    """Returns a legacy function message, which has no call id, as the result of the newest call of that function."""
    name = validate.text(message.get("name"), f"{place}.name")
    blocks = tuple(block for block in _read_content(message, place, losses) if _is_output(block))
    return hub.Turn("user", (hub.ToolResult(newest.get(name, f"function_call_{name}"), blocks, name=name),))


def _read_content(message: dict, place: str, losses: Losses) -> Iterator[hub.Block]:
    content = message.get("content")
    if content is None or isinstance(content, str):
        if content:
            yield hub.Text(content)
        return
    for item_place, item in validate.objects(content, f"{place}.content"):
        yield from _read_part(item, item_place, losses)


def _read_part(item: dict, place: str, losses: Losses) -> Iterator[hub.Block]:
    if item.get("cache_control") is not None:
        losses.report("cache_control")
    if item.get("prompt_cache_breakpoint") is not None:
        losses.report("messages.content.prompt_cache_breakpoint")
    match item.get("type"):
        case "text":
            yield hub.Text(validate.text(item.get("text"), f"{place}.text"))
        case "refusal":
            yield hub.Refusal(validate.text(item.get("refusal"), f"{place}.refusal"))
        case "image_url":
            image = item.get("image_url")
            image = {"url": image} if isinstance(image, str) else validate.obj(image, f"{place}.image_url")
            url_place = f"{place}.image_url.url"
            yield validate.media_of_url(
                validate.text(image.get("url"), url_place),
                "image",
                url_place,
                detail=validate.optional_text(image, "detail"),
            )
        case "input_audio":
            audio = validate.obj(item.get("input_audio"), f"{place}.input_audio")
            data = validate.check_base64(
                validate.text(audio.get("data"), f"{place}.input_audio.data"), f"{place}.input_audio.data"
            )
            yield hub.Media("audio", f"audio/{validate.optional_text(audio, 'format') or 'wav'}", data)
        case "file":
            yield _read_file(validate.obj(item.get("file"), f"{place}.file"), f"{place}.file")
        case str() as kind:
            losses.report(f"messages.content.{kind}")
        case _:
            raise BadRequest(f"{place}.type: missing; name the kind of part")


def _read_file(file: dict, place: str) -> hub.Media:
    name = validate.optional_text(file, "filename", place)
    data, url = validate.optional_text(file, "file_data", place), validate.optional_text(file, "file_url", place)
    if data is not None:
        if data.startswith("data:"):
            return validate.media_of_url(data, "file", f"{place}.file_data", name)
        media_type = validate.media_type_of(name)
        checked = validate.check_base64(data, f"{place}.file_data")
        return hub.Media(validate.media_kind(media_type, "file"), media_type, checked, name=name)
    if url is not None:
        return validate.media_of_url(url, "file", f"{place}.file_url", name)
    if (file_id := validate.optional_text(file, "file_id", place)) is not None:
        return hub.Media("file", validate.media_type_of(name), file_id=file_id, name=name)
    raise BadRequest(f"{place}: give file_data or file_id")


def _read_assistant(message: dict, place: str, losses: Losses) -> Iterator[hub.Block]:
    yield from _read_thinking(message, place, losses)
    yield from _read_content(message, place, losses)
    if refusal := validate.optional_text(message, "refusal", place):
        yield hub.Refusal(refusal)
    if message.get("audio") is not None:
        losses.report("messages.audio")
    for call_place, call in validate.objects(message.get("tool_calls"), f"{place}.tool_calls"):
        yield _read_call(call, call_place)
    if (legacy := message.get("function_call")) is not None:
        call = validate.obj(legacy, f"{place}.function_call")
        name = validate.text(call.get("name"), f"{place}.function_call.name")
        yield hub.ToolCall(f"function_call_{name}", name, validate.optional_text(call, "arguments") or "")


def _read_thinking(message: dict, place: str, losses: Losses) -> Iterator[hub.Block]:
    """Yields the thinking that gproxy wrapped, else the plain text of it."""
    details = message.get("reasoning_details")
    wrapped: list[hub.Thinking] = []
    for detail in map(hub.as_object, details if isinstance(details, list) else ()):
        opaque = detail.get("data") or detail.get("signature")
        if is_wrapped(opaque):
            text = detail.get("text")
            wrapped.append(hub.Thinking(text if isinstance(text, str) else "", unwrap(opaque)))
        elif opaque:
            losses.lose("signature")
    text = message.get("reasoning_content") or message.get("reasoning")
    if wrapped:
        yield from wrapped
    elif isinstance(text, str) and text:
        yield hub.Thinking(text)


def _read_call(call: dict, place: str) -> hub.ToolCall:
    call_id = validate.text(call.get("id"), f"{place}.id")
    if call.get("type") == "custom":
        custom = validate.obj(call.get("custom"), f"{place}.custom")
        name = validate.text(custom.get("name"), f"{place}.custom.name")
        return hub.ToolCall(call_id, name, validate.text(custom.get("input"), f"{place}.custom.input"), is_custom=True)
    function = validate.obj(call.get("function"), f"{place}.function")
    name = validate.text(function.get("name"), f"{place}.function.name")
    written = validate.optional_text(function, "arguments", f"{place}.function") or ""
    google = hub.as_object(hub.as_object(call.get("extra_content")).get("google"))
    opaque = google.get("thought_signature")
    return hub.ToolCall(call_id, name, written, signature=unwrap(opaque) if isinstance(opaque, str) else None)


def _read_tools(body: dict, losses: Losses) -> Iterator[hub.Tool | hub.WebSearch]:
    for place, tool in validate.objects(body.get("tools"), "tools"):
        match tool.get("type"):
            case "function":
                yield _read_tool(validate.obj(tool.get("function"), f"{place}.function"), f"{place}.function")
            case "custom":
                custom = validate.obj(tool.get("custom"), f"{place}.custom")
                if hub.as_object(custom.get("format")).get("type") == "grammar":
                    losses.report("tools.custom.format")
                description = validate.optional_text(custom, "description", place)
                yield hub.Tool(validate.text(custom.get("name"), f"{place}.custom.name"), description)
            case str() as kind:
                losses.report(f"tools.{kind}")
            case _:
                raise BadRequest(f"{place}.type: missing; name the kind of tool")
    for place, function in validate.objects(body.get("functions"), "functions"):
        yield _read_tool(function, place)
    if (options := body.get("web_search_options")) is not None:
        if hub.as_object(options).get("search_context_size") is not None:
            losses.report("web_search_options.search_context_size")
        location = hub.as_object(hub.as_object(hub.as_object(options).get("user_location")).get("approximate"))
        yield hub.WebSearch(place={key: value for key, value in location.items() if isinstance(value, str)})


def _read_tool(function: dict, place: str) -> hub.Tool:
    name = validate.text(function.get("name"), f"{place}.name")
    schema = validate.optional_obj(function, "parameters", place)
    description = validate.optional_text(function, "description", place)
    return hub.Tool(name, description, schema, validate.optional_flag(function, "strict", place))


def _read_choice(body: dict) -> hub.ToolChoice | None:
    choice = body.get("tool_choice")
    if choice is None and (legacy := body.get("function_call")) is not None:
        choice = {"type": "function", "function": legacy} if isinstance(legacy, dict) else legacy
    if choice is None:
        return None
    if isinstance(choice, str):
        return hub.ToolChoice(validate.lookup(choice, MODES, "tool_choice"))
    choice = validate.obj(choice, "tool_choice")
    kind = choice.get("type")
    if kind in ("function", "custom"):
        tool = validate.obj(choice.get(kind), f"tool_choice.{kind}")
        return hub.ToolChoice("any", (validate.text(tool.get("name"), f"tool_choice.{kind}.name"),))
    if kind == "allowed_tools":
        allowed = validate.obj(choice.get("allowed_tools"), "tool_choice.allowed_tools")
        tools = validate.objects(allowed.get("tools"), "tool_choice.allowed_tools.tools")
        names = tuple(name for _, tool in tools if (name := hub.as_object(tool.get(str(tool.get("type")))).get("name")))
        mode = validate.lookup(allowed.get("mode") or "auto", MODES, "tool_choice.allowed_tools.mode")
        return hub.ToolChoice(mode, tuple(map(str, names)))
    raise BadRequest("tool_choice.type: expected function, custom or allowed_tools")


def _read_format(body: dict) -> hub.Format | None:
    response_format = validate.optional_obj(body, "response_format")
    json_schema = validate.optional_obj(response_format, "json_schema", "response_format")
    return read_format(response_format, json_schema, "response_format", "response_format.json_schema")


def _read_reasoning(body: dict, losses: Losses) -> hub.Reasoning | None:
    """Returns the requested reasoning. `thinking`, a field of compatible hosts, takes precedence over the effort."""
    if thinking := validate.optional_obj(body, "thinking"):
        return reasoning.read_anthropic(thinking, {}, "thinking")
    for name in validate.optional_obj(body, "extra_body"):
        if name != "google":
            losses.report(f"extra_body.{name}")
    google = hub.as_object(
        hub.as_object(validate.optional_obj(body, "extra_body").get("google")).get("thinking_config")
    )
    if google:
        config = {
            "includeThoughts": google.get("include_thoughts"),
            "thinkingBudget": google.get("thinking_budget"),
            "thinkingLevel": google.get("thinking_level"),
        }
        return reasoning.read_gemini(config, "extra_body.google.thinking_config")
    effort = validate.optional_text(body, "reasoning_effort")
    validate.lookup(effort, dict.fromkeys(reasoning.EFFORTS), "reasoning_effort")
    return hub.Reasoning(effort) if effort else None


# -- writing -------------------------------------------------------------------------------------------------------


def write_request(request: hub.Request, target: hub.Target, losses: Losses) -> dict:
    """Returns the body for the vendor. Raises BadRequest where no valid body can be written."""
    traits = target.traits
    turns = repair.pair_results(request.turns, losses)
    messages = [message for turn in turns for message in _write_turn(turn, target, losses)]
    if not messages and not request.system:
        raise BadRequest(f"{losses.wire_name('turns')}: at least one message is needed")
    response_format, prompts_for_format = _write_format(request, target, losses)
    system = "\n".join((*request.system, *prompts_for_format))
    if system:
        messages.insert(0, {"role": "system", "content": system})
    # Reasoning models do not know the older field, wherever they are served.
    max_tokens_field = "max_tokens" if "max_tokens" in traits and not target.efforts else "max_completion_tokens"
    body = {
        "model": target.model,
        "messages": messages,
        "tools": _write_tools(request, target, losses) or None,
        **_write_search(request, losses),
        max_tokens_field: write_max_tokens(request.max_tokens, target, losses),
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k if "top_k" in traits else None,
        "stop": _write_stop(request, losses),
        "seed": request.seed,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
        "n": request.n,
        "logprobs": True if request.logprobs is not None else None,
        "top_logprobs": request.logprobs or None,
        "response_format": response_format,
        **_write_reasoning(request, target, losses),
        "verbosity": request.verbosity,
        "service_tier": TIERS_BACK.get(request.tier),
        "user": write_user(request.end_user, losses),
        "metadata": dict(request.metadata) if request.metadata and request.store else None,
        "store": request.store or None,
        "prompt_cache_key": request.cache_key,
        "parallel_tool_calls": request.parallel if request.functions else None,
        "stream": True if target.is_stream else None,
        "stream_options": {"include_usage": True} if target.is_stream else None,
    }
    body["tool_choice"] = _write_choice(request, losses) if body["tools"] else None
    if request.top_k is not None and "top_k" not in traits:
        losses.lose("top_k")
    if request.metadata and not request.store:
        losses.lose("metadata")
    drop_refused(body, REFUSED, target, losses)
    return {name: value for name, value in body.items() if value is not None}


# Hub fields that a model may reject -> the fields of this protocol.
REFUSED = {
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "frequency_penalty": ("frequency_penalty",),
    "presence_penalty": ("presence_penalty",),
    "logprobs": ("logprobs", "top_logprobs"),
    "stop": ("stop",),
    "n": ("n",),
    "seed": ("seed",),
    "verbosity": ("verbosity",),
    "tier": ("service_tier",),
    "end_user": ("user",),
    "store": ("store", "metadata"),
    "parallel": ("parallel_tool_calls",),
    "cache_key": ("prompt_cache_key",),
    "web_search": ("web_search_options",),
}


def _write_turn(turn: hub.Turn, target: hub.Target, losses: Losses) -> Iterator[dict]:
    if turn.role == "assistant":
        yield from _write_assistant(turn, target, losses)
        return
    parts: list[dict] = []
    for block in turn.blocks:
        match block:
            case hub.ToolResult():
                yield _write_result(block, parts, losses)
            case hub.Text(text):
                parts.append({"type": "text", "text": text})
            case hub.Media():
                parts.append(_write_media(block, losses))
    if not parts:
        return
    if turn.role == "system" or len(parts) == 1:
        texts = [item["text"] for item in parts if item["type"] == "text"]
        if len(texts) == len(parts):
            yield {"role": turn.role, "content": "\n".join(texts)}
            return
    yield {"role": turn.role, "content": parts}


def _write_result(block: hub.ToolResult, parts: list[dict], losses: Losses) -> dict:
    """Returns a tool message, which holds text only; media are added to `parts`, the user message after it."""
    texts = [item.text for item in block.blocks if isinstance(item, hub.Text)]
    media = [_write_media(item, losses) for item in block.blocks if isinstance(item, hub.Media)]
    if media:
        losses.lose("tool_media")
        parts += media
    if block.is_error:
        losses.lose("tool_error")
        texts = ["Error: " + "\n".join(texts)] if texts else ["Error"]
    return {"role": "tool", "tool_call_id": legal_call_id(block.call_id), "content": "\n".join(texts)}


def legal_call_id(call_id: str) -> str:
    return repair.legal_id(call_id, ID, MAX_ID)


def _write_assistant(turn: hub.Turn, target: hub.Target, losses: Losses) -> Iterator[dict]:
    texts, refusals, calls, thoughts, details = [], [], [], [], []
    for block in turn.blocks:
        match block:
            case hub.Text(text, citations):
                if citations:
                    losses.lose("citations")
                texts.append(text)
            case hub.Refusal(text):
                refusals.append(text)
            case hub.Thinking(text, signature):
                is_own = signature is not None and signature.origin == target.provider
                if is_own and (own_details := _details(signature.value)):
                    details += own_details
                elif "reasoning_content" not in target.traits:
                    losses.lose("thinking" if text else "signature")
                thoughts.append(text)
            case hub.ToolCall():
                calls.append(_write_call(block, target, losses))
            case hub.Media(kind):
                losses.lose(kind)
    message = {"role": "assistant", "content": "".join(texts) or None}
    if refusals:
        message["refusal"] = "".join(refusals)
    if calls:
        message["tool_calls"] = calls
    if "reasoning_content" in target.traits and (thoughts or calls):
        if not thoughts:
            losses.lose("thinking")  # the vendor requires it with calls, and accepts an empty one
        message["reasoning_content"] = "".join(thoughts)
    if details:
        message["reasoning_details"] = details
    if texts or refusals or calls:
        yield message


def _details(value: str) -> list:
    """Returns the `reasoning_details` of a compatible host as it sent them, an empty list for another value."""
    try:
        details = orjson.loads(value)
    except orjson.JSONDecodeError:
        return []
    return details if isinstance(details, list) else []


def _write_call(block: hub.ToolCall, target: hub.Target, losses: Losses) -> dict:
    call = {"id": legal_call_id(block.id), "type": "function"}
    if block.is_custom:
        if "custom_tools" in target.traits:
            return {**call, "type": "custom", "custom": {"name": block.name, "input": block.arguments}}
        return {**call, "function": {"name": block.name, "arguments": as_arguments(block.arguments)}}
    call["function"] = {"name": block.name, "arguments": block.arguments or "{}"}
    if block.signature and block.signature.origin == target.provider:
        call["extra_content"] = {"google": {"thought_signature": block.signature.value}}
    elif block.signature:
        losses.lose("signature")
    return call


def _write_media(block: hub.Media, losses: Losses) -> dict:
    if block.name and block.kind in ("image", "audio"):
        losses.lose("filename")
    if block.kind == "image" and (block.url or block.data):
        url = block.url or validate.data_url(block.media_type, block.data)
        detail = {"detail": block.detail} if block.detail else {}
        return {"type": "image_url", "image_url": {"url": url, **detail}}
    if block.kind == "audio" and block.data and block.media_type in AUDIO:
        return {"type": "input_audio", "input_audio": {"data": block.data, "format": AUDIO[block.media_type]}}
    is_text = (block.media_type or "").startswith("text/") or block.media_type == "application/json"
    if block.kind == "file" and block.data and is_text and (text := validate.text_of_base64(block.data)) is not None:
        return {"type": "text", "text": f"{block.name}:\n{text}" if block.name else text}
    if block.kind == "file" and block.data:
        name = block.name or f"file.{validate.file_extension(block.media_type)}"
        return {
            "type": "file",
            "file": {"filename": name, "file_data": validate.data_url(block.media_type, block.data)},
        }
    losses.lose(block.kind)
    return {"type": "text", "text": validate.OMITTED_FILE.format(block.name or block.media_type or block.kind)}


def _write_tools(request: hub.Request, target: hub.Target, losses: Losses) -> list[dict]:
    tools = []
    for number, tool in enumerate(request.tools):
        if not isinstance(tool, hub.Tool):
            if not isinstance(tool, hub.WebSearch):
                losses.lose("code_execution" if isinstance(tool, hub.CodeExecution) else "web_fetch")
            continue
        described = {"name": tool.name, **({"description": tool.description} if tool.description else {})}
        if tool.is_custom and "custom_tools" in target.traits:
            tools.append({"type": "custom", "custom": described})
            continue
        if tool.is_custom:
            losses.lose("custom")
            tools.append({"type": "function", "function": {**described, "parameters": FREE_INPUT}})
            continue
        schema, is_strict = write_parameters(tool, number, losses)
        strict = {"strict": True} if is_strict else {}
        tools.append({"type": "function", "function": {**described, "parameters": schema, **strict}})
    return tools


def _write_search(request: hub.Request, losses: Losses) -> dict:
    search = next((tool for tool in request.tools if isinstance(tool, hub.WebSearch)), None)
    if search is None:
        return {}
    if search.allowed or search.blocked or search.max_uses is not None:
        losses.lose("web_search")
    location = {"user_location": {"type": "approximate", "approximate": dict(search.place)}} if search.place else {}
    return {"web_search_options": location}


def _write_choice(request: hub.Request, losses: Losses) -> str | dict | None:
    choice = request.choice
    if choice is None:
        return None
    custom = {tool.name for tool in request.functions if tool.is_custom}

    def named_tool(name: str) -> dict:
        kind = "custom" if name in custom else "function"
        return {"type": kind, kind: {"name": name}}

    if choice.mode == "any" and len(choice.names) == 1:
        return named_tool(choice.names[0])
    if choice.names:
        allowed = {"mode": MODES_BACK[choice.mode], "tools": [named_tool(name) for name in choice.names]}
        return {"type": "allowed_tools", "allowed_tools": allowed}
    return MODES_BACK[choice.mode]


def _write_stop(request: hub.Request, losses: Losses) -> str | list[str] | None:
    if len(request.stop) > MAX_STOPS:
        losses.lose("stop")
    kept = list(request.stop[:MAX_STOPS])
    return kept[0] if len(kept) == 1 else kept or None


def _write_format(request: hub.Request, target: hub.Target, losses: Losses) -> tuple[dict | None, tuple[str, ...]]:
    """Returns `response_format`, and prompts for what this field cannot request."""
    schema = request.format.schema if request.format else None
    if schema is not None and "json_object_only" in target.traits and schemas.is_object(schema):
        losses.lose("format")
        return {"type": "json_object"}, (prompts.format_prompt(request.format),)
    flat, prompts_for_format = write_format(request, losses)
    if flat and "schema" in flat:
        json_schema = {name: value for name, value in flat.items() if name != "type"}
        return {"type": "json_schema", "json_schema": json_schema}, prompts_for_format
    return flat, prompts_for_format


def _write_reasoning(request: hub.Request, target: hub.Target, losses: Losses) -> dict:
    if request.reasoning is None:
        return {}
    if "thinking_switch" in target.traits:
        return {"thinking": {"type": "disabled" if reasoning.effort(request.reasoning) == "none" else "enabled"}}
    return {"reasoning_effort": reasoning.openai_effort(request.reasoning, target, losses)}
