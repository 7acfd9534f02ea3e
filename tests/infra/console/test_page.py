"""The page in a real Chromium, over a real broker, Redis, features process and console.

One site for all tests, which follow each other: each leaves it well.
"""

import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import redis
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from features.codec import encode_interaction
from features.events import Interaction
from features.ids import viewer_hash
from features.log import LogConfig, end_offsets, read_to_end
from features.redis_config import RedisConfig
from features.store import USERS
from features.vocabulary import EventType
from infra.embedded import ChildServer, EmbeddedRedis, free_port
from tests.flows import FeaturesSite, wait_until
from tests.infra.console.browser import DESKTOP, PHONE, chromium, look_like, why_not_here
from tests.infra.console.endpoints import answering

pytestmark = pytest.mark.slow

N_WAITING = 3_000
DETECTED_S = 15.0
FOCUSED = """const e = document.activeElement;
return e.tagName + ' ' + (e.getAttribute('href') || '')"""
HOSTILE = b'<script>window.taken = 1</script><img src=x onerror="window.taken = 2">'


class Page:
    """The console's page as somebody sees it."""

    def __init__(self, driver, url: str) -> None:
        self.driver = driver
        self.url = url

    def text(self, selector: str) -> str:
        return str(self.run("const e = document.querySelector(arguments[0]);"
                            "return e === null ? '' : e.innerText", selector))  # fmt: skip

    def run(self, script: str, *arguments: object) -> object:
        return self.driver.execute_script(script, *arguments)

    @property
    def state(self) -> str:
        return str(self.run("return document.getElementById('headline').dataset.state"))

    def lag(self) -> int:
        return int(str(self.run("return document.getElementById('lag-total').dataset.lag")))

    def snapshot(self) -> dict:
        return dict(json.loads(asked(f"{self.url}api/snapshot")))

    def wait_for(self, state: str, timeout_s: float = 60.0) -> float:
        """Seconds until the headline is in a state."""
        began_s = time.monotonic()
        wait_until(lambda: self.state == state, timeout_s)
        return time.monotonic() - began_s


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory):
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def site(embedded_broker, own_redis, tmp_path_factory):
    if reason := why_not_here():
        pytest.skip(reason)
    prefix = f"console{os.getpid()}-"
    return FeaturesSite(
        LogConfig(embedded_broker.bootstrap),
        RedisConfig(own_redis.url, prefix.rstrip("-")),
        prefix,
        tmp_path_factory.mktemp("site"),
    )


@pytest.fixture(scope="module")
def features(site):
    with site.running() as process:
        yield process


@pytest.fixture(scope="module")
def console(site, features):
    assert features.is_alive()
    with answering() as url:
        port = free_port()
        targets = {"features": site.metrics_url, "learning": url, "serve": url}
        env = {
            **site.environment(),
            "HEADRACE_LEARNING__GROUP": f"{site.prefix}learning",
            "HEADRACE_ATTRIBUTION__GROUP": f"{site.prefix}attribution",
            "HEADRACE_OPS__PORT": str(port),
            "HEADRACE_OPS__EVERY_S": "1",
            "HEADRACE_OPS__PROBE_EVERY_S": "0.5",
            "HEADRACE_OPS__MAX_STREAMS": "1",
            "HEADRACE_OPS__TARGETS": ",".join(f"{name}={at}" for name, at in targets.items()),
        }
        with ChildServer(
            "console",
            [sys.executable, "-m", "infra.cli", "ops", "--probe"],
            ready=lambda: answers(f"http://127.0.0.1:{port}/healthz"),
            directory=site.folder,
            env=env,
            start_timeout_s=120,
        ) as process:
            process.url = f"http://127.0.0.1:{port}/"
            yield process


