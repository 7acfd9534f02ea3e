"""Every setting of Headrace, read from the environment here and nowhere else.

`HEADRACE_KAFKA__BOOTSTRAP=10.0.0.5:9092` sets `settings.kafka.bootstrap`; a section's fields stand
behind two underscores. `headrace settings` prints what is in force.
"""

import json
import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from features.log import LogConfig
from features.redis_config import RedisConfig
from infra.ops.thresholds import AlertSettings
from online_models.reward_table import RewardTable
from serving.settings import ServingSettings

SECRET = re.compile("password|secret|token|jaas|key.pem|keytab", re.IGNORECASE)


class Section(BaseModel):
    """Settings that belong together; a name that is none of them is refused."""

    model_config = ConfigDict(extra="forbid")


class KafkaSettings(Section):
    """The log. Without `bootstrap` an embedded broker is started where one is needed."""

    bootstrap: str = Field("", description="host:port,... of the brokers; empty: embedded")
    prefix: str = Field("", pattern=r"^[a-zA-Z0-9._-]*$", description="in front of topic names")
    partitions: int = Field(4, ge=1, le=16, description="of topics keyed by user, at creation")
    options: dict[str, str] = Field(
        default_factory=dict, description="librdkafka properties as JSON: SASL, TLS"
    )

    def log_config(self) -> LogConfig:
        """How to reach the log."""
        return LogConfig(self.bootstrap, self.options)


class RedisSettings(Section):
    """The store of rows. Without `url` an embedded Redis is started where one is needed."""

    url: str = Field("", description="redis:// or rediss:// URL; empty: embedded")
    prefix: str = Field("headrace", pattern=r"^[a-zA-Z0-9._-]+$", description="in front of keys")
    options: dict[str, Any] = Field(default_factory=dict, description="redis-py options as JSON")
    may_lose_s: float = Field(
        0.0, ge=0, le=30, description="seconds of writes it may lose in a crash; 2 for everysec"
    )

    def config(self) -> RedisConfig:
        """How to reach Redis."""
        return RedisConfig(self.url, self.prefix, options=self.options)


class ApacheSettings(Section):
    """The servers of `headrace up --kafka apache`, whose data stays; see docs/running.md."""

    enabled: bool = Field(False, description="whether `headrace up` runs Apache Kafka")
    port: int = Field(0, ge=0, le=65_534, description="0: a free one, kept; the next one, too")
    redis_port: int = Field(0, ge=0, le=65_535, description="0: a free one, kept")
    heap_mib: int = Field(512, ge=256, le=65_536, description="memory of Java objects, at most")
    flush_every: int = Field(
        1, ge=0, description="records of a partition between syncs to disk; 0: as the system likes"
    )


class StreamSettings(Section):
    """The features flow."""

    group: str = Field("headrace-features", description="consumer group that commits offsets")
    workers: int = Field(1, ge=1, le=16, description="processes; at most one a partition")
    user_rows: int = Field(262_144, ge=1_024, description="rows of users in memory, a worker")
    item_rows: int = Field(131_072, ge=1_024, description="rows of titles in memory, a worker")
    covisitation_rows: int = Field(
        262_144, ge=1_024, description="rows of titles' neighbours in memory, a worker"
    )
    segment_rows: int = Field(
        65_536, ge=1_024, description="rows of regions by hour in memory, a worker"
    )
    epoch_s: float = Field(1.0, ge=0.1, le=60, description="seconds between offset commits")
    clock: Literal["wall", "stream"] = Field("wall", description="stream: the time of the events")


class ArchiveSettings(Section):
    """The archive flow: the log as Parquet files."""

    enabled: bool = Field(False, description="whether `headrace up` runs it")
    folder: Path | None = Field(None, description="of the lake; empty: `lake` in the home")
    group: str = Field("headrace-archive", description="consumer group, for tools that watch lag")
    flush_s: float = Field(60.0, ge=0.1, le=3_600, description="a record waits this long at most")
    rows_per_file: int = Field(100_000, ge=100, le=2_000_000, description="records at most")
    accept_gap: bool = Field(False, description="go on where the log lost records unarchived")


class LearningSettings(Section):
    """The learning flow: outcomes to versions of learned state."""

    group: str = Field("headrace-learning", description="consumer group, for tools that watch lag")
    publish_every_s: float = Field(
        0.25, gt=0, le=1, description="seconds between versions at least"
    )
    keep_every_s: float = Field(60.0, ge=1, le=86_400, description="between versions to go back to")
    accept_gap: bool = Field(False, description="go on where the log lost outcomes unlearnt")
    with_attribution: bool = Field(
        True,
        description="attribution in this process; else `stream attribution` does it",
    )


class RewardSettings(Section):
    """What each answer is worth; a partial watch earns its share of `complete`."""

    complete: float = Field(1.0, ge=-1, le=1)
    like: float = Field(0.8, ge=-1, le=1)
    dislike: float = Field(-1.0, ge=-1, le=1)
    skip: float = Field(-0.5, ge=-1, le=1, description="where nothing else was done")
    share: float = Field(0.6, ge=-1, le=1)
    add: float = Field(0.5, ge=-1, le=1)
    play: float = Field(0.1, ge=-1, le=1)
    click: float = Field(0.1, ge=-1, le=1)
    search: float = Field(0.1, ge=-1, le=1)

    def table(self) -> RewardTable:
        """The same, for those who compute with it."""
        return RewardTable(**self.model_dump())


class AttributionSettings(Section):
    """Slates and answers to outcomes."""

    group: str = Field("headrace-attribution", description="consumer group that commits offsets")
    horizon_s: float = Field(
        600.0, ge=0.1, le=86_400, description="a slot not answered for so long is unanswered"
    )
    max_open_slates: int = Field(
        16_384, ge=16, description="of a partition in memory, 12 KB each; kept for two horizons"
    )
    epoch_s: float = Field(1.0, ge=0.1, le=60, description="seconds between offset commits")
    rewards: RewardSettings = RewardSettings()


