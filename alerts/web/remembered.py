"""What is slow to find out, kept for the next who asks: bounded, and for so long."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from datetime import datetime, timedelta
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Remembered(Generic[Answer]):
    """Answers by key: the `most` newest, each for `life`. One that cannot be had (an error) is not kept. Safe between threads; two who ask for the same at once
    may both have it made."""

    def __init__(self, clock: Callable[[], datetime], life: timedelta, most: int = 64) -> None:
        self._clock, self._life, self._most = clock, life, most
        self._kept: OrderedDict[Hashable, tuple[datetime, Answer]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, key: Hashable, make: Callable[[], Answer]) -> Answer:
        now = self._clock()
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None and now - kept[0] < self._life:
            return kept[1]
        made = make()
        with self._lock:
            self._kept[key] = now, made
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return made
