"""Translates generateContent requests to and from the hub. https://ai.google.dev/api/generate-content"""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import orjson

from gproxy.errors import BadRequest
from gproxy.protocols import hub, prompts, reasoning, repair, schemas, validate
from gproxy.protocols.custom_tools import FREE_INPUT, as_arguments
from gproxy.protocols.losses import Losses
from gproxy.protocols.signatures import SKIP_VALIDATOR, unwrap

# Hub field -> the client's field, as losses report it.
NAMES = {
    "turns": "contents",
    "system": "systemInstruction",
    "system_turn": "contents.role",
    "choice": "toolConfig.functionCallingConfig",
    "parallel": "toolConfig",
    "max_tokens": "generationConfig.maxOutputTokens",
    "temperature": "generationConfig.temperature",
    "top_p": "generationConfig.topP",
    "top_k": "generationConfig.topK",
    "stop": "generationConfig.stopSequences",
    "seed": "generationConfig.seed",
    "frequency_penalty": "generationConfig.frequencyPenalty",
    "presence_penalty": "generationConfig.presencePenalty",
    "n": "generationConfig.candidateCount",
    "logprobs": "generationConfig.responseLogprobs",
    "format": "generationConfig.responseMimeType",
    "format_schema": "generationConfig.responseJsonSchema",
    "reasoning": "generationConfig.thinkingConfig",
    "tier": "serviceTier",
    "metadata": "labels",
    "image": "contents.parts.inlineData",
    "file": "contents.parts.fileData",
    "audio": "contents.parts.inlineData",
    "video": "contents.parts.inlineData",
    "filename": "contents.parts.displayName",
    "thinking": "contents.parts.thought",
    "signature": "contents.parts.thoughtSignature",
    "tool_result": "contents.parts.functionResponse",
    "tool_error": "contents.parts.functionResponse.response",
    "tool_media": "contents.parts.functionResponse.parts",
    "arguments": "contents.parts.functionCall.args",
    "schema": "tools.functionDeclarations.parameters",
    "web_search": "tools.googleSearch",
    "code_execution": "tools.codeExecution",
    "web_fetch": "tools.urlContext",
}
KNOWN_FIELDS = frozenset(
    (
        "contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "model", "serviceTier", "labels",
        "store", "cachedContent",
    )
)  # fmt: skip
KNOWN_CONFIG = frozenset(
    (
        "temperature", "topP", "topK", "candidateCount", "maxOutputTokens", "stopSequences", "responseMimeType",
        "responseSchema", "responseJsonSchema", "_responseJsonSchema", "presencePenalty", "frequencyPenalty", "seed",
        "responseLogprobs", "logprobs", "thinkingConfig", "responseModalities",
    )
)  # fmt: skip
ROLES = {"user": "user", "model": "assistant", "function": "user"}
MODES = {"AUTO": "auto", "ANY": "any", "NONE": "none", "VALIDATED": "auto", "MODE_UNSPECIFIED": "auto"}
MODES_BACK = {"auto": "AUTO", "any": "ANY", "none": "NONE"}
TIERS = {"unspecified": "auto", "standard": "default", "flex": "flex", "priority": "priority"}
TIERS_BACK = {"default": "standard", "flex": "flex", "priority": "priority", "scale": "priority"}
# https://ai.google.dev/api/caching#FunctionDeclaration
TOOL_NAME: tuple[re.Pattern[str], int] = (re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]*"), 64)
MAX_STOPS = 5
# https://ai.google.dev/gemini-api/docs/image-understanding#supported-formats
IMAGES = frozenset(("image/png", "image/jpeg", "image/webp", "image/heic", "image/heif"))
# Google opens its own URLs only; media at other URLs have to be fetched first.
URL_KINDS: frozenset[str] = frozenset()
OWN_URLS: re.Pattern[str] | None = re.compile(
    r"gs://|https://generativelanguage\.googleapis\.com/|https://(www\.)?youtube\.com/|https://youtu\.be/",
    re.IGNORECASE,
)
_SNAKE = re.compile(r"(?<=[a-z0-9])_([a-z0-9])")


