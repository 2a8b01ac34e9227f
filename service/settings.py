"""The server's settings, read once from `CONVSCOPE_*` environment variables."""

import os
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from export.artifact.formats import EngineName, PrecisionName
from export.engines.cuda import Device
from models.cores import available_cores
from models.errors import UserError

PREFIX = "CONVSCOPE_"
_READ_ELSEWHERE = {"CONVSCOPE_DATA_DIR", "CONVSCOPE_DEBUG", "CONVSCOPE_STATE_DIR"}


class SettingsError(UserError):
    """A setting that is unknown or out of range; the message names its environment variable."""


class Limit(NamedTuple):
    """A limit and the setting that defines it, for error messages; some are not configurable."""

    value: int
    setting: str = ""

    def __str__(self) -> str:
        return f"{self.value} ({self.setting})" if self.setting else str(self.value)


class Settings(BaseSettings):
    """The operator's settings. Sizes are bytes, pixels or images; times are seconds."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    artifacts: Path = Field(Path("artifacts"), description="folder of artifacts, one artifact, or bentoml:NAME:VERSION")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(3000, ge=1, le=65535, description="port to listen on")
    engine: EngineName = Field("auto", description="auto, onnxruntime, openvino or torchscript")
    precision: PrecisionName = Field("auto", description="auto, fp32, fp16, bf16 or int8; artifacts need a file of it")
    device: Device = Field("auto", description="auto, cpu or cuda; auto takes CUDA when it works")
    workers: int = Field(1, ge=1, le=256, description="server processes")
    threads: int = Field(
        0, ge=0, le=1024, description="threads of one inference; 0 divides the cores among the workers"
    )
    watch_s: float = Field(
        5.0, ge=0, le=86400, description="interval of scans of the artifacts directory for new versions; 0 for never"
    )
    memory_limit_mb: int = Field(
        0, ge=0, description="memory of a worker in 10**6 bytes, which models share in turns; 0 keeps all loaded"
    )
    allow_loading: bool = Field(False, description="lets clients load and unload models through /v2/repository")
    drain_s: float = Field(1.0, ge=0, le=600, description="how long a server still answers, unready, after SIGTERM")
    keep_alive_s: float = Field(
        75.0, gt=0, le=86400, description="how long a connection stays open without a request; above a load balancer's"
    )
    max_batch_size: int = Field(
        0, ge=0, le=4096, description="maximum batch size; 0 for up to 16 images in 0.5 s, or 64 (GPU: 256) in 0.15 s"
    )
    batch_wait_ms: float = Field(
        0.0, ge=0, le=10_000, description="how long a batch that is not full waits for more images"
    )
    queue_size: int = Field(1024, ge=1, description="maximum images waiting for one model; more are answered 429")
    deadline_s: float = Field(30.0, gt=0, le=3600, description="a request not answered by then gets 504")
    concurrency: int = Field(2048, ge=1, description="maximum concurrent requests in a worker; more are answered 429")
    body_limit_bytes: int = Field(64 * 2**20, ge=1024, description="largest request body")
    json_limit_bytes: int = Field(
        4 * 2**20, ge=1024, description="largest JSON; parsing 4 MiB takes about 0.1 s and blocks other requests"
    )
    json_depth_limit: int = Field(8, ge=4, le=64, description="maximum nesting of arrays in JSON; images are 4 deep")
    held_limit_bytes: int = Field(
        512 * 2**20, ge=1024, description="maximum bytes of request bodies held in a worker; more get 429"
    )
    image_limit_pixels: int = Field(50_000_000, ge=1, description="largest image, of the pixels that are decoded")
    images_per_request: int = Field(256, ge=1, description="maximum images in one multipart request")
    top_k_limit: int = Field(100, ge=5, description="maximum predictions for one image")
    inspection_limit_values: int = Field(
        20_000_000, ge=1, description="maximum feature-map values in one answer; ResNet-18 at 224x224 has 8.2 million"
    )
    inspection_limit_json_values: int = Field(500_000, ge=1, description="the same for numbers written as JSON")
    inspection_queue_size: int = Field(16, ge=1, description="maximum waiting inspections; more are answered 429")
    log_format: Literal["text", "json"] = Field("text", description="text or json, one line per event")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug shows 4xx answers too")
    access_log: bool = Field(False, description="log every request, not only failed ones")
    cors_origins: str = Field("", description="comma-separated origins of pages that may send requests, or *")
    token: SecretStr | None = Field(None, description="bearer token required on everything but health and the page")

    @field_validator("token")
    @classmethod
    def _token_fits_a_header(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not re.fullmatch(r"[\x21-\x7e]{8,}", token.get_secret_value()):
            raise UserError("a token has at least 8 characters, all of them printable ASCII and none a space")
        return token

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_origins(cls, origins: str) -> str:
        for origin in filter(None, origins.split(",")):
            if not re.fullmatch(r"\*|https?://[a-z0-9.\-\[\]:]+", origin.strip()):
                raise UserError(f"{origin.strip()!r} is not an origin; wanted https://host, https://host:port or *")
        return origins

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.images_per_request > self.queue_size:
            raise UserError(
                f"images_per_request is {self.images_per_request}, which a queue_size of {self.queue_size} never admits"
            )
        return self

    def limit(self, name: str) -> Limit:
        """A limit on client input, under the name of its environment variable."""
        return Limit(getattr(self, name), f"{PREFIX}{name.upper()}")

    @property
    def origins(self) -> list[str]:
        """`cors_origins` as a list."""
        return [origin.strip() for origin in self.cors_origins.split(",") if origin.strip()]

    @property
    def cores_per_worker(self) -> int:
        """A worker's share of the cores that this process may use."""
        return max(1, available_cores() // self.workers)

    @property
    def threads_per_run(self) -> int:
        """`threads`, or by default the worker's share of the cores."""
        return self.threads or self.cores_per_worker


def read_settings(**given: Any) -> Settings:
    """Reads the settings; keyword arguments that are not None override the environment.

    Raises:
        SettingsError: one line that names every wrong setting.
    """
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    present = {name for name in os.environ if name.startswith(PREFIX)}
    if unknown := sorted(present - known - _READ_ELSEWHERE):
        raise SettingsError(f"{unknown[0]} is not a setting; known are {', '.join(sorted(known))}")
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise SettingsError("; ".join(_line(problem) for problem in error.errors())) from None


def to_environment(settings: Settings) -> dict[str, str]:
    """The environment variables that give another process the same settings."""
    values = {name: getattr(settings, name) for name in Settings.model_fields}
    secret = {name: value.get_secret_value() for name, value in values.items() if isinstance(value, SecretStr)}
    plain = {name: str(value) for name, value in values.items() if value is not None}
    return {f"{PREFIX}{name.upper()}": value for name, value in {**plain, **secret}.items()}


def _line(problem: Any) -> str:
    where = f"{PREFIX}{str(problem['loc'][0]).upper()}: " if problem["loc"] else ""
    value = "" if "TOKEN" in where or not problem["loc"] else f" (got {problem['input']!r})"
    return f"{where}{problem['msg'].removeprefix('Value error, ')}{value}"