class OpsSettings(Section):
    """The console of those on call."""

    host: str = Field("127.0.0.1", description="where the page is served; it asks for no key")
    port: int = Field(9470, ge=0, le=65_535, description="0: a free one")
    allowed_hosts: str = Field("", description="names beside loopback's by which it is called: a,b")
    targets: str = Field(
        "", description="name=http://host:port/metrics,...; empty: the stack that runs here"
    )
    agents: str = Field("", description="URL of the agents' views; empty: of the stack, if any")
    every_s: float = Field(2.0, ge=0.5, le=60, description="seconds between looks")
    probe_every_s: float = Field(5.0, ge=0.5, le=3_600, description="seconds between probe events")
    max_streams: int = Field(16, ge=1, le=256, description="pages that are sent what is new")
    runbooks: Path | None = Field(None, description="folder of runbooks; empty: docs/runbooks")


class AgentsSettings(Section):
    """The Faust agents: views of what happened, for those on call."""

    enabled: bool = Field(False, description="whether `headrace up` runs them: 170 MB")
    port: int = Field(0, ge=0, le=65_535, description="of the views, on loopback; 0: a free one")
    exposure_days: int = Field(2, ge=1, le=13, description="days of exposures, today included")
    max_replay: int = Field(
        50_000, ge=1_000, le=100_000_000, description="impressions read again at a start"
    )
    stall_s: float = Field(
        30.0, ge=1, le=3_600, description="a partition behind that does not move for so long"
    )


class TracingSettings(Section):
    """OpenTelemetry spans. Off without `endpoint`: nothing of it is imported then."""

    endpoint: str = Field(
        "",
        pattern=r"^(|console|file:.+|https?://.+)$",
        description="OTLP over HTTP; `console` or file:PATH: lines of JSON; empty: off",
    )
    sample_ratio: float = Field(
        0.1, ge=0, le=1, description="of traces that begin here; clients' own traces as they say"
    )
    max_queue: int = Field(2_048, ge=16, le=65_536, description="spans that wait; more are dropped")


class MetricsSettings(Section):
    """The Prometheus endpoints, one for each process."""

    enabled: bool = Field(
        True, description="false: nothing is counted but readiness, to see what metrics cost"
    )
    host: str = "127.0.0.1"
    serve_port: int = Field(0, ge=0, le=65_535, description="0: a free one, see headrace status")
    features_port: int = Field(0, ge=0, le=65_535, description="0: a free one")
    archive_port: int = Field(0, ge=0, le=65_535, description="0: a free one")
    learning_port: int = Field(0, ge=0, le=65_535, description="0: a free one")
    attribution_port: int = Field(0, ge=0, le=65_535, description="0: a free one")
    agents_port: int = Field(0, ge=0, le=65_535, description="0: a free one")


class Settings(BaseSettings):
    """All sections."""

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_", env_nested_delimiter="__", extra="forbid"
    )

    kafka: KafkaSettings = KafkaSettings()
    redis: RedisSettings = RedisSettings()
    apache: ApacheSettings = ApacheSettings()
    stream: StreamSettings = StreamSettings()
    serving: ServingSettings = ServingSettings()
    archive: ArchiveSettings = ArchiveSettings()
    learning: LearningSettings = LearningSettings()
    attribution: AttributionSettings = AttributionSettings()
    agents: AgentsSettings = AgentsSettings()
    metrics: MetricsSettings = MetricsSettings()
    ops: OpsSettings = OpsSettings()
    alerts: AlertSettings = AlertSettings()
    kafka_home: Path | None = Field(
        None, description="folder of an Apache Kafka; empty: what `headrace kafka install` fetched"
    )
    tracing: TracingSettings = TracingSettings()
    data: Path | None = Field(None, description="folder of datasets; empty: found by itself")
    home: Path = Field(Path(".headrace"), description="bundles, logs and state of this machine")

    @model_validator(mode="after")
    def _epochs_outlast_what_redis_may_lose(self) -> Self:
        """An offset is committed an epoch after its rows were written: they must be on disk."""
        if self.stream.epoch_s <= self.redis.may_lose_s:
            raise ValueError(
                f"stream.epoch_s must be more than redis.may_lose_s, {self.redis.may_lose_s:g}; "
                f"got {self.stream.epoch_s:g}"
            )
        return self

    def lake(self) -> Path:
        """The folder of the lake."""
        return self.archive.folder or self.home / "lake"

    def bundles(self) -> Path:
        """The folder of the bundles of this machine."""
        return self.home / "bundles"

    def environment(self) -> dict[str, str]:
        """The variables from which a child process reads these very settings."""
        found = {}
        for name, value in self.model_dump(mode="json").items():
            fields = value.items() if isinstance(value, dict) else [("", value)]
            for field, setting in fields:
                if setting is not None:
                    variable = "__".join(filter(None, (name, field))).upper()
                    text = setting if isinstance(setting, str) else json.dumps(setting)
                    found[f"HEADRACE_{variable}"] = text
        return found

    def printable(self) -> dict[str, Any]:
        """All of it, without what must stay secret."""
        found: dict[str, Any] = self.model_dump(mode="json")
        found["redis"]["url"] = re.sub(r"(//[^:@/]*:)[^@]+@", r"\1***@", self.redis.url)
        for section in ("kafka", "redis"):
            options = found[section]["options"]
            found[section]["options"] = {
                name: "***" if SECRET.search(name) else value for name, value in options.items()
            }
        return found