# -- reading -------------------------------------------------------------------------------------------------------


def camel_case_keys(fields: dict) -> dict:
    """Returns the fields under the names that Google documents; clients may send snake case too."""
    if not any("_" in name[1:] for name in fields):
        return fields
    return {_SNAKE.sub(lambda match: match[1].upper(), name): value for name, value in fields.items()}


def _camel_obj(body: dict, name: str, place: str = "") -> dict:
    return camel_case_keys(validate.optional_obj(body, name, place))


def read_request(body: dict, losses: Losses) -> hub.Request:
    """Returns the request in the hub's types. Raises BadRequest, which names the field."""
    body = camel_case_keys(body)
    if body.get("cachedContent"):
        raise BadRequest("cachedContent: the content is kept by the vendor; send it in `contents`")
    for name, value in body.items():
        if name not in KNOWN_FIELDS and value not in (None, [], {}):
            losses.report(name)
    config = _camel_obj(body, "generationConfig")
    for name, value in config.items():
        if name not in KNOWN_CONFIG and value is not None:
            losses.report(f"generationConfig.{name}")
    if config.get("responseModalities") not in (None, [], ["TEXT"], ["text"]):
        losses.report("generationConfig.responseModalities")
    place = "generationConfig"
    logprobs = validate.optional_count(config, "logprobs", place)
    if validate.optional_flag(config, "responseLogprobs", place):
        logprobs = logprobs or 0
    system = [block.text for block in _read_system(body, losses) if isinstance(block, hub.Text) and block.text.strip()]
    return hub.Request(
        turns=_read_contents(body, losses),
        system=tuple(system),
        tools=tuple(_read_tools(body, losses)),
        choice=_read_choice(_camel_obj(body, "toolConfig"), losses),
        max_tokens=validate.optional_count(config, "maxOutputTokens", place),
        temperature=validate.optional_number(config, "temperature", place),
        top_p=validate.optional_number(config, "topP", place),
        top_k=validate.optional_count(config, "topK", place),
        stop=validate.texts(config.get("stopSequences"), f"{place}.stopSequences"),
        seed=validate.optional_count(config, "seed", place, minimum=-(2**63)),
        frequency_penalty=validate.optional_number(config, "frequencyPenalty", place),
        presence_penalty=validate.optional_number(config, "presencePenalty", place),
        n=validate.optional_count(config, "candidateCount", place, minimum=1),
        logprobs=logprobs,
        format=_read_format(config, losses),
        reasoning=reasoning.read_gemini(_camel_obj(config, "thinkingConfig", place), f"{place}.thinkingConfig"),
        tier=_read_tier(body),
        metadata=validate.optional_obj(body, "labels"),
        store=validate.optional_flag(body, "store"),
    )


def _read_tier(body: dict) -> str | None:
    tier = validate.optional_text(body, "serviceTier")
    return validate.lookup(tier.lower(), TIERS, "serviceTier") if tier else None


def _read_system(body: dict, losses: Losses) -> Iterator[hub.Block]:
    instruction = body.get("systemInstruction")
    if isinstance(instruction, str):
        yield hub.Text(instruction)
    elif instruction is not None:
        content = validate.obj(instruction, "systemInstruction")
        for place, item in validate.objects(content.get("parts"), "systemInstruction.parts"):
            yield from _read_part(camel_case_keys(item), place, losses)


