"""What the server says of itself: an OpenAPI description with the model's own fields, and a page.

The page loads nothing from elsewhere, so it works where no network is.
"""

import html
import json
from typing import Any

import deepfm
from deepfm.data.schema import FeatureType, FieldSchema
from deepfm.serving.models import ServedModel
from deepfm.serving.options import ServeOptions

_VALUE: dict[str, Any] = {"type": ["string", "number", "boolean", "null"]}
_LIST: dict[str, Any] = {"type": "array", "items": _VALUE}
_ID: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    ]
}
_TIME: dict[str, Any] = {"type": ["string", "number", "null"]}


def openapi(served: ServedModel, options: ServeOptions) -> dict[str, Any]:
    """The description of all paths, version 3.1."""
    paths: dict[str, Any] = {
        "/v1/predict": {"post": _predict(served, options)},
        "/v1/recommend": {"post": _recommend(served)},
        "/v1/model": {"get": _get("The model: version, tasks, fields, an example of a row.", 401)},
        "/health/live": {"get": _get("Whether the process answers.")},
        "/health/ready": {"get": _get("Whether requests are welcome.", 503)},
        "/metrics": {"get": _get("Sums over all workers, for Prometheus.", 401, kind="text/plain")},
    }
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "deepfm serve", "version": deepfm.__version__},
        "paths": paths,
    }
    if options.token:
        described["components"] = {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}
        }
        described["security"] = [{"token": []}]
    return described


def page(served: ServedModel, options: ServeOptions) -> str:
    """The same for people."""
    example = json.dumps({"rows": [served.example or {}]}, default=str, ensure_ascii=False)
    listed = json.dumps(served.listed or {}, default=str, ensure_ascii=False)
    rows = "".join(
        f"<tr><td>{html.escape(field.name)}</td><td>{field.feature_type.value}</td>"
        f"<td>{field.group}</td><td>{html.escape(', '.join(field.raw_columns))}</td></tr>"
        for field in served.engine.schema.read_fields
    )
    names = [name for task in served.engine.tasks for name in task.prediction_names()]
    token = " \\\n  -H 'Authorization: Bearer …'" if options.token else ""

    def curl(path: str, body: str) -> str:
        quoted = body.replace("'", "'\\''")
        return html.escape(
            f"curl http://{options.host}:{options.port}{path}{token} \\\n"
            f"  -H 'Content-Type: application/json' -d '{quoted}'"
        )

    recommend = ""
    if served.listed is not None:
        context = ", ".join(served.engine.context_columns()) or "none"
        recommend = (
            "<h2>POST /v1/recommend</h2><p>A list for a user. Besides <code>user</code>: "
            "<code>top</code>, <code>context</code> (columns: "
            f"{html.escape(context)}), <code>candidates</code>, <code>exclude</code>, "
            "<code>history</code>, <code>time</code>.</p>"
            f"<pre>{curl('/v1/recommend', listed)}</pre>"
        )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>deepfm serve</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
