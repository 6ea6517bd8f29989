"""Translates Responses requests to and from the hub.

https://platform.openai.com/docs/api-reference/responses/create
"""

import re
from collections.abc import Iterator

from gproxy.errors import BadRequest
from gproxy.protocols import hub, prompts, reasoning, repair, validate
from gproxy.protocols.losses import Losses
from gproxy.protocols.openai import (
    AUDIO,
    TIERS,
    TIERS_BACK,
    drop_refused,
    read_citation,
    read_format,
    write_format,
    write_max_tokens,
    write_parameters,
    write_user,
)
from gproxy.protocols.signatures import unwrap

# Hub field -> the client's field, as losses report it.
NAMES = {
    "turns": "input",
    "system": "instructions",
    "system_turn": "input.role",
    "choice": "tool_choice",
    "parallel": "parallel_tool_calls",
    "max_tokens": "max_output_tokens",
    "reasoning": "reasoning.effort",
    "format": "text.format",
    "format_schema": "text.format.schema",
    "format_strict": "text.format.strict",
    "verbosity": "text.verbosity",
    "logprobs": "top_logprobs",
    "tier": "service_tier",
    "end_user": "user",
    "cache_key": "prompt_cache_key",
    "image": "input.content.input_image",
    "file": "input.content.input_file",
    "audio": "input.content.input_audio",
    "detail": "input.content.input_image.detail",
    "filename": "input.content.input_file.filename",
    "refusal": "input.content.refusal",
    "thinking": "input.reasoning",
    "signature": "input.reasoning.encrypted_content",
    "tool_result": "input.function_call_output",
    "tool_media": "input.function_call_output.output",
    "arguments": "input.function_call.arguments",
    "citations": "input.content.annotations",
    "schema": "tools.parameters",
    "strict": "tools.strict",
    "custom": "tools.custom",
    "web_search": "tools.web_search",
    "code_execution": "tools.code_interpreter",
}
KNOWN_FIELDS = frozenset(
    (
        "model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "max_output_tokens",
        "temperature", "top_p", "top_logprobs", "text", "reasoning", "service_tier", "user", "safety_identifier",
        "metadata", "store", "prompt_cache_key", "stream", "stream_options", "include", "truncation", "background",
        *("previous_response_id", "conversation", "prompt"),
    )
)  # fmt: skip
# Fields whose content only the vendor has: translated, the context would be lost silently.
STORED_AT_VENDOR = {
    "previous_response_id": "the conversation so far is kept by the vendor; send it in `input`",
    "conversation": "the conversation is kept by the vendor; send it in `input`",
    "prompt": "the prompt is kept by the vendor; send it in `instructions` and `input`",
    "background": "an answer cannot be fetched later from this provider",
}
INCLUDED = frozenset(("reasoning.encrypted_content", "message.output_text.logprobs"))
ROLES = dict.fromkeys(("user", "assistant", "system", "developer"))
MODES = {"auto": "auto", "none": "none", "required": "any"}
MODES_BACK = {"auto": "auto", "none": "none", "any": "required"}
ID, MAX_ID = re.compile(r"[\x21-\x7e]+"), 64
TOOL_NAME: tuple[re.Pattern[str], int] = (re.compile(r"[A-Za-z0-9_-]+"), 64)
URL_KINDS: frozenset[str] = frozenset(("image", "file"))
MIN_TOKENS = 16
# This vendor has no URLs that only it can open.
OWN_URLS: re.Pattern[str] | None = None


# -- reading -------------------------------------------------------------------------------------------------------