def _read_contents(body: dict, losses: Losses) -> tuple[hub.Turn, ...]:
    contents = body.get("contents")
    if isinstance(contents, str):
        contents = [{"parts": [{"text": contents}]}]
    contents = [contents] if isinstance(contents, dict) else contents
    turns = []
    for place, content in validate.objects(contents, "contents"):
        role = validate.lookup(validate.optional_text(content, "role", place) or "user", ROLES, f"{place}.role")
        parts = content.get("parts")
        parts = [parts] if isinstance(parts, dict) else parts
        blocks = [
            block
            for part_place, item in validate.objects(parts, f"{place}.parts")
            for block in _read_part(camel_case_keys(item), part_place, losses)
        ]
        results = tuple(block for block in blocks if isinstance(block, hub.ToolResult))
        if role == "assistant" and results:  # some clients send results in the model's turn
            blocks = [block for block in blocks if not isinstance(block, hub.ToolResult)]
        turns.append(hub.Turn(role, tuple(blocks)))
        if role == "assistant" and results:
            turns.append(hub.Turn("user", results))
    return _with_call_ids([hub.Turn(turn.role, _merge_pieces(turn)) for turn in repair.merge_turns(turns)])


def _merge_pieces(turn: hub.Turn) -> tuple[hub.Block, ...]:
    """Returns whole blocks of a model's turn: a client that streamed it sends it back in pieces."""
    if turn.role != "assistant":
        return turn.blocks
    runs: list[list[hub.Block]] = []
    for block in turn.blocks:
        last = runs[-1][-1] if runs else None
        match last, block:
            case (hub.Text(), hub.Text()) | (hub.Thinking(signature=None), hub.Thinking()):
                runs[-1].append(block)
            case _:
                runs.append([block])
    return tuple(run[0] if len(run) == 1 else _merge(run) for run in runs)


def _merge(run: list[hub.Block]) -> hub.Block:
    text = "".join(block.text for block in run)
    return hub.Text(text) if isinstance(run[0], hub.Text) else hub.Thinking(text, run[-1].signature)


def _with_call_ids(turns: list[hub.Turn]) -> tuple[hub.Turn, ...]:
    """Returns the turns with an id in each call and result. Most clients send no ids: they pair by name and order."""
    out, count = [], 0
    unanswered: dict[str | None, deque[str]] = {}  # ids of calls by name
    answered: set[str] = set()
    for turn in turns:
        blocks: list[hub.Block] = []
        for block in turn.blocks:
            if isinstance(block, hub.ToolCall):
                block = block if block.id else replace(block, id=f"call_{count}")
                count += 1
                unanswered.setdefault(block.name, deque()).append(block.id)
            elif isinstance(block, hub.ToolResult):
                if not block.call_id:
                    queue = unanswered.get(block.name, deque())
                    while queue and queue[0] in answered:
                        queue.popleft()
                    block = replace(block, call_id=queue.popleft() if queue else f"call_{count}_{block.name}")
                    count += 1
                answered.add(block.call_id)
            blocks.append(block)
        out.append(hub.Turn(turn.role, tuple(blocks)))
    return tuple(out)


