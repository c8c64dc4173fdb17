"""When the next request may go out: so many a minute, nobody while the server asks for a pause, and a growing
wait after a failure.

    pace = Pace(per_minute=120)        # a request every half second, however many threads ask
    pace.turn()                        # returns when this thread may send
    pace.pause(30.0)                   # the server said Retry-After: 30; nobody sends before

Requests are spaced evenly: a minute's worth sent at once would be counted into two minutes by a server whose
minute begins elsewhere.

Source: our choice; Retry-After: RFC 9110, section 10.2.3.
"""

import email.utils
import random
import threading
import time
from typing import Callable, Mapping, Optional

LONGEST_WAIT = 60.0  # seconds between two tries, where the server does not say


class Stopped(Exception):
    """Another thread failed: no more requests."""


class Pace:
    """The turns of all threads that talk to one server.

    Args:
        per_minute: requests a minute at most; 0 for no limit.
        clock: seconds, for tests.
        sleep: waits that many seconds and returns whether all should stop, for tests.
    """

    def __init__(
        self, per_minute: float = 0.0, *, clock: Callable[[], float] = time.monotonic,
        sleep: Optional[Callable[[float], bool]] = None,
    ) -> None:
        self._gap = 60.0 / per_minute if per_minute > 0 else 0.0
        self._clock, self._stopped, self._lock = clock, threading.Event(), threading.Lock()
        self._sleep = sleep or self._stopped.wait
        self._next = float("-inf")

    def turn(self) -> None:
        """Wait until this thread may send.

        Raises:
            Stopped: `stop` was called.
        """
        while True:
            with self._lock:
                left = self._next - self._clock()
                if left <= 0:
                    self._next = self._clock() + self._gap
                    break
            self.rest(left)
        if self._stopped.is_set():
            raise Stopped

    def pause(self, seconds: float) -> None:
        """Let nobody send for so long."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)

    def rest(self, seconds: float) -> None:
        """Let this thread alone wait; `Stopped` as for `turn`."""
        if self._sleep(seconds):
            raise Stopped

    def stop(self) -> None:
        """End every wait, until `start`."""
        self._stopped.set()

    def start(self) -> None:
        """Let threads send (again)."""
        self._stopped.clear()


def backoff(first: float, tried: int) -> float:
    """Seconds to wait after the try number `tried` (from 1): doubled each time, by chance up to half less, so
    that threads which failed together do not come back together."""
    return min(LONGEST_WAIT, first * 2 ** (tried - 1)) * random.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str]) -> Optional[float]:
    """The seconds that a server asks to wait: as milliseconds, seconds or a date; None if it does not say."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "").split(",")[0].strip()  # a gateway may add its own to the server's
        if value.replace(".", "", 1).isdecimal() and value.isascii():
            return float(value) / unit
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, date.timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
