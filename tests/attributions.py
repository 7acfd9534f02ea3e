"""The attribution flow as its own process, and what must lie in the log of learning."""

import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from features.codec import encode_interaction
from features.events import Interaction
from features.log import LogConfig, LogWriter, end_offsets
from infra import topics
from infra.embedded import ChildServer, free_port
from infra.stack import is_ready
from streams.open_slates import AttributionRules
from tests.slates import clean_outcomes, random_answer, slate, written_outcomes

COMMAND = [sys.executable, "-m", "infra.cli", "stream", "attribution"]
AGREED_S = 60.0


@dataclass
class AttributionSite:
    """Topics of one test, and the attribution process over them."""

    log: LogConfig
    prefix: str
    folder: Path
    horizon_s: float = 1.5
    epoch_s: float = 0.2

    def __post_init__(self) -> None:
        topics.ensure_topics({"bootstrap.servers": self.log.bootstrap}, topics.topics(self.prefix))
        self.writer = LogWriter(self.log)
        self._port = free_port()
        self.metrics_url = f"http://127.0.0.1:{self._port}/metrics"

    def topic(self, name: str) -> str:
        return self.prefix + name

    @property
    def group(self) -> str:
        return f"{self.prefix}attribution"

    @property
    def rules(self) -> AttributionRules:
        return AttributionRules(horizon_ms=round(self.horizon_s * 1e3))

    def environment(self) -> dict[str, str]:
        return {
            "HEADRACE_KAFKA__BOOTSTRAP": self.log.bootstrap,
            "HEADRACE_KAFKA__PREFIX": self.prefix,
            "HEADRACE_ATTRIBUTION__GROUP": self.group,
            "HEADRACE_ATTRIBUTION__HORIZON_S": str(self.horizon_s),
            "HEADRACE_ATTRIBUTION__EPOCH_S": str(self.epoch_s),
            "HEADRACE_METRICS__ATTRIBUTION_PORT": str(self._port),
        }

    def process(self) -> ChildServer:
        return ChildServer(
            "attribution",
            COMMAND,
            ready=lambda: is_ready(self.metrics_url),
            directory=self.folder,
            env=self.environment(),
            start_timeout_s=300,
            stop_grace_s=20,
        )

    def serve(self, user: str, impression: bytes) -> None:
        self.writer.append(self.topic("impressions"), user.encode(), impression)

    def answer(self, said: Interaction) -> None:
        key = said.user_id.encode()
        self.writer.append(self.topic("interactions"), key, encode_interaction(said))

    def send(self, rng: np.random.Generator, n: int, tag: str = "") -> None:
        """Slates of a few viewers; half of them answered, with or without naming the request."""
        for k in range(n):
            user, request = f"u{k % 7}", f"r{tag}{k}"
            items = [f"i{int(i)}" for i in rng.choice(9, 4, replace=False)]
            self.serve(user, slate(request, user, items))
            self.writer.flush()
            for j in range(int(rng.integers(0, 3))):
                said = random_answer(rng, f"e{tag}{k}-{j}", user, items[j])
                self.answer(replace(said, request_id=request if j else ""))
        self.writer.flush()

    def expected(self) -> Counter[str]:
        """What a clean run over the log as it is now says, once all horizons have ended."""
        both = self.topic("impressions"), self.topic("interactions")
        return clean_outcomes(self.log, *both, self.rules)

    def written(self) -> Counter[str]:
        return written_outcomes(self.log, self.topic("outcomes"))

    def n_written(self) -> int:
        return end_offsets(self.log, self.topic("outcomes"), [0])[0]

    def wait_until_written(self) -> None:
        """Returns when the log of learning is that of a clean run, each outcome once."""
        expected, deadline_s = self.expected(), time.monotonic() + AGREED_S
        while self.n_written() < expected.total() and time.monotonic() < deadline_s:
            time.sleep(0.1)
        written = self.written()
        missing, spare = (expected - written).elements(), (written - expected).elements()
        assert [*sorted(missing)[:5], "and instead", *sorted(spare)[:5]] == ["and instead"]