def asked(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 (loopback)
        return str(answer.read().decode())


def answers(url: str) -> bool:
    try:
        return asked(url) == "ok"
    except OSError:
        return False


@pytest.fixture(scope="module")
def page(console):
    with chromium() as driver:
        driver.get(console.url)
        yield Page(driver, console.url)


def independent_lag(site) -> int:
    """Records that the group has not committed, counted by a consumer of our own."""
    topic = site.topic("interactions")
    ends = end_offsets(site.log, topic, range(4))
    return sum(ends.values()) - sum(site.committed().values())


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that neither ends nor answers."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_well_stack_is_green_and_the_page_moves_by_itself(page):
    page.wait_for("ok")
    assert "well" in page.text("#headline")
    first = page.text("#connection")
    assert "live" in first
    before = page.snapshot()["sequence"]
    wait_until(lambda: page.snapshot()["sequence"] > before)
    assert page.run("return [...document.querySelectorAll('main > section')].map((e) => e.id)") == [
        *page.snapshot()["panels"]
    ]
    assert "cannot be shown" not in page.text("main")


def test_freshness_on_the_page_is_what_an_independent_reader_of_redis_measures(site, page):
    """Compared: append time in the log to the row read here, and the page's stage `servable`."""
    seen_ms = {}
    with redis.Redis.from_url(site.redis.url) as client:
        for number in range(40):
            who = f"fresh{number}"
            key = site.redis.key_head(USERS) + b"%016x" % viewer_hash(who, "")
            site.send([Interaction(f"fresh-e{number}", who, "i1", EventType.CLICK)])
            until_s = time.monotonic() + 20
            while not client.exists(key):
                assert time.monotonic() < until_s
            seen_ms[who] = time.time() * 1_000
    took_s = [
        (seen_ms[who] - record.timestamp()[1]) / 1_000
        for record in read_to_end(site.log, site.topic("interactions"))
        if (who := (record.key() or b"").decode()) in seen_ms
    ]
    assert len(took_s) == 40
    measured_s = float(np.median(took_s))
    before = page.snapshot()["sequence"]
    wait_until(lambda: page.snapshot()["sequence"] > before + 2)
    shown_s = page.snapshot()["panels"]["freshness"]["stages"]["servable"]["p50"]
    assert shown_s == pytest.approx(measured_s, rel=0.05, abs=0.010)
    probe_s = float(str(page.run("return document.getElementById('probe-p50').dataset.s")))
    assert 0 < probe_s < 10


def test_lag_on_the_page_is_what_an_independent_consumer_counts(site, features, page):
    with stopped(features.pid):
        for number in range(N_WAITING):
            who = f"v{number % 50}"
            event = Interaction(f"lag-e{number}", who, "i1", EventType.PLAY)
            site.writer.append(
                site.topic("interactions"), who.encode(), encode_interaction(event),
                partition=number % 4 if number % 4 < 3 else 2,
            )  # fmt: skip
        site.writer.flush()
        counted = independent_lag(site)
        assert counted >= N_WAITING
        wait_until(lambda: abs(page.lag() - counted) <= max(0.05 * counted, 10), 20)
        page.wait_for("page", DETECTED_S)
        assert "features" in page.text("#headline")
        assert "headrace " in page.text("#headline code")
    page.wait_for("ok")
    wait_until(lambda: page.lag() < 10)


def test_a_hostile_dead_letter_is_text_and_stays_open_while_the_page_moves(site, page):
    site.writer.append(site.topic("interactions"), HOSTILE, HOSTILE)
    site.writer.flush()
    wait_until(lambda: page.text("#dead_letters details") != "")
    wait_until(lambda: page.text("#dead-letters-total") == "1")
    page.run("document.querySelector('#dead_letters details summary').click()")
    shown = page.text("#dead_letters details")
    assert HOSTILE.decode() in shown
    assert "3c 73 63 72 69 70 74" in shown
    before = page.snapshot()["sequence"]
    wait_until(lambda: page.snapshot()["sequence"] > before + 1)
    assert page.run("return document.querySelector('#dead_letters details').open")
    assert page.run("return window.taken === undefined")
    assert page.run("return document.querySelectorAll('main img, main script').length") == 0
    assert page.driver.get_log("browser") == []


def test_the_keyboard_reaches_everything_and_the_focus_stays_where_it_is(page):
    page.run("document.activeElement.blur(); window.scrollTo(0, 0)")
    body = page.driver.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.TAB)
    assert "Skip" in page.driver.switch_to.active_element.text
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert page.run("return document.activeElement.id") == "main"
    page.driver.get(page.url)
    page.wait_for("ok")
    walked = []
    for _ in range(60):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        walked.append(page.run(FOCUSED))
        if walked[-1] == "A /api/snapshot":
            break
    places = [walked.index(f"A #{name}") for name in ("lag", "serving", "history")]
    assert "SUMMARY " in walked[max(places) : walked.index("A /api/snapshot")]
    summary = page.driver.find_element(By.CSS_SELECTOR, "#dead_letters summary")
    page.run("arguments[0].focus()", summary)
    summary.send_keys(Keys.ENTER)
    before = page.snapshot()["sequence"]
    wait_until(lambda: page.snapshot()["sequence"] > before + 1)
    assert page.run("return document.activeElement === arguments[0]", summary)
    assert page.run("return document.querySelector('#dead_letters details').open")
    assert page.run("return document.querySelectorAll('[role=status][aria-live]').length") == 1