def read_request(body: dict, losses: Losses) -> hub.Request:
    """Returns the request in the hub's types. Raises BadRequest, which names the field."""
    for name, why in STORED_AT_VENDOR.items():
        if body.get(name):
            raise BadRequest(f"{name}: {why}")
    for name in body:
        if name not in KNOWN_FIELDS and body[name] is not None:
            losses.report(name)
    if body.get("truncation") not in (None, "disabled"):
        losses.report("truncation")
    included = validate.texts(body.get("include"), "include")
    if set(included) - INCLUDED:
        losses.report("include")
    text = validate.optional_obj(body, "text")
    text_format = validate.optional_obj(text, "format", "text")
    logprobs = validate.optional_count(body, "top_logprobs")
    if logprobs is None and "message.output_text.logprobs" in included:
        logprobs = 0
    system, turns = _read_input(body, losses)
    return hub.Request(
        turns=repair.merge_turns(turns),
        system=system,
        tools=tuple(_read_tools(body, losses)),
        choice=_read_choice(body.get("tool_choice"), losses),
        parallel=validate.optional_flag(body, "parallel_tool_calls"),
        max_tokens=validate.optional_count(body, "max_output_tokens"),
        temperature=validate.optional_number(body, "temperature"),
        top_p=validate.optional_number(body, "top_p"),
        logprobs=logprobs,
        format=read_format(text_format, text_format, "text.format", "text.format"),
        reasoning=_read_reasoning(validate.optional_obj(body, "reasoning")),
        verbosity=validate.optional_text(text, "verbosity", "text"),
        tier=validate.lookup(validate.optional_text(body, "service_tier"), TIERS, "service_tier"),
        end_user=validate.optional_text(body, "user") or validate.optional_text(body, "safety_identifier"),
        metadata=validate.optional_obj(body, "metadata"),
        store=validate.optional_flag(body, "store"),
        cache_key=validate.optional_text(body, "prompt_cache_key"),
    )


def _read_reasoning(options: dict) -> hub.Reasoning | None:
    effort = validate.optional_text(options, "effort", "reasoning")
    validate.lookup(effort, dict.fromkeys(reasoning.EFFORTS), "reasoning.effort")
    summary = options.get("summary") or options.get("generate_summary")
    if not effort and not summary:
        return None
    return hub.Reasoning(effort, None, True if summary else None)


def _read_input(body: dict, losses: Losses) -> tuple[tuple[str, ...], list[hub.Turn]]:
    """Returns the instructions, with the system messages before the first other item, and the turns."""
    instructions = validate.optional_text(body, "instructions")
    system = [instructions] if instructions and instructions.strip() else []
    content = body.get("input")
    if isinstance(content, str):
        return tuple(system), [hub.Turn("user", (hub.Text(content),))]
    turns: list[hub.Turn] = []
    for place, item in validate.objects(content, "input"):
        for turn in _read_item(item, place, losses):
            if turn.role == "system" and not turns:
                system += [block.text for block in turn.blocks if isinstance(block, hub.Text) and block.text.strip()]
            else:
                turns.append(turn)
    return tuple(system), turns


def _read_item(item: dict, place: str, losses: Losses) -> Iterator[hub.Turn]:
    kind = item.get("type") or ("message" if "role" in item else None)
    match kind:
        case "message":
            role = validate.text(item.get("role"), f"{place}.role")
            validate.lookup(role, ROLES, f"{place}.role")
            role = "system" if role == "developer" else role
            yield hub.Turn(role, tuple(_read_content(item.get("content"), f"{place}.content", losses)))
        case "function_call":
            call_id, name = (validate.text(item.get(key), f"{place}.{key}") for key in ("call_id", "name"))
            written = validate.optional_text(item, "arguments", place) or "{}"
            yield hub.Turn("assistant", (hub.ToolCall(call_id, qualified_name(item.get("namespace"), name), written),))
        case "custom_tool_call":
            call_id, name, text = (
                validate.text(item.get(key), f"{place}.{key}") for key in ("call_id", "name", "input")
            )
            name = qualified_name(item.get("namespace"), name)
            yield hub.Turn("assistant", (hub.ToolCall(call_id, name, text, is_custom=True),))
        case "function_call_output" | "custom_tool_call_output":
            call_id = validate.text(item.get("call_id") or item.get("id"), f"{place}.call_id")
            blocks = tuple(_read_content(item.get("output"), f"{place}.output", losses))
            blocks = tuple(b for b in blocks if isinstance(b, hub.Media) or (isinstance(b, hub.Text) and b.text))
            is_custom = kind == "custom_tool_call_output"
            yield hub.Turn("user", (hub.ToolResult(call_id, blocks, is_custom=is_custom),))
        case "local_shell_call" | "shell_call" | "apply_patch_call":
            # The client ran these calls: without their results the model would request them again.
            losses.report(f"input.{kind}")
            action = item.get("action") or item.get("operation")
            call_id = validate.text(item.get("call_id") or item.get("id"), f"{place}.call_id")
            yield hub.Turn(
                "assistant", (hub.ToolCall(call_id, kind.removesuffix("_call"), validate.dumps({"action": action})),)
            )
        case "local_shell_call_output" | "shell_call_output" | "apply_patch_call_output":
            call_id = validate.text(item.get("call_id") or item.get("id"), f"{place}.call_id")
            output = item.get("output")
            text = output if isinstance(output, str) else validate.dumps({"output": output})
            yield hub.Turn("user", (hub.ToolResult(call_id, (hub.Text(text),) if text else ()),))
        case "reasoning":
            yield hub.Turn("assistant", (_read_thinking(item),))
        case "item_reference" | "compaction":
            raise BadRequest(f"{place}: {kind} refers to content that only its vendor has; send the content itself")
        case "image_generation_call" if isinstance(item.get("result"), str):
            yield hub.Turn(
                "assistant", (hub.Media("image", f"image/{item.get('output_format') or 'png'}", item["result"]),)
            )
        case str():
            # Steps of the vendor's own tools; their outcome is in the messages.
            losses.report(f"input.{kind}")
        case _:
            raise BadRequest(f"{place}.type: missing; name the kind of item")


