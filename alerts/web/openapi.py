"""The service's own description (OpenAPI 3.1): what /openapi.json answers and what the tests hold the service to."""

from typing import Any

from lastgood.alerts.web.fleet import SORTS, STATES
from lastgood.alerts.web.ranges import USUAL
from lastgood.record.answer_flags import FLAGS

TEXT: dict[str, Any] = {"type": "string"}
LINKED = {"type": "object", "additionalProperties": True}


def _answers(good: dict[str, Any], *bad: int) -> dict[str, Any]:
    problem = {"description": "refused, with the reason", "content": {"text/html": {}, "application/json": {}}}
    return {"200": good, **{str(status): problem for status in bad}}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": "done", "content": {"application/json": {"schema": schema}}}


PAGE = {"description": "a page", "content": {"text/html": {}}}
EITHER = {"description": "a page, or one of its tables", "content": {"text/html": {}, "text/csv": {}}}
FLEET_QUERY: dict[str, dict[str, Any]] = {
    "q": {**TEXT, "description": "words in the endpoint, a version or the reason"},
    "state": {"enum": [*STATES]},
    "sort": {"enum": [*SORTS]},
    "order": {"enum": ["up", "down"]},
    "page": {"type": "integer", "minimum": 1, "maximum": 999_999},
}
ABOUT: dict[str, dict[str, Any]] = {"endpoint": {**TEXT, "description": "its whole name"}}
RANGE: dict[str, dict[str, Any]] = {
    "range": {"enum": [*USUAL]},
    "from": {**TEXT, "description": "ISO 8601, UTC where it names no zone"},
    "to": TEXT,
}
MOVED = {"303": {"description": "done: see the page it leads to"}}


def _path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": TEXT}


def _query(fields: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in fields.items()]


def _shown(summary: str, query: dict[str, dict[str, Any]], *bad: int) -> dict[str, Any]:
    """A page whose address asks for what it shows; `csv` for one of its tables."""
    fields = {**query, "csv": {**TEXT, "description": "one of the page's tables, whole"}}
    return {
        "parameters": _query(fields),
        "get": {"summary": summary, "responses": _answers(EITHER, 400, 401, 403, *bad)},
    }


