"""Answers of `lastgood init --databricks` -> the files of a Declarative Automation Bundle (pure). The bundle in this repository is what it
makes of the default answers.

What holds it together: tables, state and warehouse are named in one place (the bundle's resources and variables), and jobs and app get them
from there (`--set`, the app's environment). Jobs run as a service principal of their own, set on each job in the targets that have one: a
bundle-wide `run_as` is refused beside apps.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from lastgood.errors import ConfigError
from lastgood.tables.names import parts

Document = dict[str, Any]
STORAGE = "${resources.schemas.tables.catalog_name}.${resources.schemas.tables.name}"
INSTANCE = "${resources.database_instances.state.name}"
DEVELOPER = "${workspace.current_user.userName}"
SECRETS = {
    "link-key": "LASTGOOD_LINK_KEY",
    "pagerduty-key": "LASTGOOD_PAGERDUTY_KEY",
    "webhook-secret": "LASTGOOD_WEBHOOK_SECRET",
}
"""Key in the secret scope -> variable of the app."""
MEASURE: Mapping[str, tuple[str, ...]] = {
    "collect": (), "labels": (), "conform": ("collect",), "outcomes": ("conform", "labels"), "windows": ("outcomes",), "quality": ("conform",),
    "agents": ("conform",), "conversations": ("conform", "labels"), "completeness": ("conform",), "judge": ("windows", "quality", "completeness"),
}  # fmt: skip
"""Job -> the jobs it waits for."""
HOURLY: Mapping[str, tuple[str, ...]] = {
    "rollup": (),
    "performance": (),
    "drift": ("rollup",),
    "score": ("drift",),
    "freshness": (),
    "cost": (),
}
WHEEL = "../../dist/*.whl"
APP_FOLDER = "build/app"


UNITY_NAME = re.compile(r"[^\s./\\`$]{1,255}")
ENDPOINT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
"""Databricks REST reference: names of serving endpoints."""


@dataclass(frozen=True)
class Answers:
    """`endpoints`: name -> payload table, where it has one. `operators`: a group of the workspace. `mode`: what Lastgood may do by itself.
    `telemetry`: key of settings.Sources -> tables of the endpoints' traces, logs and annotations. Errors: ConfigError for names that the platform
    does not take."""

    catalog: str = "main"
    schema: str = "lastgood"
    endpoints: Mapping[str, str | None] = None  # type: ignore[assignment]
    operators: str = "users"
    mode: str = "approve"
    telemetry: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.endpoints is None:
            object.__setattr__(self, "endpoints", {"support-chat": "main.serving.support_chat_payload"})
        for mistake in self._mistakes():
            raise ConfigError(mistake)

    def _mistakes(self) -> Iterator[str]:
        """What the platform would refuse, or read as something else, when the bundle is deployed."""
        for what, name in (("catalog", self.catalog), ("schema", self.schema)):
            if not UNITY_NAME.fullmatch(name):
                yield f"{what} {name!r}: expected one name of Unity Catalog, without dots, spaces and slashes"
        if not self.operators.strip() or "${" in self.operators:
            yield f"operators {self.operators!r}: expected a group of the workspace"
        for endpoint, table in self.endpoints.items():
            if not ENDPOINT_NAME.fullmatch(endpoint):
                yield f"endpoint {endpoint!r}: expected up to 63 letters, digits, dashes and underscores"
            if table and (len(parts(table)) != 3 or not all(UNITY_NAME.fullmatch(part) for part in parts(table))):
                yield f"endpoint {endpoint}: payload table {table!r}: expected catalog.schema.table"


def files(answers: Answers) -> dict[str, str]:
    """Path below the bundle's root -> text."""
    documents = {
        "databricks.yml": ("`databricks bundle deploy -t dev`. Not for the endpoints Lastgood watches: a bundle that manages an endpoint "
                           "would deploy the bad version again after a rollback.", _root(answers)),
        "conf/bundle/jobs.yml": ("Scheduled jobs on serverless. A run that finds nothing new ends at once; one that fails is done again by the "
                                 "next.", {"resources": {"jobs": _jobs()}}),
        "conf/bundle/app.yml": ("The service as a Databricks App. Its folder is made by the build: wheel, requirements, settings.",
                                {"resources": {"apps": {"service": _app(answers)}}}),
        "conf/bundle/storage.yml": ("Where tables, reports, state and secrets are.", {"resources": _storage()}),
        "conf/bundle/lastgood.yaml": ("Settings of the jobs and the app. Where the tables and the state are comes from the bundle's own resources.",
                                      _settings(answers)),
    }  # fmt: skip
    return {path: f"# {comment}\n{_yaml(document)}" for path, (comment, document) in documents.items()}