def _read_thinking(item: dict) -> hub.Thinking:
    texts = [
        hub.as_object(part).get("text") for part in hub.as_list(item.get("summary")) or hub.as_list(item.get("content"))
    ]
    opaque = item.get("encrypted_content")
    signature = unwrap(opaque) if isinstance(opaque, str) else None
    return hub.Thinking("\n".join(text for text in texts if isinstance(text, str)), signature)


def _read_content(content, place: str, losses: Losses) -> Iterator[hub.Block]:
    if content is None or isinstance(content, str):
        if content:
            yield hub.Text(content)
        return
    for item_place, item in validate.objects(content, place):
        if item.get("prompt_cache_breakpoint") is not None:
            losses.report("input.content.prompt_cache_breakpoint")
        match item.get("type"):
            case "input_text" | "output_text" | "text":
                citations = (read_citation(annotation) for annotation in hub.as_list(item.get("annotations")))
                yield hub.Text(validate.text(item.get("text"), f"{item_place}.text"), tuple(filter(None, citations)))
            case "refusal":
                yield hub.Refusal(validate.text(item.get("refusal"), f"{item_place}.refusal"))
            case "input_image":
                yield _read_image(item, item_place)
            case "input_file":
                yield _read_file(item, item_place)
            case "input_audio":
                audio = validate.obj(item.get("input_audio"), f"{item_place}.input_audio")
                data_place = f"{item_place}.input_audio.data"
                data = validate.check_base64(validate.text(audio.get("data"), data_place), data_place)
                yield hub.Media("audio", f"audio/{validate.optional_text(audio, 'format') or 'wav'}", data)
            case str() as kind:
                losses.report(f"input.content.{kind}")
            case _:
                raise BadRequest(f"{item_place}.type: missing; name the kind of content")


def _read_image(item: dict, place: str) -> hub.Media:
    detail = validate.optional_text(item, "detail", place)
    if (url := validate.optional_text(item, "image_url", place)) is not None:
        return validate.media_of_url(url, "image", f"{place}.image_url", detail=detail)
    return hub.Media("image", file_id=validate.text(item.get("file_id"), f"{place}.image_url"), detail=detail)


def _read_file(item: dict, place: str) -> hub.Media:
    name = validate.optional_text(item, "filename", place)
    if (data := validate.optional_text(item, "file_data", place)) is not None:
        if data.startswith("data:"):
            return validate.media_of_url(data, "file", f"{place}.file_data", name)
        kind = validate.media_type_of(name)
        return hub.Media(
            validate.media_kind(kind, "file"), kind, validate.check_base64(data, f"{place}.file_data"), name=name
        )
    if (url := validate.optional_text(item, "file_url", place)) is not None:
        return validate.media_of_url(url, "file", f"{place}.file_url", name)
    return hub.Media(
        "file", validate.media_type_of(name), file_id=validate.text(item.get("file_id"), f"{place}.file_id"), name=name
    )