def _form(*required: str, **fields: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": list(required), "properties": fields}
    return {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": schema}}}


DECISION = _form(
    "action",
    "form",
    action={"enum": ["approve", "hold", "reject"]},
    form=TEXT,
    minutes={"type": "string", "description": "hold: 1 to 1440"},
    reason=TEXT,
    person_token=TEXT,
)
SWITCH = _form("action", "form", "why", action={"enum": ["on", "off"]}, form=TEXT, why=TEXT, person_token=TEXT)
ON_INCIDENT = _form(
    "action",
    "form",
    action={"enum": ["acknowledge", "note", "close"]},
    form=TEXT,
    text={"type": "string", "description": "note and close: the words"},
    person_token=TEXT,
)
LABEL = _form(
    "form", "endpoint", "request", "scorer", "grade",
    grade={"enum": ["good", "half", "bad"]}, form=TEXT, endpoint=TEXT, request=TEXT, scorer=TEXT, person_token=TEXT,
)  # fmt: skip
EVENT = {"type": "object", "properties": {"event": {"type": "object", "additionalProperties": True}}}
LABELS = {"type": "object", "additionalProperties": TEXT}
ALERT = {
    "type": "object",
    "properties": {
        "status": {"enum": ["firing", "resolved"]},
        "labels": LABELS,
        "annotations": LABELS,
        "startsAt": TEXT,
        "fingerprint": TEXT,
    },
}
GROUP = {
    "type": "object",
    "required": ["version", "alerts"],
    "properties": {"version": {"const": "4"}, "alerts": {"type": "array", "items": ALERT, "maxItems": 200}},
}
DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Lastgood", "version": "1", "description": "Evidence, decisions and their progress."},
    "paths": {
        "/": {"get": {"summary": "Endpoints and incidents", "responses": _answers(PAGE, 401, 403)}},
        "/fleet": _shown("Every endpoint with its figures", FLEET_QUERY),
        "/endpoints/{name}": {
            "parameters": [_path("name"), *_query(RANGE)],
            "get": {"summary": "An endpoint over a time range", "responses": _answers(EITHER, 400, 401, 403, 404)},
        },
        "/definitions": _shown("Every figure by its formula", {}),
        "/drift": _shown(
            "Columns that moved; with a column, two distributions",
            {**ABOUT, **RANGE, "column": TEXT, "against": TEXT, "at": TEXT},
            404,
        ),
        "/drift/report": _shown("Evidently's report", {**ABOUT, "version": TEXT}, 404),
        "/requests": _shown(
            "Requests as far as capture kept them",
            {**ABOUT, **RANGE, "id": TEXT, "trace": TEXT, "code": TEXT, "flag": {"enum": [*FLAGS]}},
        ),
        "/agents": _shown("Agents, their tools and conversations", {**ABOUT, **RANGE}),
        "/health": _shown("How Lastgood is", {}),
        "/labels": {
            **_shown("The next answer to label, and how scorers do", {"after": TEXT}),
            "post": {
                "summary": "Label one answer, as a reader who is known",
                "requestBody": LABEL,
                "responses": MOVED | _answers(PAGE, 400, 403, 405, 409, 413, 415, 429),
            },
        },
        "/incidents": _shown("The newest incidents", {"endpoint": TEXT, "state": {"enum": ["open"]}}),
        "/r/{token}": {
            "parameters": [_path("token")],
            "get": {"summary": "Evidence behind a signed link", "responses": _answers(PAGE, 403, 404, 409, 410)},
            "post": {
                "summary": "Decide, once, as an authenticated person",
                "requestBody": DECISION,
                "responses": MOVED | _answers(PAGE, 400, 403, 404, 405, 409, 410, 413, 415, 429),
            },
        },
        "/incidents/{id}": {
            "parameters": [_path("id")],
            "get": {"summary": "An incident and its progress", "responses": _answers(PAGE, 401, 403, 404)},
            "post": {
                "summary": "Acknowledge, note or close, as an operator",
                "requestBody": ON_INCIDENT,
                "responses": MOVED | _answers(PAGE, 400, 403, 409, 413, 415, 429),
            },
        },
        "/runbooks": {"get": {"summary": "What each alert means", "responses": _answers(PAGE, 401, 403)}},
        "/kill": {
            "get": {"summary": "The kill switch", "responses": _answers(PAGE, 401, 403)},
            "post": {
                "summary": "Turn it, as an authenticated person",
                "requestBody": SWITCH,
                "responses": MOVED | _answers(PAGE, 400, 403, 413, 415, 429),
            },
        },
        "/hooks/alertmanager": {
            "post": {
                "summary": "A group of Alertmanager's webhook",
                "security": [{"hook": []}],
                "requestBody": {"required": True, "content": {"application/json": {"schema": GROUP}}},
                "responses": _answers(_json(LINKED), 400, 403, 413, 415, 422, 429),
            }
        },
        "/hooks/pagerduty": {
            "post": {
                "summary": "An event of PagerDuty's webhooks (v3), signed",
                "security": [{"signed": []}],
                "requestBody": {"required": True, "content": {"application/json": {"schema": EVENT}}},
                "responses": _answers(_json(LINKED), 400, 403, 413, 415, 429),
            }
        },
        "/api/incidents": {"get": {"responses": _answers(_json({"type": "array", "items": LINKED}), 401, 403)}},
        "/api/rollbacks/{id}": {
            "parameters": [_path("id")],
            "get": {"responses": _answers(_json(LINKED), 401, 403, 404)},
        },
        "/healthz": {"get": {"responses": {"200": _json(LINKED)}}},
    },
    "components": {
        "securitySchemes": {
            "hook": {"type": "http", "scheme": "bearer"},
            "signed": {"type": "apiKey", "in": "header", "name": "X-PagerDuty-Signature"},
        }
    },
}
