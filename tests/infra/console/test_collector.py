"""The collector with everything away: it goes on, says so, and the rest stays fresh."""

import json
import socket

import pytest

from infra.console.collector import Collector
from infra.settings import Settings
from tests.flows import wait_until
from tests.infra.console.endpoints import answering

FRESH_S = 4.0  # a look each half second; far from the time-outs of what hangs


@pytest.fixture
def silence():
    """A port that takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield listening.getsockname()[1]


def test_what_hangs_is_told_and_holds_nothing_up(silence, tmp_path):
    with answering() as url:
        settings = Settings(
            kafka={"bootstrap": f"127.0.0.1:{silence}"},
            redis={"url": f"redis://127.0.0.1:{silence}/0"},
            ops={
                "every_s": 0.5,
                "targets": f"features={url},serve=http://127.0.0.1:{silence}/metrics",
            },
            home=tmp_path,
        )
        collector = Collector(settings).start()
        try:
            wait_until(lambda: "HeadraceBrokerDown" in firing(collector), 30)
            wait_until(
                lambda: firing(collector) >= {"HeadraceRedisDown", "HeadraceProcessDown"}, 30
            )
            began = collector.snapshot[0]
            wait_until(lambda: collector.snapshot[0] > began + 3, 20)
            found = snapshot_of(collector)
            processes = {one["name"]: one for one in found["panels"]["processes"]["rows"]}
            assert processes["features"]["is_up"]
            assert processes["features"]["age_s"] < FRESH_S
            assert (processes["serve"]["is_up"], processes["serve"]["age_s"]) == (False, None)
            assert processes["serve"]["error"]
            assert found["panels"]["processes"]["missing"] == ["learning"]
            broker = found["panels"]["dependencies"]["broker"]
            assert not broker["is_up"]
            assert broker["error"]
            assert found["panels"]["lag"]["is_stale"]
            assert found["headline"]["sentence"].startswith("The broker does not answer")
        finally:
            collector.close()


def snapshot_of(collector):
    return json.loads(collector.snapshot[1])


def firing(collector):
    alerts = snapshot_of(collector).get("alerts", [])
    return {one["name"] for one in alerts if one["state"] == "firing"}
