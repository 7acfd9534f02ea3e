"""How many calls a client may make: a bucket of tokens for each, in this process alone.

Processes know nothing of each other's buckets. Where N of them share a port, each gives out a N-th
of every quota, so a client whose connections all lie with one process gets a N-th of its own.
"""

from dataclasses import dataclass

from serving.guard.keys import ApiKey
from serving.guard.refusals import QuotaExceededError


@dataclass(slots=True)
class TokenBucket:
    """Tokens trickle in at `rate` a second, up to `burst`; a call takes one.

    >>> bucket = TokenBucket(rate=2.0, burst=1.0, at_s=0.0)
    >>> bucket.take(0.0), bucket.take(0.0), bucket.take(0.5)
    (0.0, 0.5, 0.0)
    """

    rate: float
    burst: float
    at_s: float
    tokens: float = -1.0

    def __post_init__(self) -> None:
        self.tokens = self.burst

    def take(self, now_s: float) -> float:
        """Takes a token; 0, or the seconds until there is one. A clock that goes back adds none."""
        passed_s = max(now_s - self.at_s, 0.0)
        self.at_s = max(now_s, self.at_s)
        self.tokens = min(self.burst, self.tokens + passed_s * self.rate)
        if self.tokens >= 1.0 - 1e-9:
            self.tokens -= 1.0
            return 0.0
        return (1.0 - self.tokens) / self.rate


class Quotas:
    """The buckets of all clients, as many as there are keys; an `n_processes`-th of each quota."""

    def __init__(self, n_processes: int = 1) -> None:
        self._n_processes = n_processes
        self._buckets: dict[tuple[str, float, int], TokenBucket] = {}

    def wait_s(self, key: ApiKey, now_s: float) -> float:
        """Takes a call's token from the key's bucket; 0, or seconds until there is one.

        Keys of one client with the same quota share a bucket: rotation gives nobody more.
        """
        if key.rate == 0:
            return 0.0
        whose = (key.client, key.rate, key.burst)
        bucket = self._buckets.get(whose)
        if bucket is None:
            n = self._n_processes
            bucket = TokenBucket(key.rate / n, max(key.burst / n, 1.0), now_s)
            self._buckets[whose] = bucket
        return bucket.take(now_s)

    def charge(self, key: ApiKey, now_s: float) -> None:
        """Takes a call's token. Raises QuotaExceededError, which says when to come again."""
        wait_s = self.wait_s(key, now_s)
        if wait_s > 0:
            quota = f"the quota of {key.rate:g} calls a second is used up"
            raise QuotaExceededError(quota, max(round(1_000 * wait_s), 1))

    def keep(self, keys: set[tuple[str, float, int]]) -> None:
        """Forgets the buckets of quotas that are gone."""
        self._buckets = {whose: b for whose, b in self._buckets.items() if whose in keys}