def qualified_name(namespace: object, name: str) -> str:
    """Returns one name for a tool in a namespace, since no other protocol has namespaces."""
    return f"{namespace}__{name}" if isinstance(namespace, str) and namespace else name


def _read_tools(body: dict, losses: Losses) -> Iterator[hub.Tool | hub.WebSearch | hub.CodeExecution]:
    for place, tool in validate.objects(body.get("tools"), "tools"):
        kind = validate.text(tool.get("type"), f"{place}.type")
        match kind:
            case "function" | "custom":
                yield _read_tool(tool, None, place, losses)
            case "namespace":
                name = validate.text(tool.get("name"), f"{place}.name")
                if tool.get("description"):
                    losses.report("tools.namespace.description")
                for inner_place, inner in validate.objects(tool.get("tools"), f"{place}.tools"):
                    yield _read_tool(inner, name, inner_place, losses)
            case "code_interpreter":
                yield hub.CodeExecution()
            case _ if kind.startswith("web_search"):
                for name in ("search_context_size", "external_web_access"):
                    if tool.get(name) is not None:
                        losses.report(f"tools.web_search.{name}")
                allowed = validate.optional_obj(tool, "filters", place).get("allowed_domains")
                location = validate.optional_obj(tool, "user_location", place)
                user_place = {k: v for k, v in location.items() if k != "type" and isinstance(v, str)}
                yield hub.WebSearch(validate.texts(allowed, f"{place}.filters.allowed_domains"), place=user_place)
            case _:
                losses.report(f"tools.{kind}")


def _read_tool(tool: dict, namespace: str | None, place: str, losses: Losses) -> hub.Tool:
    name = qualified_name(namespace, validate.text(tool.get("name"), f"{place}.name"))
    description = validate.optional_text(tool, "description", place)
    if tool.get("type") == "custom":
        if hub.as_object(tool.get("format")).get("type") == "grammar":
            losses.report("tools.custom.format")
        return hub.Tool(name, description)
    schema = validate.optional_obj(tool, "parameters", place)
    return hub.Tool(name, description, schema, validate.optional_flag(tool, "strict", place))


def _read_choice(choice, losses: Losses) -> hub.ToolChoice | None:
    if choice is None:
        return None
    if isinstance(choice, str):
        return hub.ToolChoice(validate.lookup(choice, MODES, "tool_choice"))
    choice = validate.obj(choice, "tool_choice")
    match choice.get("type"):
        case "function" | "custom":
            return hub.ToolChoice("any", (validate.text(choice.get("name"), "tool_choice.name"),))
        case "allowed_tools":
            tools = [tool for _, tool in validate.objects(choice.get("tools"), "tool_choice.tools")]
            names = tuple(str(tool["name"]) for tool in tools if tool.get("name"))
            return hub.ToolChoice(validate.lookup(choice.get("mode") or "auto", MODES, "tool_choice.mode"), names)
        case str():
            losses.report("tool_choice")
            return None
    raise BadRequest("tool_choice.type: missing")


# -- writing -------------------------------------------------------------------------------------------------------


