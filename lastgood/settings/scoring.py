"""Settings of the job `score`: what judges answers, how many, and of how many people are asked."""

from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from lastgood.settings.base import Model

SCALE = {"function": "call", "mlflow": "call", "evidently": "call", "model": "model"}
"""Kind of scorer -> the setting that it needs."""


class Scorer(Model):
    """One judge of answers. Its score says how good an answer is, `worst` to `best`; it stands for what people label with the same name."""

    name: str = Field(
        min_length=1, max_length=100, pattern=r"^[^/]+$", description="what it judges; labels of that name correct it"
    )
    kind: str = Field("model", pattern="^(function|mlflow|evidently|model)$")
    call: str | None = Field(
        None,
        description="function: package.module:function of (input, output) that gives a number, or (number, reason); mlflow: package.module:scorer; "
        "evidently: a descriptor's name (Sentiment, TextLength)",
    )
    worst: float = 0.0
    best: float = 1.0
    labelled_by: tuple[str, ...] = Field(
        (),
        description="names of feedback that counts as its label too (thumbs), by the policy's score_ranges of that name; who is asked and gives none is asked "
        "at /labels, and silence counts for the new version",
    )
    exact: bool = Field(
        False,
        description="whether its word is the truth (a schema holds or not): it is judged as it is, and people are not asked",
    )
    base_url: str = Field(
        "https://api.openai.com/v1", description="model: any endpoint that speaks OpenAI's chat completions"
    )
    model: str | None = Field(None, description="model: its name there")
    api_key_env: str | None = Field(None, description="model: variable that holds its key")
    instruction: str = Field(
        "Say how well the answer serves the person who asks.",
        description="model: what it judges, in a sentence or more",
    )
    body: dict[str, Any] = Field(
        {},
        description="model: fields of the request beside or instead of temperature (0) and max_tokens (400); null leaves one out, as models that "
        "reason want it: {temperature: null, max_tokens: null, max_completion_tokens: 4000}",
    )
    timeout_s: float = Field(
        30.0, gt=0, le=600, description="so long it may take for an answer, with what is tried again"
    )
    price_in: float = Field(0.0, ge=0, description="money for a million prompt tokens")
    price_out: float = Field(0.0, ge=0, description="money for a million generated tokens")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = SCALE[self.kind]
        if not getattr(self, needed):
            raise ValueError(f"a scorer of kind {self.kind} needs `{needed}`")
        if self.kind == "function" and ":" not in str(self.call):
            raise ValueError(f"{self.call!r}: expected package.module:function")
        if self.worst == self.best:
            raise ValueError("worst and best must differ")
        return self


class Scoring(Model):
    """What the job `score` does at an endpoint: pairs of answers, one of each version, are judged, and of some of them people are asked."""

    scorers: tuple[Scorer, ...] = ()
    pairs: int = Field(50, ge=1, le=5000, description="pairs judged in a run by each scorer, at most")
    label_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="of the pairs, drawn by lot: put before people (page /labels). 0: what a model says is shown, and not judged",
    )
    label_wait_s: float = Field(
        259_200, gt=0, description="so long a pair waits for its labels; then it counts for the new version"
    )
    calls_per_day: int = Field(
        2000, ge=2, description="answers that may be judged in a day (UTC) by all scorers together"
    )
    money_per_day: float | None = Field(
        None, gt=0, description="money that models may cost in a day; none: no limit beside the calls"
    )

    @field_validator("scorers")
    @classmethod
    def _names(cls, scorers: tuple[Scorer, ...]) -> tuple[Scorer, ...]:
        names = [scorer.name for scorer in scorers]
        if len(set(names)) != len(names):
            raise ValueError("two scorers have the same name")
        return scorers

    @model_validator(mode="after")
    def _priced(self) -> Self:
        models = [scorer for scorer in self.scorers if scorer.kind == "model"]
        if self.money_per_day is not None and models and not any(each.price_in or each.price_out for each in models):
            raise ValueError("money_per_day bounds nothing: no scorer says price_in and price_out")
        return self
