"""Where in the log an event stands: what a row includes, and what read-your-writes waits for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Position:
    """The event at `offset` of `partition` of `topic`; comparable within one partition.

    >>> Position("interactions", 0, 7).is_included_in(Position("interactions", 0, 9))
    True
    >>> Position("interactions", 1, 7).is_included_in(Position("interactions", 0, 9))
    False
    """

    topic: str
    partition: int
    offset: int

    def is_included_in(self, other: "Position | None") -> bool:
        """Whether state at `other` contains this event; different partitions say nothing."""
        return (
            other is not None
            and (self.topic, self.partition) == (other.topic, other.partition)
            and self.offset <= other.offset
        )
