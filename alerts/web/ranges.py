"""The time range of a page, in its address -> moments, and the addresses of other ranges (pure). Zoom is a link: no script runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from starlette.exceptions import HTTPException

USUAL: Mapping[str, timedelta] = {
    "6h": timedelta(hours=6), "1d": timedelta(days=1), "7d": timedelta(days=7), "42d": timedelta(days=42), "90d": timedelta(days=90),
}  # fmt: skip
DEFAULT = "7d"
KEPT = ("endpoint", "column", "against", "id", "trace", "code", "flag")
"""Parameters of the pages that links to other ranges keep: a page repeats them in every link, so what else an address holds is dropped."""
LONGEST = 300
LEAST, MOST = timedelta(minutes=10), timedelta(days=1100)


@dataclass(frozen=True)
class Range:
    """[since, until), UTC. `name`: of USUAL where it ends now, else empty. `rest`: the address's other parameters, of KEPT. `begin`: nothing is older; no link
    leads there. `chosen`: the address names a range."""

    since: datetime
    until: datetime
    name: str
    now: datetime
    rest: Mapping[str, str]
    begin: datetime | None = None
    chosen: bool = False

    @classmethod
    def of(
        cls, query: Mapping[str, str], now: datetime, default: str = DEFAULT, begin: datetime | None = None
    ) -> "Range":
        """`range=7d`, or `from` and `to` (ISO 8601, UTC where they name no zone). Errors: HTTPException 400 that names the parameter."""
        rest = {key: value[:LONGEST] for key in KEPT if (value := query.get(key, "")).strip()}
        since, until = (moment(query, name) for name in ("from", "to"))
        if since is None and until is None:
            name = query.get("range", "") or default
            if name not in USUAL:
                raise HTTPException(400, f"range must be one of {', '.join(USUAL)}.")
            return cls(now - USUAL[name], now, name, now, rest, begin, bool(query.get("range")))
        until = until or now
        since = since or until - USUAL[default]
        if not LEAST <= until - since <= MOST:
            raise HTTPException(400, "from must be before to, by 10 minutes to three years.")
        return cls(since, until, "", now, rest, begin, True)

    def named(self, name: str) -> str:
        """The address of one of USUAL."""
        return "?" + urlencode({**self.rest, "range": name})

    def between(self, since: datetime, until: datetime) -> str:
        """The address of another range; one that is too short is widened around its middle."""
        short = max(timedelta(), LEAST - (until - since)) / 2
        return "?" + urlencode({**self.rest, "from": _text(since - short), "to": _text(until + short)})

    @property
    def here(self) -> str:
        """This range's address."""
        return self.named(self.name) if self.name else self.between(self.since, self.until)

    def over(self, endpoint: str = "") -> str:
        """The query of another page: this range where a person chose it (else that page's own), of an endpoint or without one."""
        given = {"endpoint": endpoint} if endpoint else {}
        if self.chosen and self.name:
            given["range"] = self.name
        elif self.chosen:
            given |= {"from": _text(self.since), "to": _text(self.until)}
        return f"?{urlencode(given)}" if given else ""

    def csv(self, table: str) -> str:
        """The address of one of the page's tables as CSV."""
        return f"{self.here}&csv={table}"

    @property
    def steps(self) -> list[tuple[str, str]]:
        """(word, address): earlier, later, closer and wider."""
        wide = self.until - self.since
        quarter, middle = wide / 4, self.since + wide / 2
        begin = max(self.begin or self.now - MOST, self.now - MOST)
        made = []
        if self.since > begin:
            made.append(("Earlier", self.between(self.since - wide / 2, self.until - wide / 2)))
        if self.until < self.now:
            made.append(("Later", self.between(self.since + wide / 2, self.until + wide / 2)))
        if wide > 2 * LEAST:
            made.append(("Closer", self.between(middle - quarter, middle + quarter)))
        if 2 * wide <= MOST and (self.since > begin or self.until < self.now):
            made.append(
                ("Wider", self.between(self.since - wide / 2, max(self.until, min(self.until + wide / 2, self.now))))
            )
        return made


def _text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M}"


def moment(query: Mapping[str, str], name: str) -> datetime | None:
    """A parameter that is a moment, UTC where it names no zone; None where it is empty. Errors: HTTPException 400 that names it."""
    text = query.get(name, "")
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise HTTPException(400, f"{name} must be a moment like 2026-03-01T12:00.") from error
    if not 1971 <= at.year <= 9998:
        raise HTTPException(400, f"{name} must be a moment like 2026-03-01T12:00.")
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