def write_request(request: hub.Request, target: hub.Target, losses: Losses) -> dict:
    """Returns the body for the vendor. Raises BadRequest where no valid body can be written."""
    turns = repair.pair_results(request.turns, losses)
    input_items = [item for turn in turns for item in _write_turn(turn, target, losses)]
    if not input_items and not request.system:
        raise BadRequest(f"{losses.wire_name('turns')}: at least one message is needed")
    text = {}
    text_format, prompts_for_format = write_format(request, losses)
    system = (*request.system, *prompts_for_format)
    if text_format is not None:
        text["format"] = text_format
    if text_format == {"type": "json_object"} and not prompts.mentions_json(turns):
        # The vendor looks for the word "json" in the input, not in the instructions.
        input_items = [*_write_turn(hub.Turn("system", tuple(map(hub.Text, system))), target, losses), *input_items]
        system = ()
    if request.verbosity and "verbosity" not in target.refused:
        text["verbosity"] = request.verbosity
    elif request.verbosity:
        losses.lose("verbosity")
    reasoning_options = _write_reasoning(request, target, losses)
    tools = [written for i, tool in enumerate(request.tools) if (written := _write_tool(tool, i, losses))]
    body = {
        "model": target.model,
        "instructions": "\n".join(system) or None,
        "input": input_items,
        "tools": tools or None,
        "tool_choice": _write_choice(request) if tools else None,
        "parallel_tool_calls": request.parallel if tools else None,
        "max_output_tokens": _raise_to_minimum(write_max_tokens(request.max_tokens, target, losses), losses),
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_logprobs": request.logprobs or None,
        "text": text or None,
        "reasoning": reasoning_options,
        "include": _write_include(request, target),
        "service_tier": TIERS_BACK.get(request.tier),
        "user": write_user(request.end_user, losses),
        "metadata": dict(request.metadata) or None,
        # Not stored unless requested: protocols other than this one do not store by default.
        "store": bool(request.store),
        "prompt_cache_key": request.cache_key,
        "stream": True if target.is_stream else None,
    }
    for name in ("top_k", "seed", "frequency_penalty", "presence_penalty"):
        unset = (None,) if name in ("top_k", "seed") else (None, 0)
        if getattr(request, name) not in unset:
            losses.lose(name)
    if request.stop:
        losses.lose("stop")
    if request.n not in (None, 1):
        losses.lose("n")
    drop_refused(body, REFUSED, target, losses)
    return {name: value for name, value in body.items() if value is not None}


# Hub fields that a model may reject -> the fields of this protocol.
REFUSED = {
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "logprobs": ("top_logprobs",),
    "end_user": ("user",),
    "parallel": ("parallel_tool_calls",),
}


def _raise_to_minimum(max_tokens: int | None, losses: Losses) -> int | None:
    if max_tokens is not None and max_tokens < MIN_TOKENS:
        losses.lose("max_tokens")
        return MIN_TOKENS
    return max_tokens


def _write_reasoning(request: hub.Request, target: hub.Target, losses: Losses) -> dict | None:
    if request.reasoning is None:
        return None
    effort = reasoning.openai_effort(request.reasoning, target, losses)
    if effort is None:
        return None
    return {"effort": effort, **({"summary": "auto"} if request.reasoning.is_shown and effort != "none" else {})}


def _write_include(request: hub.Request, target: hub.Target) -> list[str] | None:
    """Returns `include`: encrypted reasoning, so that the next turn can continue from it, and log-probabilities."""
    included = []
    if "encrypted_reasoning" in target.traits:
        included.append("reasoning.encrypted_content")
    if request.logprobs is not None and "logprobs" not in target.refused:
        included.append("message.output_text.logprobs")
    return included or None


def _write_turn(turn: hub.Turn, target: hub.Target, losses: Losses) -> Iterator[dict]:
    if turn.role == "assistant":
        yield from _write_assistant(turn, target, losses)
        return
    content = []
    for block in turn.blocks:
        match block:
            case hub.ToolResult():
                yield _write_result(block, losses)
            case hub.Text(text):
                content.append({"type": "input_text", "text": text})
            case hub.Media():
                content.append(_write_media(block, losses))
    if content:
        role = "developer" if turn.role == "system" else "user"
        yield {"type": "message", "role": role, "content": content}


def _write_assistant(turn: hub.Turn, target: hub.Target, losses: Losses) -> Iterator[dict]:
    content: list[dict] = []
    for block in turn.blocks:
        match block:
            case hub.Text(text, citations):
                if citations:
                    losses.lose("citations")
                content.append({"type": "output_text", "text": text, "annotations": []})
                continue
            case hub.Refusal(text):
                content.append({"type": "refusal", "refusal": text})
                continue
        if content:
            yield {"type": "message", "role": "assistant", "content": content}
            content = []
        match block:
            case hub.Thinking():
                yield from _write_thinking(block, target, losses)
            case hub.ToolCall(call_id, name, arguments):
                call_id = legal_call_id(call_id)
                if block.is_custom:
                    yield {"type": "custom_tool_call", "call_id": call_id, "name": name, "input": arguments}
                else:
                    yield {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments or "{}"}
                if block.signature:
                    losses.lose("signature")
            case hub.Media(kind):
                losses.lose(kind)
    if content:
        yield {"type": "message", "role": "assistant", "content": content}