def test_a_phone_shows_it_without_scrolling_sideways(page):
    look_like(page.driver, PHONE, is_dark=True)
    width, window = page.run("return [document.documentElement.scrollWidth, innerWidth]")
    assert (window, width <= window) == (360, True)
    dark = page.run("return getComputedStyle(document.body).backgroundColor")
    look_like(page.driver, DESKTOP, is_dark=False)
    assert dark != page.run("return getComputedStyle(document.body).backgroundColor")


def test_more_pages_than_may_listen_ask_instead(page):
    wait_until(lambda: page.text("#connection").startswith("live"))
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    page.driver.get(page.url)
    wait_until(lambda: page.text("#connection").startswith("polling"))
    assert page.state == "ok"
    page.driver.close()
    page.driver.switch_to.window(first)


def test_a_lost_connection_is_told_and_comes_back(page, console):
    with stopped(console.pid):
        wait_until(lambda: "No news from the console" in page.text("#lost"), 30)
        assert "lost" in page.text("#connection")
    wait_until(lambda: page.text("#lost") == "", 30)


def test_redis_away_is_told_with_its_command_and_the_page_goes_green_after_it(own_redis, page):
    own_redis.stop()
    took_s = page.wait_for("page", DETECTED_S)
    assert took_s <= DETECTED_S
    wait_until(lambda: "Redis does not answer" in page.text("#sentence"), DETECTED_S)
    assert "headrace doctor" in page.text("#headline code")
    assert "every viewer" in page.text("#headline")
    assert page.run("return document.querySelector('#headline a').pathname") == (
        "/runbooks/redis-down"
    )
    assert "down for" in page.text("#dependencies")
    own_redis.start()
    page.wait_for("ok")


def test_a_console_that_starts_again_still_knows_what_happened(site, page, console):
    told = page.snapshot()["panels"]["history"]["alerts"]
    assert {"HeadraceRedisDown"} <= {alert["name"] for alert in told}
    console.restart()

    def known():
        panels = page.snapshot().get("panels")  # the first snapshot has looked at nothing yet
        alerts = panels["history"]["alerts"] if panels else []
        return {(one["name"], one["state"], one["at_ms"]) for one in alerts}

    expected = {(one["name"], one["state"], one["at_ms"]) for one in told}
    wait_until(lambda: expected <= known(), 30)
    page.wait_for("ok")
    events = [
        json.loads(record.value()) for record in read_to_end(site.log, site.topic("ops-events"))
    ]
    assert {event["kind"] for event in events} == {"alert", "deployment"}
    assert len(events) == len({json.dumps(event, sort_keys=True) for event in events})


def test_the_exporter_tells_the_same_lag(site, page):
    text = asked(f"{page.url}metrics")
    assert 'headrace_ops_up{process="features"} 1.0' in text
    wait_until(lambda: "headrace_ops_probe_freshness_seconds " in asked(f"{page.url}metrics"), 30)
    name = f'headrace_ops_lag{{flow="features",partition="0",topic="{site.topic("interactions")}"}}'
    assert name in text