def _read_part(item: dict, place: str, losses: Losses) -> Iterator[hub.Block]:
    signature = unwrap(validate.optional_text(item, "thoughtSignature", place))
    for name in ("videoMetadata", "mediaResolution"):
        if item.get(name) is not None:
            losses.report(f"contents.parts.{name}")
    match item:
        case {"functionCall": call} if call is not None:
            call = validate.obj(call, f"{place}.functionCall")
            name = validate.text(call.get("name"), f"{place}.functionCall.name")
            arguments = validate.dumps(validate.optional_obj(call, "args", f"{place}.functionCall"))
            call_id = validate.optional_text(call, "id", f"{place}.functionCall") or ""
            yield hub.ToolCall(call_id, name, arguments, signature=signature)
            return
        case {"functionResponse": result} if result is not None:
            yield _read_result(
                camel_case_keys(validate.obj(result, f"{place}.functionResponse")), f"{place}.functionResponse", losses
            )
        case {"text": text} if text is not None:
            text = validate.text(text, f"{place}.text")
            if item.get("thought") is True:
                yield hub.Thinking(text, signature)
                return
            if text:
                yield hub.Text(text)
        case {"inlineData": blob} if blob is not None:
            yield _read_blob(camel_case_keys(validate.obj(blob, f"{place}.inlineData")), f"{place}.inlineData")
        case {"fileData": file} if file is not None:
            yield _read_file(camel_case_keys(validate.obj(file, f"{place}.fileData")), f"{place}.fileData")
        case {"executableCode": code} if code is not None:
            losses.report("contents.parts.executableCode")
            code = hub.as_object(code)
            yield hub.Text(validate.CODE_BLOCK.format(str(code.get("language") or "").lower(), code.get("code") or ""))
        case {"codeExecutionResult": result} if result is not None:
            losses.report("contents.parts.codeExecutionResult")
            yield hub.Text(validate.CODE_BLOCK.format("", hub.as_object(result).get("output") or ""))
        case _ if signature is None:
            known = ("thought", "thoughtSignature", "videoMetadata", "mediaResolution")
            unknown = [name for name in item if name not in known]
            losses.report(f"contents.parts.{unknown[0]}" if unknown else "contents.parts")
    if signature is not None:
        yield hub.Thinking("", signature)


def _read_result(result: dict, place: str, losses: Losses) -> hub.ToolResult:
    """Returns a tool result: `output`, `result` or `error` if it is the only field, else the whole response."""
    name = validate.text(result.get("name"), f"{place}.name")
    response = validate.optional_obj(result, "response", place)
    is_error = set(response) == {"error"}
    value: object = response
    if len(response) == 1:
        value = next((response[key] for key in ("output", "result", "error") if key in response), response)
    text = value if isinstance(value, str) else validate.dumps(value)
    blocks: list[hub.Text | hub.Media] = [hub.Text(text)] if text else []
    for part_place, item in validate.objects(result.get("parts"), f"{place}.parts"):
        blocks += [b for b in _read_part(camel_case_keys(item), part_place, losses) if isinstance(b, hub.Media)]
    return hub.ToolResult(validate.optional_text(result, "id", place) or "", tuple(blocks), is_error, name=name)


def _read_blob(blob: dict, place: str) -> hub.Media:
    media_type = validate.optional_text(blob, "mimeType", place)
    data = validate.check_base64(validate.text(blob.get("data"), f"{place}.data"), f"{place}.data")
    name = validate.optional_text(blob, "displayName", place)
    return hub.Media(validate.media_kind(media_type, "file"), media_type, data.translate(_STANDARD), name=name)


# Google accepts URL-safe base64 too, and its SDK sends it.
_STANDARD = str.maketrans("-_", "+/")


def _read_file(file: dict, place: str) -> hub.Media:
    media_type = validate.optional_text(file, "mimeType", place)
    url = validate.text(file.get("fileUri"), f"{place}.fileUri")
    return hub.Media(
        validate.media_kind(media_type, "file"), media_type, url=url, name=validate.optional_text(file, "displayName")
    )


def _read_tools(body: dict, losses: Losses) -> Iterator[hub.Tool | hub.WebSearch | hub.CodeExecution | hub.WebFetch]:
    tools = body.get("tools")
    for place, tool in validate.objects([tools] if isinstance(tools, dict) else tools, "tools"):
        for name, value in camel_case_keys(tool).items():
            match name:
                case "functionDeclarations":
                    for tool_place, declared in validate.objects(value, f"{place}.functionDeclarations"):
                        yield _read_tool(camel_case_keys(declared), tool_place, losses)
                case "googleSearch" | "googleSearchRetrieval":
                    yield hub.WebSearch()
                case "codeExecution":
                    yield hub.CodeExecution()
                case "urlContext":
                    yield hub.WebFetch()
                case _ if value is not None:
                    losses.report(f"tools.{name}")


