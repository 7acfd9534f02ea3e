"""How much of what has come lately is of one key alone: it lies in one partition, on one worker."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

RECENT: Final = 8_192
ENOUGH: Final = 256  # of fewer events the share would say little


class RecentKeys:
    """The last 8,192 keys. One thread adds, any may ask."""

    def __init__(self) -> None:
        self._keys = np.zeros(RECENT, np.uint64)
        self._n = 0

    def add(self, keys: NDArray[np.uint64]) -> None:
        """Takes in the keys of a batch. A copy of at most 64 KiB."""
        keys = keys[-RECENT:]
        at = self._n % RECENT
        until_end = min(len(keys), RECENT - at)
        self._keys[at : at + until_end] = keys[:until_end]
        self._keys[: len(keys) - until_end] = keys[until_end:]
        self._n += len(keys)

    def hottest_share(self) -> float:
        """Share of the most frequent key; 0 of fewer than 256. About 0.3 ms.

        >>> keys = RecentKeys()
        >>> keys.add(np.repeat(np.arange(512, dtype=np.uint64), 1))
        >>> keys.add(np.full(512, 7, np.uint64))
        >>> keys.hottest_share()
        0.5009765625
        """
        known = self._keys[: min(self._n, RECENT)]
        if len(known) < ENOUGH:
            return 0.0
        _, counts = np.unique(known, return_counts=True)
        return float(counts.max() / len(known))