def _write_thinking(block: hub.Thinking, target: hub.Target, losses: Losses) -> Iterator[dict]:
    """Yields reasoning that this provider encrypted; the vendor rejects any other."""
    signature = block.signature
    if signature is None or signature.origin != target.provider:
        losses.lose("signature" if signature and not block.text else "thinking")
        return
    item_id, _, encrypted = signature.value.partition(":")
    summary = [{"type": "summary_text", "text": block.text}] if block.text else []
    yield {"type": "reasoning", "id": item_id, "summary": summary, "encrypted_content": encrypted}


def legal_call_id(call_id: str) -> str:
    return repair.legal_id(call_id, ID, MAX_ID)


def _write_result(block: hub.ToolResult, losses: Losses) -> dict:
    if block.is_error:
        losses.lose("tool_error")
    kind = "custom_tool_call_output" if block.is_custom else "function_call_output"
    texts = [item.text for item in block.blocks if isinstance(item, hub.Text)]
    if len(texts) == len(block.blocks):
        text = "\n".join(texts)
        output = (f"Error: {text}" if text else "Error") if block.is_error else text
    else:
        output = [
            _write_media(item, losses) if isinstance(item, hub.Media) else {"type": "input_text", "text": item.text}
            for item in block.blocks
        ]
        if block.is_error:
            output.insert(0, {"type": "input_text", "text": "Error:"})
    return {"type": kind, "call_id": legal_call_id(block.call_id), "output": output}


def _write_media(block: hub.Media, losses: Losses) -> dict:
    if block.name and (block.kind in ("image", "audio") or block.url):
        losses.lose("filename")
    if block.kind == "image" and (block.url or block.data):
        url = block.url or validate.data_url(block.media_type, block.data)
        return {"type": "input_image", "image_url": url, "detail": block.detail or "auto"}
    if block.kind == "audio" and block.data and block.media_type in AUDIO:
        return {"type": "input_audio", "input_audio": {"data": block.data, "format": AUDIO[block.media_type]}}
    if block.kind == "file" and block.url:
        return {"type": "input_file", "file_url": block.url}
    if block.kind == "file" and block.data:
        name = block.name or f"file.{validate.file_extension(block.media_type)}"
        return {"type": "input_file", "filename": name, "file_data": validate.data_url(block.media_type, block.data)}
    losses.lose(block.kind)
    return {"type": "input_text", "text": validate.OMITTED_FILE.format(block.name or block.media_type or block.kind)}


def _write_tool(tool, number: int, losses: Losses) -> dict | None:
    match tool:
        case hub.Tool():
            described = {"description": tool.description} if tool.description else {}
            if tool.is_custom:
                return {"type": "custom", "name": tool.name, **described}
            # `strict` is always written: this vendor alone defaults to true.
            schema, strict = write_parameters(tool, number, losses)
            return {"type": "function", "name": tool.name, **described, "parameters": schema, "strict": strict}
        case hub.WebSearch():
            if tool.blocked or tool.max_uses is not None:
                losses.lose("web_search")
            search = {"type": "web_search"}
            if tool.allowed:
                search["filters"] = {"allowed_domains": list(tool.allowed)}
            if tool.place:
                search["user_location"] = {"type": "approximate", **tool.place}
            return search
        case hub.CodeExecution():
            return {"type": "code_interpreter", "container": {"type": "auto"}}
        case hub.WebFetch():
            losses.lose("web_fetch")
    return None


def _write_choice(request: hub.Request) -> str | dict | None:
    choice = request.choice
    if choice is None:
        return None
    custom = {tool.name for tool in request.functions if tool.is_custom}
    named = [{"type": "custom" if name in custom else "function", "name": name} for name in choice.names]
    if choice.mode == "any" and len(named) == 1:
        return named[0]
    if named:
        return {"type": "allowed_tools", "mode": MODES_BACK[choice.mode], "tools": named}
    return MODES_BACK[choice.mode]
