"""What the world sends a judge: each kind of fault as a scenario with a healthy and a bad variant -> how often each is rolled back or paged.

A scenario is a function of a random generator and `bad`; it answers with what the judge is given. Healthy: nobody must be rolled back.
Bad: the bad version must be (or, where it serves alone, a person must be paged).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from lastgood.judge import Drifted, Evidence, History, State, changes
from lastgood.judge.columns import Ints
from lastgood.judge.eprocess import Floats
from lastgood.judge.ledger import Configuration, Pair, judged, planned
from lastgood.judge.records import Records, columns_of
from lastgood.record.windows import Counts, bucket
from lastgood.settings import Policy

START = 1_772_366_400.0
BEGIN = datetime.fromtimestamp(START, UTC)
"""2026-03-01 12:00 UTC."""
WIDTH = 20.0
CODES = ("HTTP_500", "HTTP_400", "HTTP_503")
POLICY = Policy()
PEOPLE = 200


@dataclass(frozen=True)
class Story:
    """Requests of some versions (`version` per request), the ledger, and what else is known. after: minutes before which a rollback is not
    looked at. page: bad is found by a page."""

    records: Records
    version: Ints
    ledger: tuple[Configuration, ...]
    drift: tuple[Drifted, ...] = ()
    usual: tuple[Counts, ...] = ()
    after: float = 0.0
    page: bool = False
    culprit: str = "2"
    rolled_back: Mapping[str, tuple[datetime, ...]] | None = None


def at(minutes: float) -> datetime:
    return BEGIN + timedelta(minutes=minutes)


def plain(share: float = 0.5, before: float = 5000.0) -> tuple[Configuration, ...]:
    """Version 1 alone for days, then versions 1 and 2."""
    return (Configuration(at(-before), {"1": 100}), Configuration(BEGIN, {"1": 100 * (1 - share), "2": 100 * share}))


@dataclass
class Traffic:
    """Requests in the making: everything may be changed before `records`."""

    at: Floats
    who: Ints
    version: Ints
    tokens_in: Floats
    tokens_out: Floats
    noise: Floats
    fails: Floats
    code: Ints

    @property
    def minute(self) -> Floats:
        return (self.at - START) / 60

    def records(self, rng: np.random.Generator, ms: Floats | None = None) -> Records:
        """ms: latency of successes (None: by tokens)."""
        n = len(self.at)
        bad = rng.random(n) < self.fails
        ms = self.latency() if ms is None else ms
        ms = np.where(bad & (self.code != 0), 5.0, ms)
        tokens = np.where(bad, np.nan, self.tokens_out)
        return Records(
            self.at, np.zeros(n, np.int64), np.where(bad, self.code, -1), CODES, self.who, ms, self.tokens_in, tokens, ms / 4,
            np.full(n, np.nan), np.zeros(n, np.int64), ("model",),
        )  # fmt: skip

    def latency(self) -> Floats:
        return np.asarray((150 + 10 * self.tokens_out + 0.2 * self.tokens_in) * np.exp(self.noise))


def traffic(
    rng: np.random.Generator, share: float = 0.5, minutes: float = 40, per_minute: float = 300, failing: float = 0.008
) -> Traffic:
    """A few requesters send most; load and speed wander for both versions alike."""
    n = rng.poisson(minutes * per_minute)
    when = np.sort(rng.uniform(0, 60 * minutes, n))
    popular = 1 / np.arange(1, PEOPLE + 1) ** 0.7
    who = rng.choice(PEOPLE, n, p=popular / popular.sum())
    wander = np.cumsum(rng.normal(0, 0.03, int(minutes) + 2))
    noise = rng.normal(0, 0.25, n) + wander[(when // 60).astype(int)]
    version = np.where(rng.random(n) < share, 2, 1)
    tokens_in, tokens_out = np.round(np.exp(rng.normal(5, 1, n))), np.round(np.exp(rng.normal(4, 0.6, n)))
    return Traffic(START + when, who, version, tokens_in, tokens_out, noise, np.full(n, failing), np.zeros(n, np.int64))


def new(made: Traffic) -> Floats:
    return (made.version == 2).astype(float)


Scenario = Callable[[np.random.Generator, bool], Story]


def three_entities(rng: np.random.Generator, bad: bool) -> Story:
    """Champion 1 has 80%, canaries 2 and 3 ten each; stray rows of an unknown version. Bad: 3 fails."""
    made = traffic(rng)
    made.version = rng.choice([1, 2, 3, 9], len(made.at), p=[0.8, 0.0995, 0.0995, 0.001])
    made.fails = made.fails * np.where(made.version == 3, 6.0 if bad else 1.0, 1.0)
    ledger = (
        Configuration(at(-5000), {"1": 100}),
        Configuration(at(-90), {"1": 90, "2": 10}),
        Configuration(BEGIN, {"1": 80, "2": 10, "3": 10}),
    )
    return Story(made.records(rng), made.version, ledger, culprit="3")


def deployed_again(rng: np.random.Generator, bad: bool) -> Story:
    """Version 2 failed for ten minutes, was taken away, and is deployed again, repaired (bad: not repaired)."""
    made = traffic(rng, minutes=60)
    away = (made.minute > 10) & (made.minute < 25)
    made.version = np.where(away, 1, made.version)
    made.fails = np.where((made.version == 2) & ((made.minute < 10) | bad), 0.06, made.fails)
    ledger = (*plain(), Configuration(at(10), {"1": 100}), Configuration(at(25), {"1": 50, "2": 50}))
    return Story(made.records(rng), made.version, ledger, after=25)


def failing_prior(rng: np.random.Generator, bad: bool) -> Story:
    """The prior version fails half of its requests in 5 ms, the hotfix few (bad: the prior version is well, the new one fails in 5 ms)."""
    made = traffic(rng)
    worse = 1 if not bad else 2
    made.fails = np.where(made.version == worse, 0.5 if not bad else 0.05, made.fails)
    made.code = np.where(made.version == worse, 2, 0)
    return Story(made.records(rng), made.version, plain())


def fewer_tokens(rng: np.random.Generator, bad: bool) -> Story:
    """The same text in 20% fewer tokens, in the same time (bad: it takes 1.5 times as long)."""
    made = traffic(rng)
    ms = made.latency() * np.where((made.version == 2) & bad, 1.5, 1.0)
    made.tokens_out = made.tokens_out * np.where(made.version == 2, 0.8, 1.0)
    return Story(made.records(rng, ms), made.version, plain())


def shorter_and_faster(rng: np.random.Generator, bad: bool) -> Story:
    """Answers 24% shorter and 7% faster (bad: and they fail four times as often)."""
    made = traffic(rng)
    ms = made.latency() * np.where(made.version == 2, 0.93, 1.0)
    made.tokens_out = made.tokens_out * np.where(made.version == 2, 0.76, 1.0)
    made.fails = made.fails * np.where((made.version == 2) & bad, 5.0, 1.0)
    return Story(made.records(rng, ms), made.version, plain())


def other_prompts(rng: np.random.Generator, bad: bool) -> Story:
    """Version 2 is sent prompts one and a half times as long, which take as much longer; drift says so (bad: and it fails)."""
    made = traffic(rng)
    made.tokens_in = made.tokens_in * np.where(made.version == 2, 1.5, 1.0)
    ms = made.latency() * np.where(made.version == 2, 1.5, 1.0)
    made.fails = made.fails * np.where((made.version == 2) & bad, 5.0, 1.0)
    drift = (Drifted("2", "prior", "input", "input_chars", 0.4, 0.3),)
    return Story(made.records(rng, ms), made.version, plain(), drift)


def other_prompts_unsaid(rng: np.random.Generator, bad: bool) -> Story:
    """The same, and no drift report yet."""
    return replace(other_prompts(rng, bad), drift=())


def pinned_client(rng: np.random.Generator, bad: bool) -> Story:
    """One client, 0.8% of traffic, calls the new version by its URL, half of its requests wrong (bad: many requesters are refused more)."""
    made = traffic(rng)
    pinned = rng.random(len(made.at)) < 0.008
    made.who, made.version = np.where(pinned, PEOPLE, made.who), np.where(pinned, 2, made.version)
    made.fails = np.where(pinned, 0.5, made.fails)
    made.code = np.where(pinned, 1, made.code)
    if bad:
        refused = (made.version == 2) & (rng.random(len(made.at)) < 0.05)
        made.fails, made.code = np.where(refused, 1.0, made.fails), np.where(refused, 1, made.code)
    return Story(made.records(rng), made.version, plain())


def one_requester(rng: np.random.Generator, bad: bool) -> Story:
    """One requester keeps meeting the new version and fails there a third of the time, in storms (bad: everybody's requests fail)."""
    made = traffic(rng)
    mine = rng.random(len(made.at)) < 0.04
    made.who, made.version = np.where(mine, PEOPLE, made.who), np.where(mine, 2, made.version)
    made.fails = np.where(mine, 0.35, made.fails)
    made.fails = made.fails * np.where((made.version == 2) & ~mine & bad, 5.0, 1.0)
    return Story(made.records(rng), made.version, plain())


def some_testers(rng: np.random.Generator, bad: bool) -> Story:
    """Four people try the new version by its URL, 3% of traffic, and a third of what they send fails (bad: everybody's requests fail)."""
    made = traffic(rng)
    theirs = rng.random(len(made.at)) < 0.03
    made.who = np.where(theirs, PEOPLE + rng.integers(0, 4, len(made.at)), made.who)
    made.version = np.where(theirs, 2, made.version)
    made.fails = np.where(theirs, 0.35, made.fails)
    made.fails = made.fails * np.where((made.version == 2) & ~theirs & bad, 5.0, 1.0)
    return Story(made.records(rng), made.version, plain())


def slow_requester(rng: np.random.Generator, bad: bool) -> Story:
    """One requester with slow prompts of its own, a fifth of traffic, meets the new version only (bad: everybody is slower there)."""
    made = traffic(rng)
    mine = (made.version == 2) & (rng.random(len(made.at)) < 0.4)
    made.who = np.where(mine, PEOPLE, made.who)
    ms = made.latency() * np.where(mine, 2.0, 1.0) * np.where((made.version == 2) & ~mine & bad, 1.5, 1.0)
    return Story(made.records(rng, ms), made.version, plain())


def slow_for_one(rng: np.random.Generator, bad: bool) -> Story:
    """One requester has a third of the traffic, drawn by request, and slow prompts of its own (bad: version 2 is slow for it alone)."""
    made = traffic(rng)
    its = rng.random(len(made.at)) < 0.33
    made.who = np.where(its, PEOPLE, made.who)
    ms = made.latency() * np.where(its & ((made.version == 2) | (not bad)), 2.5, 1.0)
    return Story(made.records(rng, ms), made.version, plain(), page=True)


def low_scores(rng: np.random.Generator, bad: bool) -> Story:
    """One requester, 6% of traffic, meets the new version only, and its answers are scored low (bad: everybody's are there)."""
    made = traffic(rng)
    mine = rng.random(len(made.at)) < 0.06
    made.who, made.version = np.where(mine, PEOPLE, made.who), np.where(mine, 2, made.version)
    less = np.where(mine, 0.6, np.where((made.version == 2) & bad, 0.15, 0.0))
    value = np.clip(rng.normal(0.8, 0.1, len(made.at)) - less, 0.0, 1.0)
    known = rng.random(len(made.at)) < 0.3
    records = replace(made.records(rng), values={"helpful": np.where(known, value, np.nan)})
    return Story(records, made.version, plain())


def over_long_ago(rng: np.random.Generator, bad: bool) -> Story:
    """The new version failed for three minutes, and has been well for half an hour when its telemetry arrives (bad: it goes on)."""
    made = traffic(rng)
    ill = (made.version == 2) & (made.minute < 3 if not bad else made.minute < 99)
    made.fails = np.where(ill, 0.1, made.fails)
    return Story(made.records(rng), made.version, plain(), after=35)


def usual_weeks(rng: np.random.Generator, per_hour: float = 18_000.0, failing: float = 0.008) -> tuple[Counts, ...]:
    """Four weeks before, hour by hour, of version 1; speed and failures wander."""
    hours = []
    for i in range(1, 4 * 168 + 1):
        made = traffic(rng, 0.0, 5, 60)
        ms = made.latency() * np.exp(rng.normal(0, 0.05))
        shape: dict[int, float] = {}
        for mark in (bucket(float(v)) for v in ms):
            shape[mark] = shape.get(mark, 0.0) + per_hour / len(ms)
        errors = {"HTTP_500": float(rng.binomial(int(per_hour), failing * np.exp(rng.normal(0, 0.15))))}
        hours.append(Counts("chat", "1", "model/64", at(-60 * i), int(per_hour), per_hour, errors, shape))
    return tuple(hours)


USUAL = usual_weeks(np.random.default_rng(7))


def alone(rng: np.random.Generator, bad: bool) -> Story:
    """Version 2 has all traffic (bad: it becomes three times as slow after twenty minutes)."""
    made = traffic(rng, 1.0, minutes=60)
    ms = made.latency() * np.where((made.minute > 20) & bad, 3.0, 1.0)
    ledger = (Configuration(at(-5000), {"1": 100}), Configuration(BEGIN, {"2": 100}))
    return Story(made.records(rng, ms), made.version, ledger, usual=USUAL, page=True)


def hanging(rng: np.random.Generator, bad: bool) -> Story:
    """Version 2 has all traffic (bad: nine of ten requests hang after twenty minutes: they are not seen)."""
    made = traffic(rng, 1.0, minutes=60)
    records = made.records(rng)
    kept = (made.minute < 20) | (rng.random(len(made.at)) < 0.1) if bad else np.ones(len(made.at), bool)
    ledger = (Configuration(at(-5000), {"1": 100}), Configuration(BEGIN, {"2": 100}))
    return Story(records.take(kept), made.version[kept], ledger, usual=USUAL, page=True)


def alone_with_a_probe(rng: np.random.Generator, bad: bool) -> Story:
    """Version 2 has all traffic, and three probes go on calling 1 by its URL, short and fast (bad: 2 becomes three times as slow)."""
    made = traffic(rng, 1.0, minutes=60)
    probe = rng.random(len(made.at)) < 0.01
    made.version, made.who = (
        np.where(probe, 1, made.version),
        np.where(probe, PEOPLE + rng.integers(0, 3, len(probe)), made.who),
    )
    ms = np.where(probe, 80.0, made.latency() * np.where((made.minute > 20) & bad, 3.0, 1.0))
    ledger = (Configuration(at(-5000), {"1": 100}), Configuration(BEGIN, {"2": 100}))
    return Story(made.records(rng, ms), made.version, ledger, usual=USUAL, page=True)


def cold_start(rng: np.random.Generator, bad: bool) -> Story:
    """A fresh replica is three times as slow for sixty seconds (bad: it stays one and a half times as slow)."""
    made = traffic(rng)
    ms = made.latency() * np.where((made.version == 2) & (made.minute < 1), 3.0, 1.0)
    ms = ms * np.where((made.version == 2) & bad, 1.5, 1.0)
    return Story(made.records(rng, ms), made.version, plain())


def split_changes(rng: np.random.Generator, bad: bool, said: bool = True) -> Story:
    """5% become 50% in the middle of a window, with twenty seconds of slowness of both versions (bad: the new one is slower)."""
    made = traffic(rng)
    change = 15 + rng.uniform(0, 1)
    made.version = np.where(rng.random(len(made.at)) < np.where(made.minute < change, 0.05, 0.5), 2, 1)
    ms = made.latency() * np.where((made.minute > change) & (made.minute < change + 1 / 3), 4.0, 1.0)
    ms = ms * np.where((made.version == 2) & bad, 1.4, 1.0)
    ledger = plain(0.05)
    if said:
        ledger = (*ledger, Configuration(at(change + 0.5), {"1": 50, "2": 50}))
    return Story(made.records(rng, ms), made.version, ledger)


def split_changes_unsaid(rng: np.random.Generator, bad: bool) -> Story:
    """The same, before anybody has seen the new configuration."""
    story = split_changes(rng, bad, said=False)
    return replace(story, ledger=tuple(replace(c, traffic={"1": 0, "2": 0} | dict(c.traffic)) for c in story.ledger))


def no_lengths(rng: np.random.Generator, bad: bool) -> Story:
    """Version 2 does not report the prompt's tokens; long prompts take longer (bad: and it is slower)."""
    made = traffic(rng)
    made.tokens_in = made.tokens_in * 5
    ms = made.latency() * np.where((made.version == 2) & bad, 1.5, 1.0)
    records = made.records(rng, ms)
    return Story(
        replace(records, tokens_in=np.where(made.version == 2, np.nan, records.tokens_in)), made.version, plain()
    )


def long_answers_fail(rng: np.random.Generator, bad: bool) -> Story:
    """Platform outage of both versions for four minutes while the mix shifts to long prompts (bad: the new version fails besides)."""
    made = traffic(rng, 0.3)
    out = (made.minute > 12) & (made.minute < 16)
    made.fails, made.code = np.where(out, 0.6, made.fails), np.where(out, 2, made.code)
    made.tokens_in = made.tokens_in * np.where(out, 4, 1)
    made.fails = made.fails * np.where((made.version == 2) & ~out & bad, 5.0, 1.0)
    return Story(made.records(rng), made.version, plain(0.3))


def rate_limited(rng: np.random.Generator, bad: bool) -> Story:
    """The new version has less capacity and answers 429 to 3% (bad: 503)."""
    made = traffic(rng)
    refused = (made.version == 2) & (rng.random(len(made.at)) < 0.03)
    made.fails = np.where(refused, 1.0, made.fails)
    made.code = np.where(refused, 2, made.code)
    records = made.records(rng)
    return Story(
        records if bad else replace(records, codes=("HTTP_500", "HTTP_400", "HTTP_429")), made.version, plain()
    )


SCENARIOS: Mapping[str, Scenario] = {
    "1 three entities and stray rows": three_entities,
    "1 deployed again": deployed_again,
    "2 prior fails fast": failing_prior,
    "3 fewer tokens": fewer_tokens,
    "3 shorter and faster": shorter_and_faster,
    "3 other prompts, drift seen": other_prompts,
    "3 other prompts, drift not seen": other_prompts_unsaid,
    "4 pinned client with 400s": pinned_client,
    "4 rate limit": rate_limited,
    "5 one requester fails": one_requester,
    "5 some testers' requests fail": some_testers,
    "5 one requester is slow": slow_requester,
    "5 slow for one requester": slow_for_one,
    "5 one requester's answers": low_scores,
    "6 over long ago": over_long_ago,
    "6 alone": alone,
    "6 alone, the prior version is probed": alone_with_a_probe,
    "6 hanging": hanging,
    "7 cold start": cold_start,
    "7 split changes": split_changes,
    "7 split changes, not seen": split_changes_unsaid,
    "8 prompt length of one version": no_lengths,
    "8 outage and mix": long_answers_fail,
}


def evidences(story: Story) -> list[tuple[Pair, Evidence]]:
    """Each judged version of a story with its evidence, as the jobs put it together."""
    made = []
    for pair in judged(story.ledger, story.rolled_back):
        names = [int(pair.candidate), *([int(pair.prior)] if pair.prior else [])]
        mine = np.isin(story.version, names) & (story.records.at >= pair.since.timestamp())
        labelled = story.records.labelled((story.version == names[0]).astype(np.int64)).take(mine)
        cols = columns_of(labelled, WIDTH)
        drift = [d for d in story.drift if d.model_version in (pair.candidate, pair.prior)]
        evidence = Evidence(
            "chat", pair.candidate, pair.prior, cols, round(WIDTH), drift, planned=planned(story.ledger, pair), usual=story.usual,
            deployed=pair.since,
        )  # fmt: skip
        made.append((pair, evidence))
    return made


def outcome(story: Story) -> dict[str, State]:
    """version -> the worst that was ever said of it after `story.after`."""
    worst: dict[str, State] = {}
    for pair, evidence in evidences(story):
        state, last = State.HEALTHY, State.HEALTHY
        for verdict in changes(evidence, POLICY, History(story.rolled_back or {})):
            if verdict.judged_at > at(story.after):
                state = max(state, last, verdict.state, key=lambda one: one.severity)
            last = verdict.state
        worst[pair.candidate] = max(state, last, key=lambda one: one.severity)
    return worst


def run(name: str, bad: bool, seed: int) -> tuple[bool, bool]:
    """(somebody was rolled back who should not be, or the culprit was found; somebody was paged) of one run."""
    rng = np.random.default_rng([seed, int(bad), *name.encode()])
    story = SCENARIOS[name](rng, bad)
    worst = outcome(story)
    back = {version for version, state in worst.items() if state is State.ROLL_BACK}
    paged = any(state.severity >= State.PAGE.severity for state in worst.values())
    if not bad:
        return bool(back) or (story.page and paged), paged
    if story.page:
        return paged and not back, paged
    return back == {story.culprit}, paged
