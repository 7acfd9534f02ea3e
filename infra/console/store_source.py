"""What Redis tells of itself."""

from dataclasses import dataclass
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from infra.settings import RedisSettings

TIMEOUT_S: Final = 1.5


@dataclass(frozen=True, slots=True)
class StoreSeen:
    """What a look at Redis brought."""

    memory_bytes: int
    memory_limit_bytes: int  # maxmemory, or the machine's memory where there is no limit
    policy: str
    keys: int
    clients: int
    commands_per_s: int
    uptime_s: int
    role: str
    version: str


class StoreSource:
    """Looks at Redis; for one thread alone."""

    def __init__(self, settings: RedisSettings) -> None:
        options = {
            **settings.options, "socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S,
            "retry": Retry(NoBackoff(), 0), "decode_responses": True,
        }  # fmt: skip
        self._client = redis.Redis.from_url(settings.url, **options)

    def look(self) -> StoreSeen:
        """Asks for INFO. Raises redis.RedisError."""
        info: dict[str, Any] = self._client.info()
        limit = int(info.get("maxmemory", 0)) or int(info.get("total_system_memory", 0))
        keys = sum(int(of["keys"]) for name, of in info.items() if name.startswith("db"))
        return StoreSeen(
            memory_bytes=int(info["used_memory"]),
            memory_limit_bytes=limit,
            policy=str(info.get("maxmemory_policy", "")),
            keys=keys,
            clients=int(info.get("connected_clients", 0)),
            commands_per_s=int(info.get("instantaneous_ops_per_sec", 0)),
            uptime_s=int(info.get("uptime_in_seconds", 0)),
            role=str(info.get("role", "")),
            version=str(info.get("redis_version", "")),
        )

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()
