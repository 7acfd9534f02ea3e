"""The ledger of erasures, from its topic: known to its end before the flow reads an event."""

import structlog
from confluent_kafka import Message

from features.codec import WireError, decode_erasure, encode_erasure
from features.erasure import Erasure, ErasureLedger
from features.log import LogConfig
from streams.follower import TopicFollower
from streams.kafka import OutRecord

log = structlog.get_logger(__name__)


class LedgerFollower:
    """Reads the whole ledger at first, then takes in new erasures when asked to `refresh`."""

    def __init__(self, config: LogConfig, topic: str) -> None:
        self.ledger = ErasureLedger()
        self._follower = TopicFollower(config, topic, self._take)
        self.refresh = self._follower.refresh
        self.close = self._follower.close

    def _take(self, record: Message) -> None:
        key, value = record.key(), record.value()
        if not key or not value:
            return
        try:
            self.ledger.put(decode_erasure(key, value))
        except WireError as error:
            log.error("bad_ledger_record", offset=record.offset(), reason=str(error))


def ledger_record(erasure: Erasure, topic: str) -> OutRecord:
    """An entry of the ledger as a record of its topic."""
    return OutRecord(topic, erasure.key, encode_erasure(erasure))
