"""An error code -> whose fault the failure is (pure): a bounded class, never text."""

import re
from enum import StrEnum
from functools import lru_cache


class Fault(StrEnum):
    """Who has to act on a failure.

    model: the version's own code or weights (500). platform: what serves it (502, 503, connections). timeout: no answer in time (408, 504,
    deadlines). client: the request was wrong or was given up (400, 401, 403, 404, 413, 422, 499). content: a filter refused prompt or answer.
    limit: more requests than allowed (429).
    """

    MODEL = "model"
    PLATFORM = "platform"
    TIMEOUT = "timeout"
    CLIENT = "client"
    CONTENT = "content"
    LIMIT = "limit"


FAULTS = tuple(Fault)
_STATUS = re.compile(r"(?<!\d)([45]\d\d)(?!\d)")
_BY_STATUS = {
    408: Fault.TIMEOUT,
    504: Fault.TIMEOUT,
    524: Fault.TIMEOUT,
    429: Fault.LIMIT,
    502: Fault.PLATFORM,
    503: Fault.PLATFORM,
}
_WORDS = (
    (Fault.CONTENT, "contentfilter|contentpolicy|contentmanagement|responsibleai|guardrail|safetyfilter|blockedby|moderation"),
    (Fault.LIMIT, "ratelimit|toomanyrequests|resourceexhausted|quota|throttl|limitexceeded"),
    (Fault.TIMEOUT, "timeout|timedout|deadline"),
    (
        Fault.CLIENT,
        "badrequest|badparameter|invalidargument|invalidrequest|invalidparameter|invalidinput|malformed|unprocessable|validationerror|"
        "contextlength|contextwindow|payloadtoolarge|requesttoolarge|notfound|alreadyexists|doesnotexist|unauthenticated|unauthorized|"
        "authentication|permission|forbidden|outofrange|failedprecondition|cancelled|canceled|clientclosed|clientdisconnect|aborted",
    ),
    (Fault.PLATFORM, "unavailable|overloaded|connection|badgateway|temporarily|networkerror|gateway"),
)  # fmt: skip
_PATTERNS = tuple((fault, re.compile(words)) for fault, words in _WORDS)


@lru_cache(maxsize=10_000)
def fault(code: str) -> Fault:
    """The class of an error code such as HTTP_503, RATE_LIMIT or DeadlineExceeded. A filter's refusal is known by its words whatever its
    status; what nobody can name is the model's.

    Sources: RFC 9110 (statuses), the gRPC status codes, what the platform and client libraries write.
    """
    text = re.sub(r"[^a-z]", "", code.lower())
    if _PATTERNS[0][1].search(text):
        return Fault.CONTENT
    if match := _STATUS.search(code):
        status = int(match[1])
        return _BY_STATUS.get(status, Fault.CLIENT if status < 500 else Fault.MODEL)
    return next((kind for kind, words in _PATTERNS if words.search(text)), Fault.MODEL)
