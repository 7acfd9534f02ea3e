"""Where Redis is and how keys begin: settings alone, read by commands that start at once."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from features.store import Table  # compiles functions as it is imported


@dataclass(frozen=True, slots=True)
class RedisConfig:
    """How to reach Redis. `prefix` keeps deployments apart; options go to redis-py (TLS, ACL)."""

    url: str
    prefix: str = "headrace"
    socket_timeout_s: float = 5.0
    options: dict[str, Any] = field(default_factory=dict)

    def key_head(self, table: "Table") -> bytes:
        """What the keys of a table begin with; 16 hexadecimal digits of the id follow."""
        return f"{self.prefix}:{table.letter}:".encode()
