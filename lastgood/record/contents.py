"""What an endpoint is asked with beside the model: system prompt, tools, parameters, route, package (pure).

A registered version and a hash of these is an *effective version*, VERSION~HASH: an edited prompt is another one. Requests carry a digest of
each part as an attribute; texts travel with the first request of a batch that has them, and stand in the ledger (table `contents`) only.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, wraps
from typing import Any

import orjson

PARTS = ("prompt", "tools", "parameters", "route", "package")
PREFIX = "lastgood.content."
TEXTS = f"{PREFIX}texts"
"""Attribute with the texts of the parts (JSON object), where capture lets texts through."""
CONTENT = f"{PREFIX}hash"
"""Attribute with the hash that stands in the version, once it is admitted."""
DIGESTS = tuple(PREFIX + part for part in PARTS)
WHO = f"{PREFIX}who"
"""Attribute that says who made the change: who sends requests may state it."""
AUTHORS = (WHO, "vcs.ref.head.revision", "vcs.ref.head.name", "deployment.id")
"""Attributes of a span or its resource that tell that, best first."""
MARK = "~"
DIGEST_CHARS, HASH_CHARS = 10, 8
MAX_NAME = 128
MAX_TEXT = 8_000
"""Characters of a part's text that the ledger keeps. The digest is of all of it."""
MAX_TEXTS = 2 * MAX_TEXT * len(PARTS)
"""Characters of the attribute with all texts: JSON takes up to two for one."""
_EFFECTIVE = re.compile(rf"(.*){MARK}([0-9a-f]{{{HASH_CHARS}}})", re.DOTALL)
_DAYS = "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_MONTHS = "(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)"
_OF_THE_MOMENT = re.compile(
    r"(?<![^\W_])(?=[\da-fA-FJMSONTW])(?:\d{4}([-/])\d\d?\1\d\d?(?:[T ]\d\d?:\d\d(?::\d\d)?(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?)?"
    rf"|\d\d?[./]\d\d?[./]\d{{4}}|\d\d?:\d\d(?::\d\d)?(?:\s?[AaPp][Mm]\b)?(?: \d{{4}}\b)?|{_DAYS}\b"
    rf"|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? (?=\d\d? {_MONTHS}\b|{_MONTHS} +\d)"
    rf"|{_MONTHS}\.? +\d\d?(?:st|nd|rd|th)?(?:,? \d{{4}})?\b|\d\d?(?:st|nd|rd|th|\.)? {_MONTHS}\b\.?(?:,? \d{{4}})?"
    r"|[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b|[0-9a-fA-F]{16,64}\b|\d{9,20}(?:\.\d+)?\b)"
)
_ADDRESS = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}\.[\w.-]{1,63}")
"""Dates, times and ids, as addresses are: what a template has filled in. Other numbers are part of a prompt."""
PARAMETERS: Mapping[str, str] = {
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "max_tokens": "max_tokens", "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens", "frequency_penalty": "frequency_penalty", "presence_penalty": "presence_penalty",
    "stop": "stop_sequences", "stop_sequences": "stop_sequences", "n": "choice.count", "choice.count": "choice.count",
    "reasoning_effort": "reasoning_effort", "response_format": "response_format", "tool_choice": "tool_choice",
    "parallel_tool_calls": "parallel_tool_calls", "logit_bias": "logit_bias", "repetition_penalty": "repetition_penalty", "min_p": "min_p",
    "verbosity": "verbosity", "reasoning": "reasoning", "thinking": "thinking", "text": "text", "topP": "top_p", "topK": "top_k",
    "maxOutputTokens": "max_tokens", "maxTokens": "max_tokens", "stopSequences": "stop_sequences", "candidateCount": "choice.count",
    "candidate_count": "choice.count",
    "frequencyPenalty": "frequency_penalty", "presencePenalty": "presence_penalty", "responseSchema": "response_schema",
    "response_schema": "response_schema", "responseMimeType": "response_mime_type", "response_mime_type": "response_mime_type",
    "thinkingConfig": "thinking", "thinking_config": "thinking",
}  # fmt: skip
"""Parameter of a request's body or of `gen_ai.request.*` -> the name that is hashed. A seed is no parameter of a version."""
Contents = dict[str, str]
"""Part -> its text; a part that nothing is known of is missing, one that is known to be empty is "". `who`: see WHO."""