def _read_tool(declared: dict, place: str, losses: Losses) -> hub.Tool:
    name = validate.text(declared.get("name"), f"{place}.name")
    for unread in ("response", "responseJsonSchema", "behavior"):
        if declared.get(unread) is not None:
            losses.report(f"tools.functionDeclarations.{unread}")
    if declared.get("parametersJsonSchema") is not None:
        schema = validate.obj(declared["parametersJsonSchema"], f"{place}.parametersJsonSchema")
    else:
        schema = schemas.from_openapi(validate.optional_obj(declared, "parameters", place), f"{place}.parameters")
    return hub.Tool(name, validate.optional_text(declared, "description", place), schema)


def _read_choice(config: dict, losses: Losses) -> hub.ToolChoice | None:
    for name in config:
        if name != "functionCallingConfig" and config[name] is not None:
            losses.report(f"toolConfig.{name}")
    calling = _camel_obj(config, "functionCallingConfig", "toolConfig")
    if not calling:
        return None
    place = "toolConfig.functionCallingConfig"
    mode = validate.lookup((validate.optional_text(calling, "mode", place) or "AUTO").upper(), MODES, f"{place}.mode")
    names = validate.texts(calling.get("allowedFunctionNames"), f"{place}.allowedFunctionNames")
    return hub.ToolChoice(mode, names)


def _read_format(config: dict, losses: Losses) -> hub.Format | None:
    place = "generationConfig"
    kind = validate.optional_text(config, "responseMimeType", place)
    if kind not in (None, "", "text/plain", "application/json"):  # such as text/x.enum: other vendors return JSON
        losses.report(f"{place}.responseMimeType")
    for name in ("responseJsonSchema", "_responseJsonSchema"):
        if config.get(name) is not None:
            return hub.Format(validate.obj(config[name], f"{place}.{name}"))
    if config.get("responseSchema") is not None:
        schema = validate.obj(config["responseSchema"], f"{place}.responseSchema")
        return hub.Format(schemas.from_openapi(schema, f"{place}.responseSchema"))
    return hub.Format() if kind == "application/json" else None


# -- writing -------------------------------------------------------------------------------------------------------


def write_request(request: hub.Request, target: hub.Target, losses: Losses) -> dict:
    """Returns the body for the vendor. Raises BadRequest where no valid body can be written."""
    turns = repair.pair_results(repair.without_system(request.turns, losses), losses)
    turns = repair.start_with_user(turns, bool(request.system), losses)
    names = {b.id: b.name for turn in turns for b in turn.blocks if isinstance(b, hub.ToolCall)}
    contents = [content for turn in turns if (content := _write_turn(turn, names, target, losses))["parts"]]
    system = list(request.system)
    config = _write_config(request, target, system, losses)
    body = {
        "contents": contents,
        "systemInstruction": {"parts": [{"text": text} for text in system]} if system else None,
        "tools": _write_tools(request, losses) or None,
        "generationConfig": config or None,
        "serviceTier": TIERS_BACK.get(request.tier),
    }
    body["toolConfig"] = _write_choice(request, losses) if request.functions else None
    if request.tier == "scale":
        losses.lose("tier")
    if request.parallel is False and request.functions:
        losses.lose("parallel")
    for name in ("verbosity", "end_user", "store", "cache_key"):
        if getattr(request, name):
            losses.lose(name)
    if request.metadata:
        losses.lose("metadata")
    return {name: value for name, value in body.items() if value is not None}


def _write_turn(turn: hub.Turn, names: dict[str, str], target: hub.Target, losses: Losses) -> dict:
    if turn.role == "assistant":
        return {"role": "model", "parts": list(_write_model(turn, target, losses))}
    parts: list[dict] = []
    # The vendor counts the responses to parallel calls; no other part may be between them.
    results = [block for block in turn.blocks if isinstance(block, hub.ToolResult)]
    parts += [_write_result(block, names) for block in results]
    for item in (item for block in results for item in block.blocks if isinstance(item, hub.Media)):
        losses.lose("tool_media")
        parts.append(_write_media(item, losses))
    for block in turn.blocks:
        match block:
            case hub.Text(text):
                parts.append({"text": text})
            case hub.Media():
                parts.append(_write_media(block, losses))
    return {"role": "user", "parts": parts}


