"""All settings of the worker, read from the environment and `.env`. Each one is declared once, in `Settings`.

The variables of the model clients in `baml_src/` (`LLM_BASE_URL`, `LLM_API_KEY`, `LLM_MODEL`, or a provider's own) are
not settings of the bridge: `functions.py` checks that they are set.
"""

import contextlib
import io
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import httpx
from dotenv import dotenv_values
from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from bridge.errors import SettingsError

if sys.platform != "win32":
    import fcntl

FUNCTIONS = ("Chat", "Code", "Title")
ALL_FUNCTIONS = "*"  # every BAML function and handler: for development
KEY_NAMES = AliasChoices("SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY")
REMEDIES = {  # for settings without a default
    "SUPABASE_URL": "Set it to your project's URL, like https://abcd.supabase.co.",
    "SUPABASE_SECRET_KEY": "Copy a secret key (sb_secret_…) from the project's API keys.",
}


def _check_url(url: str) -> str:
    remedy = "It must look like https://abcd.supabase.co."
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  reading it is what checks it
        (parts.hostname or "").encode("idna")  # as Realtime's client does
        httpx.URL(url).host  # noqa: B018  and as REST's does
    except (ValueError, httpx.InvalidURL) as error:
        raise SettingsError(f"SUPABASE_URL is {url!r} ({error}).", remedy) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise SettingsError(f"SUPABASE_URL is {url!r}.", remedy)
    if parts.path.strip("/"):
        raise SettingsError(f"SUPABASE_URL is {url!r}.", f"Leave the path {parts.path!r} out.")
    return f"{parts.scheme}://{parts.netloc}"


def _check_key(key: str) -> str:
    if not (key.isascii() and key.isprintable()) or len(key.split()) > 1:
        remedy = "Copy the whole secret key (sb_secret_…)."
        raise SettingsError("SUPABASE_SECRET_KEY has characters that no key has.", remedy)
    if key.startswith("sb_publishable_"):
        remedy = "Set it to a secret key (sb_secret_…) of the project."
        raise SettingsError("SUPABASE_SECRET_KEY holds a publishable key.", remedy)
    return key


def _split_names(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(name.strip() for name in value.split(",") if name.strip()) or FUNCTIONS


class Settings(BaseModel):
    """The settings of a worker. Times are in seconds unless the name says otherwise."""

    model_config = ConfigDict(
        frozen=True, allow_inf_nan=False, validate_by_name=True, alias_generator=lambda name: f"BRIDGE_{name.upper()}"
    )

    supabase_url: Annotated[str, AfterValidator(_check_url), Field(validation_alias="SUPABASE_URL")]
    supabase_key: Annotated[str, AfterValidator(_check_key), Field(validation_alias=KEY_NAMES, repr=False)]
    functions: Annotated[tuple[str, ...], BeforeValidator(_split_names)] = FUNCTIONS
    handlers: str | None = None
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 32
    lease_seconds: Annotated[int, Field(ge=2, le=3600)] = 30
    max_failures: Annotated[int, Field(ge=1, le=100)] = 5
    first_token_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 60
    idle_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 30
    total_seconds: Annotated[float, Field(ge=1, le=86400)] = 600
    step_seconds: Annotated[float, Field(ge=0.1, le=86400)] = 120
    ask_seconds: Annotated[float, Field(ge=1, le=7776000)] = 86_400
    reasoning: Annotated[Literal["hidden", "shown"], BeforeValidator(str.lower)] = "hidden"
    history: Annotated[int, Field(ge=0, le=1000)] = 100
    media_bytes: Annotated[int, Field(ge=10_485_760, le=1_073_741_824)] = 33_554_432
    delta_ms: Annotated[int, Field(ge=0, le=10_000)] = 50
    events_per_second: Annotated[float, Field(ge=2, le=1_000_000)] = 80
    checkpoint_seconds: Annotated[float, Field(ge=0.1, le=60)] = 1
    sweep_seconds: Annotated[float, Field(ge=0.5, le=300)] = 10
    drain_seconds: Annotated[float, Field(ge=0, le=3600)] = 90
    health_host: str = "0.0.0.0"
    health_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    log_format: Annotated[Literal["json", "console"], BeforeValidator(str.lower)] = "json"
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(str.upper)] = "INFO"
    log_provider_errors: Annotated[Literal["true", "false"], BeforeValidator(str.lower)] = "false"

    @property
    def shows_reasoning(self) -> bool:
        """Whether users see what models think."""
        return self.reasoning == "shown"

    @property
    def realtime_url(self) -> str:
        """Realtime's address as the `realtime` package expects it: it adds `/websocket` itself."""
        return f"{self.supabase_url}/realtime/v1"