def base(version: str) -> str:
    """The version that is served: of an effective version the registry's (or NAME@HASH), of any other itself."""
    match = _EFFECTIVE.fullmatch(version)
    return match[1] if match else version


def hash_of(version: str) -> str | None:
    """The hash of an effective version; None of any other."""
    match = _EFFECTIVE.fullmatch(version)
    return match[2] if match else None


@lru_cache(maxsize=4096)
def digest(text: str) -> str:
    """Of a part's text without what is of the moment (dates, times, ids), spaces alike."""
    masked = _OF_THE_MOMENT.sub("#", _ADDRESS.sub("#", text) if "@" in text else text)
    plain = " ".join(masked.split())
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_CHARS]


def told(own: Iterable[str]) -> bool:
    """Whether names of attributes say that the parts were told already: before texts were taken out, or by who sent them."""
    return any(name.startswith(PREFIX) and name != WHO for name in own)


def is_digest(value: str) -> bool:
    """Whether a text can be a digest: by its form."""
    return re.fullmatch(rf"[0-9a-f]{{{DIGEST_CHARS}}}", value) is not None


def attributes(contents: Contents, known: set[str]) -> list[tuple[str, str]]:
    """The attributes of a request: a digest of each part, and the texts where one of them is not among the `known` digests, which it joins."""
    digests = {part: digest(contents[part]) for part in PARTS if part in contents}
    entries = [(PREFIX + part, value) for part, value in digests.items()]
    if digests and "who" in contents:
        entries.append((WHO, contents["who"]))
    if not known.issuperset(digests.values()):
        known.update(digests.values())
        entries.append((TEXTS, _json({part: contents[part][:MAX_TEXT] for part in digests})))
    return entries


def texts_of(told: str | None) -> dict[str, str]:
    """Part -> text, as the attribute TEXTS tells; of one that was cut, or that is none, nothing: who sends requests may send it."""
    try:
        document = orjson.loads(told) if told else None
    except orjson.JSONDecodeError:
        return {}
    given = document if isinstance(document, dict) else {}
    return {part: given[part] for part in PARTS if isinstance(given.get(part), str)}


def _json(value: Any) -> str:
    """Canonical JSON; what JSON has no form for as Python names it."""
    option = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    try:
        return orjson.dumps(value, repr, option).decode()
    except TypeError:  # half of a surrogate pair, or nested too deep
        return json.dumps(value, sort_keys=True, default=repr)


# bodies


def _readable(tell: Callable[[Any], Contents]) -> Callable[[Any], Contents]:
    """Of what is nested too deep to be read, or has a number that is none, nothing is known."""

    @wraps(tell)
    def told(given: Any) -> Contents:
        try:
            return tell(given)
        except (RecursionError, OverflowError):
            return {}

    return told


@_readable
def of_body(request: str | bytes | None) -> Contents:
    """The parts that a request's body has; none of a body that is no JSON object, and of one that asks no language model."""
    try:
        document = orjson.loads(request) if request else None
    except orjson.JSONDecodeError:
        try:
            document = json.loads(request or "")  # half of a surrogate pair, NaN: Python's clients send them
        except ValueError:
            return {}
    return of_document(document) if isinstance(document, dict) else {}


