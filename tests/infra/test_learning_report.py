"""Drifts reach the topic of versions, and a command says how well the online models do."""

import io
from dataclasses import dataclass, field

import pytest
from rich.console import Console

from features.learning_codec import decode_drift
from features.log import LogConfig, LogWriter, read_to_end
from features.outcomes import Drift
from infra.learning_report import read_report, show_report
from online_models.evaluation import Figures
from streams import metrics
from streams.learning_news import LearningNews
from streams.ops_views import OpsEventView, Seen
from tests.infra.test_models_cli import publisher_of
from tests.outcomes import LearningSite, batch_of, random_outcomes

RISE = Drift("label_rate", "arm:new", 700, 0.1, 0.3)
LATER = Drift("label_rate", "arm:new", 900, 0.3, 0.5)
LOSS = Drift("log_loss", "all", 800, 0.5, 0.7)


@dataclass
class Measured:
    """A part that has found what it is told."""

    events: list[Drift] = field(default_factory=list)
    figures_asked: int = 0

    def take_events(self) -> list[Drift]:
        events, self.events = self.events, []
        return events

    def figures(self) -> tuple[Figures, ...]:
        self.figures_asked += 1
        return (Figures("click_model", "all", 100, 0.2, 0.45, 0.7, 0.03),)


@pytest.fixture
def site(broker, redis_url, topic_prefix, tmp_path):
    return LearningSite(LogConfig(broker), redis_url, topic_prefix, tmp_path)


def test_drifts_are_published_each_once_and_figures_once_a_second(site):
    part, now_s = Measured([RISE, LOSS]), [10.0]
    writer = LogWriter(site.log)
    names = site.topic("models"), site.topic("ops-events")
    news = LearningNews(lambda _: part, writer, names[0], lambda: now_s[0], names[1])
    news({})
    news({})
    part.events.append(LATER)
    now_s[0] += 1.0
    news({})
    writer.flush()
    records = [
        (record.key(), decode_drift(record.value()))
        for record in read_to_end(site.log, site.topic("models"))
    ]
    assert records == [
        (b"drift/label_rate/arm:new", RISE),
        (b"drift/log_loss/all", LOSS),
        (b"drift/label_rate/arm:new", LATER),
    ]
    view = OpsEventView()
    for record in read_to_end(site.log, names[1]):
        view.take(Seen(0, record.offset(), record.timestamp()[1], record.key(), record.value()))
    told = [(drift["what"], drift["offset"]) for drift in view.drifts()["drifts"]]
    assert told == [(drift.what, drift.offset) for drift in (LATER, LOSS, RISE)]
    assert part.figures_asked == 2
    assert metrics.ONLINE_AUC.labels("click_model")._value.get() == 0.7


def test_the_report_is_that_of_the_newest_version_with_the_newest_drifts(site, rng):
    empty = read_report(site.settings())
    assert (empty.sequence, empty.drifts) == (0, ())
    outcomes = random_outcomes(rng, 150)
    publisher = publisher_of(site)
    publisher.take([batch_of(outcomes)])
    publisher.finish()
    writer = LogWriter(site.log)
    part = Measured([RISE, LOSS, LATER])
    LearningNews(lambda _: part, writer, site.topic("models"), lambda: 0.0)({})
    writer.flush()
    report = read_report(site.settings())
    assert report.sequence == 150
    assert report.drifts == (LOSS, LATER)
    assert report.clicks.learnt + report.clicks.left_alone == 150
    text = io.StringIO()
    show_report(report, Console(file=text, width=120), by_segment=True)
    assert "drift of label_rate in arm:new at offset 900: 0.3000 before, 0.5000 since" in (
        text.getvalue()
    )
    assert report.as_dict()["drifts"][0]["what"] == "log_loss"