def environment(directory: Path | None = None, *, beside_dev: bool = False) -> dict[str, str]:
    """Return the process environment over the `.env` file of `directory` (default: the current one).

    The file's values also go into `os.environ`, where the BAML clients look for `LLM_*`. With `beside_dev`, what a
    development setup runs in the folder comes last (its file `.env.dev`). Raises SettingsError.
    """
    is_chosen = "SUPABASE_URL" in os.environ
    try:
        folder = directory or Path.cwd()
    except OSError as error:
        problem = f"The working directory cannot be used ({error.strerror})."
        raise SettingsError(problem, "Start the bridge in its own folder.") from error
    try:
        for name, value in dotenv_values(folder / ".env").items():
            if value is not None:
                os.environ.setdefault(name, value)
    except (OSError, ValueError) as error:
        raise SettingsError(f"The file .env cannot be read ({error}).", "Save it as plain text in UTF-8.") from error
    if beside_dev:
        _add_dev(folder / ".env.dev", is_chosen=is_chosen)
    return dict(os.environ)


def _add_dev(file: Path, *, is_chosen: bool) -> None:
    """Add what runs in this folder, unless another project is set (`is_chosen`: if only to an empty text)."""
    found = _read_dev(file)
    project = os.environ.get("SUPABASE_URL", "").strip()
    if (project or is_chosen) and project != found.get("SUPABASE_URL"):
        return
    has_model = any(os.environ.get(name) for name in found if name.startswith("LLM_"))
    for name, value in found.items():
        is_of_project = name.startswith("SUPABASE_") and not project  # keys of another project would be refused
        if is_of_project or not (os.environ.get(name) or (has_model and name.startswith("LLM_"))):
            os.environ[name] = value


def _read_dev(file: Path) -> dict[str, str]:
    """Read the file while whoever wrote it holds a lock on it: otherwise it was left behind, and nothing runs there."""
    if sys.platform == "win32":
        return {}
    with contextlib.suppress(OSError, ValueError), file.open(encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            values = dotenv_values(stream=io.StringIO(stream.read()), interpolate=False)
            return {name: value for name, value in values.items() if value is not None}
    return {}


def load(env: Mapping[str, str], *, beside_dev: bool = False) -> Settings:
    """Read the settings from `env`; an empty variable counts as not set. Raises SettingsError for the first bad one.

    `beside_dev` says that `environment` looked for a development setup, which is then a remedy.
    """
    values = {name: value.strip() for name, value in env.items() if value.strip()}
    try:
        return Settings.model_validate(values, by_alias=True, by_name=False)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _explain(
            str(first["loc"][0]), first["input"], is_missing=first["type"] == "missing", beside_dev=beside_dev
        ) from None


def _explain(name: str, value: object, *, is_missing: bool, beside_dev: bool) -> SettingsError:
    if is_missing:
        or_dev = " Or start `make dev` here first." if beside_dev and name == "SUPABASE_URL" else ""
        return SettingsError(f"{name} is not set.", REMEDIES[name] + or_dev)
    declared: dict[str, Any] = Settings.model_json_schema()["properties"][name]
    if "enum" in declared:
        return SettingsError(f"{name} is {value!r}.", f"Set it to one of {', '.join(declared['enum'])}.")
    low, high = declared["minimum"], declared["maximum"]
    return SettingsError(f"{name} is {value!r}.", f"Set it to a number from {low:,.10g} to {high:,.10g}.")