def of_document(body: Mapping[str, Any]) -> Contents:
    """The same of a body that was read: chat completions, completions, OpenAI's responses, Anthropic's messages, Gemini's contents."""
    asked = next((body[key] for key in ("messages", "input", "contents") if isinstance(body.get(key), list)), None)
    if asked is None and not any(key in body for key in ("prompt", "system", "instructions", "input")):
        return {}
    given = body.get("toolConfig")
    tools = body.get("tools") or body.get("functions") or (given.get("tools") if isinstance(given, dict) else None)
    contents = {"prompt": _system(body, asked or ()), "tools": _tools(tools)}
    config = body.get("generationConfig") or body.get("generation_config") or body.get("inferenceConfig")
    stated = {**(config if isinstance(config, dict) else {}), **body}
    wanted = [key for key in PARAMETERS if key in stated and (key != "text" or isinstance(stated[key], dict))]
    contents["parameters"] = _parameters({key: stated[key] for key in wanted})
    if isinstance(body.get("model"), str):
        contents["route"] = body["model"]
    return contents


def _system(body: Mapping[str, Any], messages: Iterable[Any]) -> str:
    """The instructions of a request, wherever they stand."""
    held = [body.get(key) for key in ("system", "instructions", "system_instruction", "systemInstruction")]
    held += [
        message.get("content", message.get("parts"))
        for entry in messages
        for message in (entry if isinstance(entry, list) else [entry])  # LangChain's are nested, and have a type
        if isinstance(message, dict) and message.get("role", message.get("type")) in ("system", "developer")
    ]
    return "\n".join(filter(None, map(_text, held)))


def _text(value: Any) -> str:
    """The text of a message's content, in whichever form."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(filter(None, map(_text, value)))
    if isinstance(value, dict):
        return next((_text(value[key]) for key in ("text", "content", "parts") if value.get(key)), "")
    return ""


def _tools(tools: Any) -> str:
    """Definitions of tools as canonical JSON, in the order of their texts: a client may list them in any."""
    if isinstance(tools, str):
        try:
            tools = orjson.loads(tools)
        except orjson.JSONDecodeError:
            return str(tools)
    if isinstance(tools, dict):
        tools = [{"name": name, "definition": tools[name]} for name in tools]
    each = [tool for entry in tools for tool in _each(_nested(entry))] if isinstance(tools, list) else []
    return "\n".join(sorted(map(_json, each)))


def _each(tool: Any) -> list[Any]:
    """The tools of an entry in one form: Gemini declares several in one, Anthropic has `input_schema`; marks of caches are no definition."""
    if not isinstance(tool, dict):
        return [tool]
    for name in ("functionDeclarations", "function_declarations"):
        if isinstance(tool.get(name), list):
            rest = {key: tool[key] for key in tool if key != name}
            return [*(each for entry in tool[name] for each in _each(entry)), *([rest] if rest else [])]
    left_out = {"cache_control"} | ({"type"} if tool.get("type") in ("function", "custom") else set())
    return [
        {
            "parameters" if key == "input_schema" else key: tool[key]
            for key in tool
            if key not in left_out and tool[key] is not None
        }
    ]


def _nested(value: Any) -> Any:
    """What a JSON text holds; anything else as it is. OpenAI's wrapper around a function is taken off."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        return value["function"]
    return value


def _parameters(stated: Mapping[str, Any]) -> str:
    """`name=value`, a line each: numbers alike whether they are whole or not."""
    named = {PARAMETERS[key]: value for key, value in stated.items() if value is not None and key in PARAMETERS}
    if isinstance(named.get("stop_sequences"), str):
        named["stop_sequences"] = [named["stop_sequences"]]
    return "\n".join(f"{name}={_value(named[name])}" for name in sorted(named))


