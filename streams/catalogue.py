"""Follows the topic `catalog` beside a flow, for what events need to know of their titles."""

import structlog
from confluent_kafka import Message

from features.codec import WireError, decode_catalog_item
from features.log import LogConfig
from features.titles import TitleFacts
from streams.follower import TopicFollower

log = structlog.get_logger(__name__)


class TitleFollower:
    """Reads the whole catalogue at first, then takes in changes when asked to `refresh`."""

    def __init__(self, config: LogConfig, topic: str) -> None:
        self.titles = TitleFacts()
        self._follower = TopicFollower(config, topic, self._take)
        self.refresh = self._follower.refresh
        self.close = self._follower.close

    def _take(self, record: Message) -> None:
        value = record.value()
        if not value:
            return  # a tombstone: the facts of a removed title stay with its past events
        try:
            self.titles.put(decode_catalog_item(value))
        except WireError as error:
            log.warning("bad_catalog_record", reason=str(error), offset=record.offset())
