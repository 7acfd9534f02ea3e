"""From where on those on call are told: the numbers of the alerts, as settings.

Prometheus' rules and the console's own evaluation are both made from them.
"""

from pydantic import BaseModel, ConfigDict, Field


class AlertSettings(BaseModel):
    """Thresholds of the alerts; seconds, records, or shares of one."""

    model_config = ConfigDict(extra="forbid")

    runbooks: str = Field("docs/runbooks", description="where runbooks are: a folder or a URL")
    lag_warn: int = Field(1_000, ge=1, description="records of one partition not applied")
    lag_page: int = Field(10_000, ge=1, description="the same; somebody is woken")
    freshness_s: float = Field(0.1, gt=0, description="p99 from the log to readable rows")
    dead_letters: int = Field(5, ge=0, description="refused records in half a minute")
    dead_letter_share: float = Field(0.001, ge=0, le=1, description="of all records, besides")
    serving_p95_s: float = Field(0.2, gt=0, description="p95 of Recommend")
    serving_errors: float = Field(0.01, ge=0, le=1, description="share of calls that failed")
    refused: float = Field(0.01, ge=0, le=1, description="share of calls refused for load")
    cache_misses: float = Field(0.5, ge=0, le=1, description="share of rows read from Redis")
    arm_share: float = Field(0.7, ge=0, le=1, description="of one arm in the slots served")
    diversity_baseline: float = Field(0.5, ge=0, le=1, description="mean diversity when well")
    diversity_share: float = Field(0.8, ge=0, le=1, description="of the baseline, at least")
    model_age_s: float = Field(60.0, gt=0, description="learned state in use behind the newest")
    bundle_age_s: float = Field(2_592_000.0, gt=0, description="since the bundle was made")
    redis_memory: float = Field(0.85, gt=0, le=1, description="share of Redis' memory in use")
    source_age_s: float = Field(10.0, gt=0, description="since a source was last heard from")