def _value(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return _json(value)
    return str(value) if isinstance(value, str) else repr(float(value))


# spans

REQUEST = "gen_ai.request."
STATED = (
    ("langfuse.observation.prompt.name", "langfuse.observation.prompt.version"),
    ("gen_ai.prompt.name", "gen_ai.prompt.version"),
    ("llm.prompt_template.template", "llm.prompt_template.version"),
)
"""Attributes that name a prompt, or its template, and its version: better than the text, which a template has filled in."""
_BODIES = ("mlflow.spanInputs", "ai.prompt")
_MESSAGES = ("gen_ai.input.messages", "ai.prompt.messages")
_INDEXED = re.compile(
    r"(?:llm\.input_messages|gen_ai\.prompt)\.(\d{1,4})\.(?:message\.)?(role|content|contents\.(\d{1,4})\.message_content\.text)"
)
_TOOL = re.compile(
    r"llm\.tools\.\d{1,4}\.tool\.json_schema|llm\.request\.functions\.\d{1,4}\.(?:name|description|parameters)"
)
_NAMES = frozenset({
    *(name for names in STATED for name in names), *_BODIES, *_MESSAGES, "gen_ai.system_instructions", "gen_ai.tool.definitions", "ai.prompt.tools",
    "mlflow.linkedPrompts", "llm.invocation_parameters", "service.version", *AUTHORS,
})  # fmt: skip


def tells(name: str) -> bool:
    """Whether an attribute of this name may tell a part."""
    return name in _NAMES or name.startswith(REQUEST) or bool(_INDEXED.fullmatch(name) or _TOOL.fullmatch(name))


@_readable
def of_span(own: Mapping[str, Any]) -> Contents:
    """The parts that a span's attributes tell (values as Python has them): OpenTelemetry's conventions, OpenInference, OpenLLMetry, MLflow,
    Vercel's AI SDK, Langfuse. A part without an attribute is missing: a span that keeps no prompt says nothing of it."""
    contents: Contents = {}
    for name in _BODIES:
        document = _nested(own.get(name))
        if isinstance(document, list):
            document = {"messages": document}
        if isinstance(document, dict):
            contents |= {part: text for part, text in of_document(document).items() if text or part == "prompt"}
    messages = next((_nested(own[name]) for name in _MESSAGES if name in own), None) or _indexed(own)
    if isinstance(messages, list) and messages:
        contents["prompt"] = _system({}, messages)
    if instructions := _text(_nested(own.get("gen_ai.system_instructions"))):
        contents["prompt"] = instructions
    if stated := _stated(own):
        contents["prompt"] = stated
    definitions = own.get("gen_ai.tool.definitions") or own.get("ai.prompt.tools") or _listed(own)
    if definitions:
        contents["tools"] = _tools(definitions)
    given = _nested(own.get("llm.invocation_parameters"))
    parameters = {
        **(given if isinstance(given, dict) else {}),
        **{name[len(REQUEST) :]: own[name] for name in own if name.startswith(REQUEST)},
    }
    if told := _parameters(parameters):
        contents["parameters"] = told
    if isinstance(route := parameters.get("model"), str):
        contents["route"] = route
    if isinstance(package := own.get("service.version"), str):
        contents["package"] = package
    if isinstance(who := next((own[name] for name in AUTHORS if name in own), None), str):
        contents["who"] = who[:MAX_NAME]
    return contents


def _stated(own: Mapping[str, Any]) -> str:
    """A prompt's name and version, where a span states them."""
    linked = _nested(own.get("mlflow.linkedPrompts"))
    if isinstance(linked, list) and linked:
        pairs = [(p.get("name"), p.get("version")) for p in linked if isinstance(p, dict)]
    else:
        pairs = [(own.get(name), own.get(version)) for name, version in STATED if name in own or version in own][:1]
    return "\n".join(" version ".join(str(word) for word in pair if word is not None) for pair in pairs)


def _indexed(own: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """Messages that stand in an attribute for each of their fields."""
    messages: dict[int, dict[str, Any]] = {}
    for name, value in own.items():
        if match := _INDEXED.fullmatch(name):
            message = messages.setdefault(int(match[1]), {})
            if match[3]:
                message.setdefault("parts", {})[int(match[3])] = value
            else:
                message[match[2]] = value
    for message in messages.values():
        if parts := message.pop("parts", None):
            message.setdefault("content", [parts[i] for i in sorted(parts)])
    return [messages[i] for i in sorted(messages)]


def _listed(own: Mapping[str, Any]) -> list[Any]:
    """Tools that stand in an attribute each."""
    return [own[name] for name in own if _TOOL.fullmatch(name)]
