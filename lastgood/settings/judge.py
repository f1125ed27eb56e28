"""Settings of the judge: when it speaks, and what it tolerates."""

from typing import Literal

from pydantic import Field, field_validator

from lastgood.record.fault import Fault
from lastgood.settings.base import Model

WEIGHTS = {"errors": 0.52, "client": 0.05, "latency": 0.20, "ttft": 0.06, "quality": 0.10, "scores": 0.07}


class Policy(Model):
    """When the judge speaks. E-value thresholds: 100 means at most 1 healthy version in 100 is ever rolled back."""

    watch_e: float = Field(5.0, gt=1)
    page_e: float = Field(20.0, gt=1)
    rollback_e: float = Field(100.0, gt=1)
    error_tolerance: float = Field(1.25, ge=1, description="ratio of error rates a healthy version may have")
    latency_tolerance: float = Field(0.10, ge=0, description="slower by this share is still healthy")
    quality_tolerance: float = Field(1.25, ge=1, description="ratio of bad-answer rates a healthy version may have")
    length_tolerance: float = Field(0.25, ge=0, description="answers longer or shorter by this share are still healthy")
    score_tolerance: float = Field(
        0.05, ge=0, lt=1, description="evaluation scores (0-1) lower by this are still healthy"
    )
    score_ranges: dict[str, tuple[float, float]] = Field(
        {}, description="score or label -> (worst, best) value, where it is not 0 to 1 with 1 the best: {stars: [1, 5]}"
    )
    conversations: Literal["shown", "judged"] = Field(
        "shown",
        description="judged: how a conversation went (abandoned, a question asked again, escalated) is a score of the version that served all of it",
    )
    escalation_tools: tuple[str, ...] = Field((), description="tools that ask a person to take a conversation over")
    escalation_feedback: tuple[str, ...] = Field(
        ("escalated",), description="feedback that says, by a value above 0, that a person took a conversation over"
    )
    weights: dict[str, float] = Field(
        WEIGHTS, description="share of the false-rollback budget per metric; at most 1 in sum"
    )
    tempering: float = Field(
        1.0, gt=0, le=1, description="evidence is raised to this power; see `lastgood judge calibrate`"
    )
    min_windows: int = Field(3, ge=1)
    min_bad: int = Field(5, ge=1)
    min_requesters: int = Field(
        3,
        ge=0,
        description="distinct requesters that must have seen a failure that counts; 0: any",
    )
    rollback_faults: tuple[Fault, ...] = Field(
        (Fault.MODEL, Fault.PLATFORM, Fault.TIMEOUT),
        description="whose failures roll a version back; `client` counts besides where many requesters see more of it",
    )
    client_requesters: int = Field(
        10,
        ge=1,
        description="distinct requesters that must have seen more client errors of a version that is rolled back for them",
    )
    warmup_s: float = Field(
        120,
        ge=0,
        description="so long after a version's start, or after replicas were added, speed, timeouts and the platform's failures do not count",
    )
    warmup_requests: int = Field(20, ge=0, description="and until it has served so many requests")
    settle_s: float = Field(60, ge=0, description="windows so long after a change of the split count for nobody")
    proof_s: float = Field(21_600, gt=0, description="a version is called healthy on what it did in so long")
    proof_age_s: float = Field(1800, gt=0, description="and as long as both versions served in the newest so long")
    rollback_without_requesters: bool = Field(
        True, description="false: page only, where nothing says who sent the requests; set it where routing is sticky"
    )
    error_slo: float = Field(0.02, gt=0, lt=1, description="share of requests that may fail")
    latency_target_s: float = Field(10.0, gt=0, description="a request slower than this counts against latency_slo")
    latency_slo: float = Field(0.05, gt=0, lt=1, description="share of requests that may be slower")
    quality_slo: float = Field(0.1, gt=0, lt=1, description="share of answers that may have a bad flag")
    feature_age_limit_ms: float = Field(3_600_000, gt=0)
    drift_limit: float = Field(0.1, gt=0, description="Jensen-Shannon distance that matters in practice")
    min_completeness: float = Field(0.5, ge=0, le=1, description="rows seen / expected below which nobody is judged")
    max_evidence_age_s: float = Field(7200, gt=0, description="newest window older than this: no verdict")
    cooldown_s: float = Field(1800, ge=0, description="after a rollback no further automatic one")
    quiet_s: float = Field(
        1800, ge=0, description="an incident ends when its harm was not seen for so long while the version was judged"
    )
    retry_s: float = Field(
        300,
        ge=0,
        description="a rollback that failed before it moved traffic is tried again after this, then twice, ...",
    )
    max_attempts: int = Field(3, ge=1, description="how often a rollback that moves nothing is tried for one incident")
    max_rollbacks_per_day: int = Field(3, ge=0)
    ready_timeout_s: float = Field(2400, gt=0, description="how long the prior version may take to become ready")
    verify_timeout_s: float = Field(900, gt=0, description="how long traffic and metric may take to recover")
    telemetry_timeout_s: float = Field(
        21_600, gt=0, description="how long a rollback waits for requests that show what the configuration shows"
    )
    less_capacity: Literal["ask", "go"] = Field(
        "ask", description="a plan whose version has less capacity than what it replaces: ask a person first, or go"
    )
    proposal_ttl_s: float = Field(3600, gt=0, description="a proposed rollback that nobody approves expires")
    approvals: int = Field(1, ge=1, le=2, description="how many different persons must approve a rollback")
    promote_shares: tuple[int, ...] = Field((5, 25, 50, 100), description="traffic of a promotion's steps, per cent")
    promote_step_s: float = Field(600, ge=0, description="how long a step serves before the judge is believed")
    promote_timeout_s: float = Field(7200, gt=0, description="how long a step may wait for the judge")

    @field_validator("weights")
    @classmethod
    def _budget(cls, weights: dict[str, float]) -> dict[str, float]:
        if set(weights) - set(WEIGHTS) or min(weights.values(), default=0) < 0 or sum(weights.values()) > 1 + 1e-9:
            raise ValueError(f"expected shares of 0 or more that sum to at most 1, of {', '.join(WEIGHTS)}")
        return weights

    @field_validator("score_ranges")
    @classmethod
    def _ranges(cls, ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        if any(worst == best for worst, best in ranges.values()):
            raise ValueError("expected two different numbers per score: its worst and its best value")
        return ranges
