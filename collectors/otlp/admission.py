"""Who may have how much under way (pure): bounds for all senders together, shared so that whoever has nothing still gets something.

A sender may hold SHARE times what is free: alone it gets SHARE / (SHARE + 1) of a bound, and n that want all of it leave 1 / (1 + n * SHARE)
free for the next, once what they hold has turned over. Source: Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet
switches" (1998); SHARE is their alpha. It needs no queue, no clock, and nothing tuned to the number of senders. While that settles nobody is refused an
equal part: the bound by one more than hold something of it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv6Address, IPv6Network, ip_address

from lastgood.errors import TransientError

SHARE = 4
NOTHING: Mapping[str, int] = {}
LATER = ("share", "exports", "bytes", "spool", "connections", "slow", "disk")
NEVER = ("token", "type", "size", "invalid", "cut", "unforeseen")
REASONS = (*LATER, *NEVER)
"""Why exports are refused. LATER: the sender is asked to send them again; NEVER: they would be refused again. "cut": a gRPC
call that ended before its body was whole: above max_body_bytes, or the sender left."""


def address(host: str) -> str:
    """What of a peer's address stands for a sender: of IPv6 the first 64 bits, because whoever has a network has all of its addresses."""
    try:
        given = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(given, IPv6Address):
        return host
    return str(given.ipv4_mapped or IPv6Network((given, 64), strict=False))


class BusyError(TransientError):
    """Too much is under way, of this sender or altogether. `reason`: of LATER."""

    def __init__(self, reason: str, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message, retry_after_s)
        self.reason = reason


class Shares:
    """What senders hold of one bound, in its unit."""

    def __init__(self, most: int, reason: str, unit: str, retry_after_s: float = 1.0) -> None:
        self._most, self._reason, self._unit, self._later = most, reason, unit, retry_after_s
        self._own: Counter[str] = Counter()
        self.held = 0

    def fits(self, sender: str, size: int, held: int | None = None, coming: Mapping[str, int] = NOTHING) -> None:
        """Whether the sender may take `size` more; `held`: what all hold, where that is known better; `coming`: sender -> what it was let in with and
        has not taken yet. Errors: BusyError."""
        held = (self.held if held is None else held) + sum(coming.values())
        if held + size > self._most:
            raise BusyError(self._reason, f"{held} {self._unit} of {self._most}, the bound of all senders", self._later)
        own = self._own[sender] + coming.get(sender, 0)
        equal = self._most / (len(self._own) + sum(name not in self._own for name in coming) + 1)
        if own + size > max(equal, SHARE * (self._most - held)):
            raise BusyError("share", f"{own} {self._unit}, the share of one sender now", self._later)

    def take(self, sender: str, size: int) -> None:
        self._own[sender] += size
        self.held += size

    def give(self, owned: Mapping[str, int]) -> None:
        """`owned`: sender -> what it gives back."""
        for sender, size in owned.items():
            self._own[sender] -= size
            self.held -= size
            if not self._own[sender]:
                del self._own[sender]


class Held:
    """What one export holds while it is under way."""

    def __init__(self, shares: Shares, sender: str) -> None:
        self._bytes, self._sender, self.size = shares, sender, 0

    def fits(self, size: int) -> None:
        """Whether a body of this size could be held. Errors: BusyError."""
        self._bytes.fits(self._sender, size)

    def grow(self, size: int) -> None:
        """Hold so many bytes more. Errors: BusyError."""
        self._bytes.fits(self._sender, size)
        self._bytes.take(self._sender, size)
        self.size += size


class Admission:
    """Exports under way and the bytes of their bodies, from the first byte read to the answer."""

    def __init__(self, exports: int, most_bytes: int) -> None:
        self._exports = Shares(exports, "exports", "exports")
        self._bytes = Shares(most_bytes, "bytes", "bytes")

    @property
    def held(self) -> int:
        """Exports under way."""
        return self._exports.held

    @contextmanager
    def enter(self, sender: str) -> Iterator[Held]:
        """An export is under way until the block ends. Errors: BusyError."""
        self._exports.fits(sender, 1)
        self._exports.take(sender, 1)
        held = Held(self._bytes, sender)
        try:
            yield held
        finally:
            self._exports.give({sender: 1})
            self._bytes.give({sender: held.size})