def _write_model(turn: hub.Turn, target: hub.Target, losses: Losses) -> Iterator[dict]:
    """Yields the parts of a model's turn. Models with signatures require one, or SKIP_VALIDATOR, in the first call."""
    is_first = "signatures" in target.traits
    carried: hub.Signature | None = None
    for block in turn.blocks:
        match block:
            case hub.Text(text):
                if carried:
                    yield {"text": "", "thoughtSignature": carried.value}
                    carried = None
                if block.citations:
                    losses.lose("citations")
                yield {"text": text}
            case hub.Refusal(text):
                losses.lose("refusal")
                yield {"text": text}
            case hub.Thinking(text, signature):
                is_own = signature is not None and signature.origin == target.provider
                if signature is not None and not is_own:
                    losses.lose("thinking" if text else "signature")
                elif not is_own:
                    losses.lose("thinking")
                elif text:
                    yield {"text": text, "thought": True, "thoughtSignature": signature.value}
                else:
                    carried = signature
            case hub.ToolCall():
                signature = block.signature if block.signature else carried
                carried = None
                yield _write_call(block, signature, is_first, target, losses)
                is_first = False
            case hub.Media() if block.data and block.media_type in IMAGES:
                yield _write_media(block, losses)
            case hub.Media(kind):
                losses.lose(kind)
    if carried:
        yield {"text": "", "thoughtSignature": carried.value}


def _write_call(
    block: hub.ToolCall, signature: hub.Signature | None, is_first: bool, target: hub.Target, losses: Losses
) -> dict:
    text = as_arguments(block.arguments) if block.is_custom else block.arguments
    arguments = validate.arguments_object(text, losses)
    call = {"functionCall": {"id": block.id, "name": block.name, "args": arguments}}
    if signature is not None and signature.origin == target.provider:
        return {**call, "thoughtSignature": signature.value}
    if signature is not None:
        losses.lose("signature")
    if is_first:
        losses.lose("signature")
        return {**call, "thoughtSignature": SKIP_VALIDATOR}
    return call


def _write_result(block: hub.ToolResult, names: dict[str, str]) -> dict:
    text = "\n".join(item.text for item in block.blocks if isinstance(item, hub.Text))
    response = {"error": text or "Error"} if block.is_error else _as_object(text)
    name = names.get(block.call_id) or block.name or repair.PLACEHOLDER_TOOL
    return {"functionResponse": {"id": block.call_id, "name": name, "response": response}}


def _as_object(text: str) -> dict:
    if text.lstrip().startswith("{"):
        try:
            parsed = orjson.loads(text)
        except orjson.JSONDecodeError:
            parsed = None
        if isinstance(parsed, dict):
            return parsed
    return {"output": text}


def _write_media(block: hub.Media, losses: Losses) -> dict:
    if block.detail not in (None, "auto"):
        losses.lose("detail")
    if block.name and not block.file_id:
        losses.lose("filename")
    if block.data and (block.kind != "image" or block.media_type in IMAGES):
        return {"inlineData": {"mimeType": block.media_type or "application/octet-stream", "data": block.data}}
    if block.url:
        kind = {"mimeType": block.media_type} if block.media_type else {}
        return {"fileData": {**kind, "fileUri": block.url}}
    losses.lose(block.kind)
    return {"text": validate.OMITTED_FILE.format(block.name or block.media_type or block.kind)}


