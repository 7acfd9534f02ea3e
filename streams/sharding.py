"""Which worker owns what: names of shards that Bytewax sends to the worker we want.

Bytewax sends a key to worker `SipHash-1-3(key) mod workers`, with a seed of zero, so the names of
shards decide where shards live. Worker w is given the first name that leads to it: the shard of
the viewers whose partitions it reads (no event of theirs leaves its process on the way to their
rows), and a share of the titles.
"""

from itertools import count

_WORD = (1 << 64) - 1
_START = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)


def shard_keys(n_workers: int) -> tuple[str, ...]:
    """The name of each worker's shard, by worker; the same in every process.

    >>> shard_keys(1), shard_keys(4)
    (('0',), ('13', '0', '4', '1'))
    """
    return tuple(
        next(str(k) for k in count() if worker_of(str(k), n_workers) == worker)
        for worker in range(n_workers)
    )


def worker_of(key: str, n_workers: int) -> int:
    """The worker to which Bytewax 0.21 sends what has this key."""
    return siphash(key.encode() + b"\xff") % n_workers  # Rust ends a text so


def siphash(data: bytes) -> int:
    """SipHash-1-3 with a seed of zero, as in Rust's DefaultHasher."""
    state = list(_START)
    last = data[len(data) // 8 * 8 :].ljust(7, b"\0") + bytes([len(data) % 256])
    blocks = data[: len(data) // 8 * 8] + last
    for at in range(0, len(blocks), 8):
        block = int.from_bytes(blocks[at : at + 8], "little")
        state[3] ^= block
        _mix(state)
        state[0] ^= block
    state[2] ^= 0xFF
    for _ in range(3):
        _mix(state)
    return state[0] ^ state[1] ^ state[2] ^ state[3]


def _mix(v: list[int]) -> None:
    """One round, in place."""
    v[0] = (v[0] + v[1]) & _WORD
    v[1] = _turned(v[1], 13) ^ v[0]
    v[0] = _turned(v[0], 32)
    v[2] = (v[2] + v[3]) & _WORD
    v[3] = _turned(v[3], 16) ^ v[2]
    v[0] = (v[0] + v[3]) & _WORD
    v[3] = _turned(v[3], 21) ^ v[0]
    v[2] = (v[2] + v[1]) & _WORD
    v[1] = _turned(v[1], 17) ^ v[2]
    v[2] = _turned(v[2], 32)


def _turned(word: int, bits: int) -> int:
    return ((word << bits) | (word >> (64 - bits))) & _WORD