padding: 0 1rem }}
pre {{ background: #f3f3f3; color: #111; padding: .8rem; overflow-x: auto }}
table {{ border-collapse: collapse }} td, th {{ text-align: left; padding: .2rem 1rem .2rem 0;
border-bottom: 1px solid #ccc }}
</style></head><body>
<h1>deepfm serve</h1>
<p>Model {html.escape(served.version)}, loaded {html.escape(served.loaded)}, by
{html.escape(served.kind)}. It predicts {html.escape(", ".join(names))}.
Machines read <a href="/openapi.json">/openapi.json</a>,
<a href="/v1/model">/v1/model</a>, <a href="/metrics">/metrics</a>.</p>
<h2>POST /v1/predict</h2>
<p>Predictions for up to {options.max_rows:,} rows. Columns of users and items that rows do not
bring are looked up by id; <code>{{"columns": {{"name": […], …}}}}</code> may stand in the place of
<code>rows</code>.</p>
<pre>{curl("/v1/predict", example)}</pre>
<table><tr><th>field</th><th>type</th><th>group</th><th>columns</th></tr>{rows}</table>
{recommend}
</body></html>
"""


def _predict(served: ServedModel, options: ServeOptions) -> dict[str, Any]:
    row = {
        "type": "object",
        "properties": {name: _column(served, name) for name in sorted(served.columns)},
    }
    columns = {
        "type": "object",
        "properties": {
            name: {"type": "array", "items": _column(served, name)}
            for name in sorted(served.columns)
        },
    }
    rows: dict[str, Any] = {
        "type": "object",
        "properties": {
            "rows": {"type": "array", "items": row, "minItems": 1, "maxItems": options.max_rows}
        },
        "required": ["rows"],
    }
    by_column = {"type": "object", "properties": {"columns": columns}, "required": ["columns"]}
    names = [name for task in served.engine.tasks for name in task.prediction_names()]
    answer = {
        "type": "object",
        "properties": {
            "predictions": {
                "type": "object",
                "properties": {
                    name: {"type": "array", "items": {"type": ["number", "null"]}} for name in names
                },
            },
            "rows": {"type": "integer"},
            "version": {"type": "string"},
        },
    }
    example = None if served.example is None else {"rows": [served.example]}
    return _post("Predictions for raw rows.", {"anyOf": [rows, by_column]}, answer, example)


def _recommend(served: ServedModel) -> dict[str, Any]:
    context = {name: _column(served, name) for name in served.engine.context_columns()}
    asked = {
        "type": "object",
        "properties": {
            "user": _ID,
            "top": {"type": "integer", "minimum": 1, "default": 10},
            "context": {
                "type": "object",
                "properties": context,
                "additionalProperties": False,
            },
            "candidates": {"type": "array", "items": _ID},
            "exclude": {"type": "array", "items": _ID},
            "history": {
                "type": "array",
                "items": {
                    "anyOf": [
                        _ID,
                        {
                            "type": "array",
                            "prefixItems": [_ID, _TIME],
                            "minItems": 2,
                            "maxItems": 2,
                        },
                    ]
                },
            },
            "time": _TIME,
        },
        "required": ["user"],
        "additionalProperties": False,
    }
    item = {
        "type": "object",
        "properties": {
            "item": {},
            "title": {"type": "string"},
            "probability": {"type": "number"},
            "score": {"type": "number"},
        },
    }
    answer = {
        "type": "object",
        "properties": {
            "items": {"type": "array", "items": item},
            "version": {"type": "string"},
        },
    }
    return _post("The best items for a user.", asked, answer, served.listed)


def _column(served: ServedModel, name: str) -> dict[str, Any]:
    """What a raw column holds, by the first field that reads it."""
    reader = next((f for f in served.engine.schema.read_fields if name in f.raw_columns), None)
    described = _LIST | _VALUE if reader is None else _of_field(reader)
    if served.example is not None and name in served.example:
        described = described | {"examples": [served.example[name]]}
    return described


def _of_field(field: FieldSchema) -> dict[str, Any]:
    if field.is_dense and field.value_dim == 1:
        return {"type": ["number", "string", "null"], "description": f"field {field.name}"}
    if field.feature_type is FeatureType.SPARSE:
        return _VALUE | {"description": f"field {field.name}"}
    return {"anyOf": [_LIST, _VALUE], "description": f"field {field.name}"}


def _post(
    summary: str, asked: dict[str, Any], answer: dict[str, Any], example: dict[str, Any] | None
) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": asked}
    if example is not None:
        content["example"] = example
    described = _get(summary, 400, 401, 413, 422, 503, 504, answer=answer)
    return described | {"requestBody": {"required": True, "content": {"application/json": content}}}


_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "status": {"type": "integer"},
                "message": {"type": "string"},
                "row": {"type": "integer", "description": "from 1"},
                "field": {"type": "string"},
                "column": {"type": "string"},
            },
        },
        "version": {"type": "string"},
    },
}
_REASONS = {
    400: "no JSON of the expected form",
    401: "no token, or another one",
    413: "too large",
    422: "a value cannot be read; its row and field are named",
    503: "too many wait, or the server stops; Retry-After says when to try again",
    504: "no answer within the deadline",
}


def _get(
    summary: str,
    *statuses: int,
    answer: dict[str, Any] | None = None,
    kind: str = "application/json",
) -> dict[str, Any]:
    responses: dict[str, Any] = {
        "200": {"description": "the answer", "content": {kind: {"schema": answer or {}}}}
    }
    for status in statuses:
        responses[str(status)] = {
            "description": _REASONS[status],
            "content": {"application/json": {"schema": _ERROR}},
        }
    return {"summary": summary, "responses": responses}