def _yaml(document: Document) -> str:
    return yaml.dump(document, Dumper=_Plain, sort_keys=False, width=150, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    """Without anchors: a reader finds each job whole."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _variable(description: str, default: str | None = None) -> Document:
    return {"description": description} | ({} if default is None else {"default": default})


def _root(answers: Answers) -> Document:
    variables = {
        "catalog": _variable("Unity Catalog catalog of Lastgood's tables", answers.catalog),
        "schema": _variable("schema of Lastgood's tables", answers.schema),
        "service_principal": _variable("application id that the jobs of staging and prod run as; it makes the tables"),
        "operators": _variable("group that may run the jobs and use the app", answers.operators),
        "secret_scope": _variable(f"secret scope with {', '.join(SECRETS)}", "lastgood"),
        "warehouse_id": _variable("SQL warehouse that answers where the catalog lends no credentials"),
        "paused": _variable("PAUSED or UNPAUSED", "UNPAUSED"),
    }
    runs = {
        "resources": {
            "jobs": {name: {"run_as": {"service_principal_name": "${var.service_principal}"}} for name in _jobs()}
        }
    }
    targets: Document = {
        "dev": {
            "mode": "development", "default": True,
            "variables": {"schema": f"{answers.schema}_dev", "secret_scope": "lastgood-dev", "service_principal": DEVELOPER, "paused": "PAUSED"},
        },
    }  # fmt: skip
    for name in ("staging", "prod"):
        own = (
            {}
            if name == "prod"
            else {"variables": {"schema": f"{answers.schema}_{name}", "secret_scope": f"lastgood-{name}"}}
        )
        place = {"root_path": "/Workspace/Shared/.bundle/${bundle.name}/" + name}
        targets[name] = {"mode": "production", "workspace": place} | own | runs
    build = f"uv build --wheel && uv run python -m lastgood.cli.app_folder {APP_FOLDER}"
    return {
        "bundle": {"name": "lastgood"}, "include": ["conf/bundle/*.yml"], "sync": {"include": [f"{APP_FOLDER}/**"]}, "variables": variables,
        "artifacts": {"lastgood": {"type": "whl", "path": ".", "build": build}}, "targets": targets,
    }  # fmt: skip


def _task(job: str, after: Sequence[str], retries: int = 2) -> Document:
    given = ["--set", f"storage={STORAGE}", "--set", f"state_instance={INSTANCE}"]
    parameters = ["job", job, "--config", "${workspace.file_path}/conf/bundle/lastgood.yaml", *given]
    waits = {"depends_on": [{"task_key": name} for name in after]} if after else {}
    return {
        "task_key": job, **waits, "environment_key": "lastgood", "max_retries": retries,
        "python_wheel_task": {"package_name": "lastgood", "entry_point": "lastgood", "parameters": parameters},
    }  # fmt: skip


def _job(name: str, description: str, timeout_s: int, when: Document, tasks: Sequence[Document]) -> Document:
    spec = {"environment_version": "4", "dependencies": [WHEEL, "psycopg[binary]==3.3.9"]}
    return {
        "name": name, "description": description, "max_concurrent_runs": 1, "queue": {"enabled": True}, "timeout_seconds": timeout_s, **when,
        "permissions": [{"group_name": "${var.operators}", "level": "CAN_MANAGE_RUN"}],
        "environments": [{"environment_key": "lastgood", "spec": spec}], "tasks": list(tasks),
    }  # fmt: skip


def _daily(quartz: str) -> Document:
    return {"schedule": {"quartz_cron_expression": quartz, "timezone_id": "UTC", "pause_status": "${var.paused}"}}


def _jobs() -> dict[str, Document]:
    often = {"trigger": {"pause_status": "${var.paused}", "periodic": {"interval": 5, "unit": "MINUTES"}}}
    return {
        "measure": _job(
            "lastgood-measure", "inference tables and inbox into requests, windows, quality, completeness and verdicts", 3600, often,
            [_task(job, after) for job, after in MEASURE.items()],
        ),
        "hourly": _job(
            "lastgood-hourly", "roll-ups, drift, performance and cost", 7200, _daily("0 20 * * * ?"), [_task(job, after) for job, after in HOURLY.items()]
        ),
        "maintain": _job(
            "lastgood-maintain", "small files merged, retention, vacuum", 14400, _daily("0 40 3 * * ?"), [_task("maintain", (), 1)]
        ),
    }  # fmt: skip


def _app(answers: Answers) -> Document:
    environment: list[Document] = [
        {"name": "LASTGOOD_STORAGE", "value": STORAGE},
        {"name": "LASTGOOD_STATE_INSTANCE", "value": INSTANCE},
        {"name": "LASTGOOD_TABLES__WAREHOUSE_ID", "value_from": "warehouse"},
        {"name": "LASTGOOD_WEB__TRUST_FORWARDED_USER", "value": "true"},
        *({"name": variable, "value_from": key} for key, variable in SECRETS.items()),
    ]
    resources: list[Document] = [
        {"name": "warehouse", "sql_warehouse": {"id": "${var.warehouse_id}", "permission": "CAN_USE"}},
        {"name": "state", "database": {
            "instance_name": INSTANCE, "database_name": "databricks_postgres", "permission": "CAN_CONNECT_AND_CREATE"}},
        *({"name": key, "secret": {"scope": "${resources.secret_scopes.secrets.name}", "key": key, "permission": "READ"}} for key in SECRETS),
        *({"name": f"endpoint-{number}", "serving_endpoint": {"name": name, "permission": "CAN_MANAGE"}}
          for number, name in enumerate(answers.endpoints, 1)),
    ]  # fmt: skip
    return {
        "name": "lastgood-${bundle.target}", "description": "evidence pages, signed links, incidents and rollbacks",
        "source_code_path": f"../../{APP_FOLDER}",
        "config": {"command": ["lastgood", "serve", "--config", "lastgood.yaml"], "env": environment},
        "permissions": [{"group_name": "${var.operators}", "level": "CAN_USE"}], "resources": resources,
    }  # fmt: skip


def _storage() -> Document:
    operators = "${var.operators}"
    return {
        "schemas": {"tables": {
            "catalog_name": "${var.catalog}", "name": "${var.schema}", "comment": "Lastgood's telemetry, measures and verdicts",
            "grants": [
                {"principal": operators, "privileges": ["USE_SCHEMA", "SELECT"]},
                {"principal": "${var.service_principal}", "privileges": ["USE_SCHEMA", "SELECT", "MODIFY", "CREATE_TABLE"]},
            ],
        }},
        "volumes": {"reports": {
            "catalog_name": "${var.catalog}", "schema_name": "${resources.schemas.tables.name}", "name": "reports", "volume_type": "MANAGED",
            "comment": "Evidently's HTML reports", "grants": [{"principal": operators, "privileges": ["READ_VOLUME"]}],
        }},
        "database_instances": {"state": {"name": "lastgood-${bundle.target}", "capacity": "CU_1"}},
        "secret_scopes": {"secrets": {"name": "${var.secret_scope}", "permissions": [{"group_name": operators, "level": "READ"}]}},
    }  # fmt: skip


def _settings(answers: Answers) -> Document:
    endpoints = {name: {"payload_table": table} if table else {} for name, table in answers.endpoints.items()}
    return {
        "spark": {"mode": "databricks"},
        "sources": {
            "entities_table": "system.serving.served_entities",
            "usage_tables": ["system.serving.endpoint_usage"],
            **{key: list(names) for key, names in answers.telemetry.items()},
        },
        "default": {"mode": answers.mode},
        "endpoints": endpoints,
    }