def _write_tools(request: hub.Request, losses: Losses) -> list[dict]:
    declared = [_write_tool(tool, i, losses) for i, tool in enumerate(request.tools) if isinstance(tool, hub.Tool)]
    tools: list[dict] = [{"functionDeclarations": declared}] if declared else []
    for tool in request.tools:
        if isinstance(tool, hub.Tool):
            continue
        if declared:  # the vendor accepts either functions or its own tools
            losses.lose(VENDOR_TOOLS[type(tool)])
            continue
        match tool:
            case hub.WebSearch():
                if tool.allowed or tool.blocked or tool.place or tool.max_uses is not None:
                    losses.lose("web_search")
                tools.append({"googleSearch": {}})
            case hub.CodeExecution():
                tools.append({"codeExecution": {}})
            case hub.WebFetch():
                tools.append({"urlContext": {}})
    return tools


VENDOR_TOOLS = {hub.WebSearch: "web_search", hub.CodeExecution: "code_execution", hub.WebFetch: "web_fetch"}


def _write_tool(tool: hub.Tool, number: int, losses: Losses) -> dict:
    described = {"description": tool.description} if tool.description else {}
    if tool.is_custom:
        losses.lose("custom")
        return {"name": tool.name, **described, "parametersJsonSchema": FREE_INPUT}
    if tool.strict:
        losses.lose("strict")
    if not tool.schema or tool.schema == {"type": "object", "properties": {}}:
        return {"name": tool.name, **described}
    schema, lost = schemas.for_gemini(tool.schema, f"tools[{number}]: parameters")
    for keyword in lost:
        losses.report(f"{losses.wire_name('schema')}.{keyword}")
    return {"name": tool.name, **described, "parametersJsonSchema": schema}


def _write_choice(request: hub.Request, losses: Losses) -> dict | None:
    choice = request.choice
    if choice is None:
        return None
    calling: dict = {"mode": MODES_BACK[choice.mode]}
    if choice.names and choice.mode == "any":
        calling["allowedFunctionNames"] = list(choice.names)
    elif choice.names:
        losses.lose("choice")
    return {"functionCallingConfig": calling}


def _write_config(request: hub.Request, target: hub.Target, system: list[str], losses: Losses) -> dict:
    """Returns `generationConfig`; a format that the model rejects with functions becomes a prompt in `system`."""
    config: dict = {
        "maxOutputTokens": request.max_tokens,
        "temperature": request.temperature,
        "topP": request.top_p,
        "topK": request.top_k,
        "stopSequences": list(request.stop[:MAX_STOPS]) or None,
        "seed": request.seed,
        "frequencyPenalty": request.frequency_penalty,
        "presencePenalty": request.presence_penalty,
        "candidateCount": request.n,
        "responseLogprobs": True if request.logprobs is not None else None,
        "logprobs": request.logprobs or None,
    }
    if len(request.stop) > MAX_STOPS:
        losses.lose("stop")
    for name, places in REFUSED.items():
        if name in target.refused and any(config[place] is not None for place in places):
            losses.lose(name)
            config |= dict.fromkeys(places)
    if request.format is not None and request.functions and "no_json_with_functions" in target.traits:
        losses.lose("format")
        system.append(prompts.format_prompt(request.format))
    elif request.format is not None:
        config["responseMimeType"] = "application/json"
        if request.format.schema is not None:
            schema, lost = schemas.for_gemini(request.format.schema, "schema")
            for keyword in lost:
                losses.report(f"{losses.wire_name('format_schema')}.{keyword}")
            config["responseJsonSchema"] = schema
    if request.reasoning is not None:
        config["thinkingConfig"] = reasoning.write_gemini(request.reasoning, target, losses)
    return {name: value for name, value in config.items() if value is not None}


# Hub fields that a model may reject -> the fields of `generationConfig`.
REFUSED = {
    "frequency_penalty": ("frequencyPenalty",),
    "presence_penalty": ("presencePenalty",),
    "logprobs": ("responseLogprobs", "logprobs"),
}
