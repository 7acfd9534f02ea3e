"""Settings of the serving tier, apart from the server so that reading them loads no gRPC."""

import ipaddress
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ServingSettings(BaseModel):
    """The serving tier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="other than loopback needs TLS")
    port: int = Field(50_051, ge=0, le=65_535, description="0: a free one, see headrace status")
    tls_cert: Path | None = Field(None, description="PEM file: certificate chain of the server")
    tls_key: Path | None = Field(None, description="PEM file: private key of the server")
    tls_client_ca: Path | None = Field(
        None, description="PEM file: clients must show a certificate signed by it"
    )
    reflection: bool | None = Field(None, description="empty: on loopback alone")
    so_reuseport: bool = Field(False, description="several processes share the port")
    max_concurrent: int = Field(256, ge=1, le=10_000, description="calls; more are refused")
    max_request_bytes: int = Field(262_144, ge=1_024, le=4_194_304)
    connection_idle_s: int = Field(300, ge=1, description="a connection without calls is closed")
    connection_age_s: int = Field(1_800, ge=1, description="a connection is renewed, for balance")
    stream_idle_s: float = Field(30.0, gt=0, le=3_600, description="longest pause of a stream")
    drain_notice_s: float = Field(0.0, ge=0, le=60, description="from NOT_SERVING to refusing")
    drain_grace_s: float = Field(5.0, ge=0, le=300, description="for calls that run at the end")
    default_wait_ms: int = Field(100, ge=1, le=1_000, description="where a request names none")
    redis_timeout_ms: int = Field(30, ge=1, le=1_000, description="then without the viewer's row")
    track_timeout_ms: int = Field(2_000, ge=10, le=30_000, description="for the log to acknowledge")
    track_max_in_flight: int = Field(2_000, ge=1, le=50_000, description="events; more are refused")
    policy: Literal[
        "thompson", "linear_thompson", "linucb", "epsilon_greedy", "ucb1", "static", "uniform"
    ] = Field("thompson", description="gives the slots that explore to arms")
    exploration_share: float = Field(0.2, ge=0, le=1, description="of the slots, that explore")
    exploration_share_new: float = Field(
        0.35, ge=0, le=1, description="of the slots, for viewers whose stage of life is new"
    )
    diversity: float = Field(
        0.15, ge=0, le=1, description="weight of likeness within a slate against the score"
    )
    genre_cap: float = Field(
        0.7, gt=0, le=1, description="of a slate, that one genre may take; 1: all of it"
    )
    popularity_damping: float = Field(
        0.0,
        ge=0,
        le=10,
        description="off the most popular title, in deviations of the score",
    )
    coverage_boost: float = Field(
        0.05, ge=0, le=10, description="given to titles not shown today, in deviations of the score"
    )
    clock: Literal["wall", "stream"] = Field("wall", description="stream: the time of the events")

    @model_validator(mode="after")
    def _is_safe_to_open(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key must be given together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        if self.tls_cert is None and not self.is_loopback:
            raise ValueError(
                f"host must be a loopback address without tls_cert and tls_key; got {self.host!r}"
            )
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether nobody but this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def address(self) -> str:
        """What to listen on, as gRPC writes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def has_reflection(self) -> bool:
        """Whether the server tells its services to whoever asks."""
        return self.is_loopback if self.reflection is None else self.reflection
