"""Settings of one endpoint: what is kept, how it is judged, where its features come from, what it costs."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from lastgood.record.answer_flags import AnswerFlag
from lastgood.record.redact import Capture
from lastgood.settings.base import Mode, Model
from lastgood.settings.judge import Policy
from lastgood.settings.scoring import Scoring

Part = Literal["prompt", "tools", "parameters", "route", "package"]
"""See record.contents."""
MOST_CLASSES = 50
OF_KIND: Mapping[str, tuple[str, ...]] = {
    "score": ("yes_no", "number"), "threshold": ("yes_no",), "classes": ("classes",), "scores": ("classes",),
}  # fmt: skip
"""Setting of `performance` -> the kinds that it is for."""


class Release(Model):
    """What `lastgood release check` asks of an endpoint."""

    probe: dict[str, Any] = Field({"prompt": "ping", "max_tokens": 16}, description="a request that must be answered")
    bad_probe: dict[str, Any] = Field({"prompt": 7}, description="a request that must be refused with 400")
    response_fields: tuple[str, ...] = Field((), description="fields every answer must have")
    permissions: dict[str, str] = Field({}, description="principal -> the level it must have (CAN_QUERY, ...)")
    owner_tag: str = "owner"
    probes: int = Field(100, ge=72, le=1000, description="requests of the latency probe (72: a p95 needs so many)")
    latency_p95_ms: float = Field(2000, gt=0, description="95th percentile the endpoint must keep")
    features: bool = Field(True, description="whether requests must report the age of their features")
    searchable_s: float = Field(300, gt=0, description="how long a request may take to appear in telemetry")
    drill_s: float = Field(900, gt=0, description="how long the drill may take, there and back")
    dashboard_url: str | None = Field(None, description="must answer 200")
    rehearse: bool = Field(
        False,
        description="whether the release check and a promotion begin with a rehearsal, and stop where that is worse or undecided",
    )
    rehearse_requests: int = Field(200, ge=1, le=500, description="recorded requests of that rehearsal")
    rehearse_per_second: float = Field(2.0, gt=0, le=100, description="of them in a second, each to both versions")
    rehearse_tools: bool = Field(
        False,
        description="whether requests that use tools, and agents' requests, may be sent again: nothing that they do has effects",
    )
    max_age_s: float = Field(86_400, gt=0, description="older checks do not let a version be promoted")


class FeatureSource(Model):
    """Where an endpoint's features come from: a Delta table (asked by Spark) or a store (asked by its status API)."""

    kind: str = Field("feature_table", pattern="^(feature_table|synced_table|online_table|vector_index)$")
    name: str = Field(description="catalog.schema.table, or a folder")
    event_time: str | None = Field(None, description="feature table: column with the time its rows speak of")


class CostSettings(Model):
    """How an endpoint is served, for its price (conf/prices.yaml)."""

    mode: str = Field(
        "pay_per_token", pattern="^(pay_per_token|provisioned|cpu|gpu)$", description="how it is served now"
    )
    model: str = Field("llama-3.3-70b", description="row of pay_per_token and provisioned")
    gpu: str = Field("small", description="row of gpu")
    scale_to_zero: bool = True
    latency: dict[str, float] = Field({}, description="mode -> how many times as long as now a request takes there")


