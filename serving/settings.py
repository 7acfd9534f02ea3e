"""Settings of the serving tier, apart from the server so that reading them loads no gRPC."""

import ipaddress
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ServingSettings(BaseModel):
    """The serving tier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="other than loopback needs TLS and keys")
    port: int = Field(50_051, ge=0, le=65_535, description="0: a free one, see headrace status")
    http_port: int | None = Field(
        None, ge=0, le=65_535, description="of the JSON door; 0: a free one; empty: no such door"
    )
    tls_cert: Path | None = Field(None, description="PEM file: certificate chain of the server")
    tls_key: Path | None = Field(None, description="PEM file: private key of the server")
    tls_client_ca: Path | None = Field(
        None, description="PEM file: clients must show a certificate signed by it"
    )
    transport: Literal["grpc", "lean"] = Field(
        "grpc", description="lean: HTTP/2 of our own, a quarter of the CPU a call takes before it"
    )
    keys_file: Path | None = Field(
        None, description="API keys, see `headrace keys`; empty: everybody may do everything"
    )
    health_open: bool | None = Field(
        None, description="health needs no key; empty: on loopback alone"
    )
    reflection: bool | None = Field(None, description="empty: on loopback alone")
    processes: int = Field(1, ge=1, le=64, description="servers on this machine, on one port")
    so_reuseport: bool = Field(False, description="several processes share the port")
    max_concurrent: int = Field(
        256, ge=1, le=10_000, description="calls at a time in a process; more are refused"
    )
    max_connections: int = Field(
        4_096, ge=1, le=100_000, description="to a process; more are not taken"
    )
    max_waiting: int = Field(
        512, ge=1, le=100_000, description="calls of a method that gRPC has not handed over yet"
    )
    delay_target_ms: float = Field(
        20.0, gt=0, le=1_000, description="calls waiting longer all the time get cheaper answers"
    )
    delay_limit_ms: float = Field(
        100.0, gt=0, le=10_000, description="where calls wait longer, new ones are refused"
    )
    max_request_bytes: int = Field(262_144, ge=1_024, le=4_194_304)
    connection_idle_s: int = Field(300, ge=1, description="a connection without calls is closed")
    connection_age_s: int = Field(1_800, ge=1, description="a connection is renewed, for balance")
    slow_call_ms: float = Field(500.0, gt=0, description="a call that takes longer is logged")
    stream_idle_s: float = Field(30.0, gt=0, le=3_600, description="longest pause of a stream")
    drain_notice_s: float = Field(0.0, ge=0, le=60, description="from NOT_SERVING to refusing")
    drain_grace_s: float = Field(5.0, ge=0, le=300, description="for calls that run at the end")
    default_wait_ms: int = Field(100, ge=1, le=1_000, description="where a request names none")
    page_key_file: Path | None = Field(
        None, description="secret that signs page tokens, the same in all servers; empty: unsigned"
    )
    page_age_s: int = Field(3_600, ge=1, le=86_400, description="a page token is good for so long")
    answers_kept_s: float = Field(
        300.0, ge=0, le=3_600, description="a repeated request_id gets the same answer for so long"
    )
    answers_shared: bool = Field(
        False, description="and in Redis, for several servers; needs the right to SET there"
    )
    answers_kept: int = Field(10_000, ge=1, le=1_000_000, description="of them, in a process")
    answers_kept_mib: int = Field(64, ge=1, le=4_096, description="of them, in a process")
    redis_timeout_ms: int = Field(30, ge=1, le=1_000, description="then without the viewer's row")
    track_timeout_ms: int = Field(2_000, ge=10, le=30_000, description="for the log to acknowledge")
    track_max_in_flight: int = Field(2_000, ge=1, le=50_000, description="events; more are refused")
    policy: Literal[
        "thompson", "linear_thompson", "linucb", "epsilon_greedy", "ucb1", "static", "uniform"
    ] = Field("thompson", description="gives the slots that explore to arms")
    exploration_share: float = Field(0.2, ge=0, le=1, description="of the slots, that explore")
    cache_ttl_s: float = Field(
        5.0, ge=0, le=3_600, description="a slate is given again while nothing happens; 0: never"
    )
    cache_max_slates: int = Field(20_000, ge=1, description="in the cache")
    cache_max_mib: int = Field(128, ge=1, le=65_536, description="that they take")
    rewatch_after_days: float | None = Field(
        None, ge=0, le=3_650, description="then what was watched may be shown again; empty: never"
    )
    shows_unknown_ages: bool = Field(
        False, description="titles of unknown age under a parental ceiling"
    )
    exploration_share_new: float = Field(
        0.35, ge=0, le=1, description="of the slots, for viewers whose stage of life is new"
    )
    diversity: float = Field(
        0.05, ge=0, le=1, description="weight of likeness within a slate against the score"
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
        if not self.is_loopback and (self.tls_cert is None or self.keys_file is None):
            raise ValueError(
                "host must be a loopback address without tls_cert, tls_key and keys_file; "
                f"got {self.host!r}: others can reach it, so name a certificate, its key, and a "
                "file that `headrace keys create` makes"
            )
        if self.delay_limit_ms <= self.delay_target_ms:
            raise ValueError(
                f"delay_limit_ms must be above delay_target_ms, {self.delay_target_ms:g}; "
                f"got {self.delay_limit_ms:g}"
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
    def is_health_open(self) -> bool:
        """Whether health is told to whoever asks."""
        return self.is_loopback if self.health_open is None else self.health_open

    @property
    def has_reflection(self) -> bool:
        """Whether the server tells its services to whoever asks."""
        return self.is_loopback if self.reflection is None else self.reflection