class Performance(Model):
    """A model whose performance is estimated while its labels are not there yet (docs/explanation/performance.md)."""

    kind: str = Field(
        "yes_no",
        pattern="^(yes_no|classes|number)$",
        description="what it answers: yes or no, one of several classes, a number",
    )
    score: str = Field(
        r"(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)",
        description="yes_no, number: pattern whose first group is the probability of yes, or the predicted number, in the output",
    )
    threshold: float = Field(0.5, ge=0, le=1, description="yes_no: yes is answered from this score on")
    classes: tuple[str, ...] = Field(
        (), max_length=MOST_CLASSES, description="classes: their names, as labels have them, in the order of the array"
    )
    scores: str = Field(
        "$[0]",
        pattern=r"^\$",
        description="classes: JSON path in the output of the probabilities, a map by class or an array; the highest is the answer",
    )
    reference_days: int = Field(
        14, ge=1, le=365, description="the first days of each version are the labelled reference"
    )

    @field_validator("score")
    @classmethod
    def _has_a_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"{pattern!r} is no pattern: {error}") from error
        if not groups:
            raise ValueError(f"{pattern!r} has no group: put parentheses around the number")
        return pattern

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        foreign = sorted(
            name for name in self.model_fields_set for kinds in (OF_KIND.get(name),) if kinds and self.kind not in kinds
        )
        if foreign:
            raise ValueError(
                f"`{foreign[0]}` says nothing of kind {self.kind}; it is for {' and '.join(OF_KIND[foreign[0]])}"
            )
        names = [name.strip().lower() for name in self.classes]
        if self.kind == "classes" and (len(names) < 2 or len(set(names)) < len(names) or "" in names):
            raise ValueError(
                "kind classes needs `classes`: two names or more, each once (labels are compared in lower case)"
            )
        return self


class EndpointSettings(Model):
    """Per-endpoint settings; `Settings.endpoint(name)` falls back to `default`."""

    mode: Mode = Mode.APPROVE
    capture: Capture = Capture.FULL
    body_days: int = Field(400, ge=0, description="how long bodies and features of requests are kept (job maintain)")
    redact: dict[str, str] = Field(
        {}, description="name -> pattern, beside lastgood.record.redact.PATTERNS; capture: redacted"
    )
    redact_hook: str | None = Field(None, description="package.module:function, str -> str, after the patterns")
    policy: Policy = Policy()
    flags_shown_only: tuple[AnswerFlag, ...] = Field(
        (),
        description="flags of answers that are counted and shown for this endpoint and do not make an answer bad (echo of a proofreader, "
        "script of a translator)",
    )
    versions_by: tuple[Part, ...] = Field(
        (),
        description="what makes another version beside the registered one, told by spans and bodies: prompt (system prompt), tools (their definitions), "
        "parameters (temperature, ...), route (model asked for), package (service.version); empty: nothing",
    )
    payload_table: str | None = Field(None, description="inference table (path or catalog.schema.table) to read")
    entities_table: str | None = Field(
        None,
        description="served_entities table that names the versions behind entity ids",
    )
    features: tuple[FeatureSource, ...] = Field((), description="sources of its features, watched for freshness")
    drift_reference: str = Field(
        "baseline",
        pattern="^(baseline|week|before)$",
        description="what drift is measured against where there is a choice: the newest stored baseline, the same hours of last "
        "week, the day before the candidate; the others follow in this order",
    )
    aliases: tuple[str, ...] = Field(
        ("lastgood", "champion"), description="registry aliases of good versions, best first"
    )
    registry_alias: str = Field(
        "lastgood",
        description="registry alias that moves to a version once it is healthy with all traffic, and that a version which is rolled back loses; "
        "empty: the registry is neither written nor asked before a promotion",
    )
    source_file: Path | None = Field(
        None,
        description="the bundle's YAML or Terraform file that declares the endpoint, where the service can read it: rollbacks get a patch of it",
    )
    staging: str | None = Field(None, description="endpoint whose release check lets a version be promoted here")
    runbook_url: str | None = None
    write_only: dict[str, Any] = Field(
        {}, description="served-entity fields the workspace takes and does not report (burst_scaling_enabled: true)"
    )
    release: Release = Release()
    performance: Performance | None = Field(
        None,
        description="estimate from its answers how good this model is while labels are not there yet; null: not",
    )
    scoring: Scoring = Scoring()
    cost: CostSettings = CostSettings()

    @model_validator(mode="after")
    def _texts(self) -> Self:
        if self.scoring.scorers and self.capture not in (Capture.FULL, Capture.REDACTED):
            raise ValueError(
                f"scoring.scorers judge texts, and capture: {self.capture} keeps none: expected full or redacted"
            )
        return self
