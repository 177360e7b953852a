"""Every tunable, with its unit in its name. Environment variables override (prefix ``BGM_``), and a
``.env`` file in the working folder; nested groups use two underscores (``BGM_DETECTION__ONSET``)."""

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from platformdirs import user_data_path
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from bgm_pipeline.errors import InputError
from bgm_pipeline.timebase import LONGEST_DAYS, SCORE_HOP_SAMPLES, SEGMENT_S, s_to_samples
from bgm_pipeline.zones import local_zone

log = logging.getLogger(__name__)

MaybePath = Annotated[Path | None, BeforeValidator(lambda given: given or None)]
"""An empty variable means no path, not the working folder."""

_BEYOND_CRON = re.compile(r"(?<!JU)L|W(?!ED)|#", re.IGNORECASE)
"""Extensions that not every program reads alike, Prefect among them."""


def _check_cron(given: str) -> str:
    from cronsim import CronSim, CronSimError  # noqa: PLC0415 - few set another than the default

    if not given:
        return given
    try:
        if len(given.split()) != 5 or _BEYOND_CRON.search(given):
            raise CronSimError
        CronSim(given, datetime.now(UTC))
    except CronSimError:
        raise ValueError(
            f"{given!r} is no cron expression that all programs read alike: five fields, such as 15 2 * * *, "
            "without L, W, # and ?, and no range that runs backwards"
        ) from None
    return given


def _check_zone(given: str) -> str:
    if given and given not in available_timezones():
        raise ValueError(f"no time zone is called {given!r}; write one such as Europe/Paris or UTC")
    return given


Cron = Annotated[str, AfterValidator(_check_cron)]
"""When something is begun; never, if empty."""


class MediaSettings(BaseModel):
    """How audio is taken out of a file."""

    block_s: float = Field(2.0, gt=0, description="length of the blocks that cross from ffmpeg, seconds")
    silence_timeout_s: float = Field(60.0, gt=0, description="ffmpeg is stopped if it is mute for so long")
    min_gap_s: float = Field(0.04, gt=0, description="shorter holes are jitter, not gaps")
    max_duration_s: float = Field(172_800.0, gt=0, description="a file that lasts longer is refused")


class SeparationSettings(BaseModel):
    """How the network is called."""

    context_s: float = Field(0.8, ge=0.2, description="what the network sees of each neighbour, seconds")
    crossfade_s: float = Field(0.2, ge=0, description="length of the cross-fade at a segment's border")
    batch_size: int = Field(
        0, ge=0, description="chunks in one call of PyTorch's network; 0: what a GPU has room for, 1 on a CPU"
    )
    bfloat16: bool = Field(False, description="compute in bfloat16: faster where there is any, less exact")
    tf32: bool = Field(False, description="a GPU may round factors to TF32: faster, less exact")
    compile: bool = Field(False, description="torch.compile for PyTorch's network: minutes at the start")
    silence_db: float = Field(-90.0, description="a chunk below this peak level is silence and costs nothing")
    skip_below: float = Field(
        0.05,
        ge=0,
        le=1,
        description="a segment whose scores all stay below is not separated; 0: all are",
    )
    mask_exponent: float = Field(
        0.7, gt=0, le=2, description="below 1: more of the mixture is left in where the network is in doubt"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if s_to_samples(self.context_s) % SCORE_HOP_SAMPLES:
            raise ValueError(f"context_s: {self.context_s} is not a whole number of tenths of a second")
        if self.crossfade_s > 2 * self.context_s:
            raise ValueError(f"crossfade_s: {self.crossfade_s} is more than twice context_s {self.context_s}")
        return self


class DetectionSettings(BaseModel):
    """From scores to events; scores are 0..1, ten a second."""

    onset: float = Field(0.7, ge=0, le=1, description="an event starts where the score rises above this")
    offset: float = Field(0.4, ge=0, le=1, description="an event ends where the score falls below this")
    min_duration_on_s: float = Field(0.5, ge=0, description="shorter events are dropped")
    min_duration_off_s: float = Field(0.3, ge=0, le=SEGMENT_S, description="shorter holes are filled")
    min_segment_music_s: float = Field(0.5, gt=0, description="a segment with this much music holds music")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.offset > self.onset:
            raise ValueError(f"offset: {self.offset} is above onset {self.onset}")
        return self


class InboxSettings(BaseModel):
    """Where new broadcast files arrive, and what their names tell; see docs/nightly.md."""

    folder: MaybePath = Field(None, description="the folder that is looked through every night")
    patterns: str = Field(
        "{channel}/%Y-%m-%d/%H.%M {title}"
        " | {channel}_%Y-%m-%d_%H-%M-%S_{title}"
        " | {channel}_%Y-%m-%d_%H-%M_{title}"
        " | {channel}-%Y%m%d-%H%M-{title}"
        " | {channel}_%Y%m%d_%H%M%S_{title}"
        " | {channel} %Y-%m-%d %H.%M {title}"
        " | {channel}_%Y-%m-%d_%H-%M-%S",
        description="how names are built, without suffix; the first that fits counts",
    )
    time_zone: str = Field(
        "", description="of days, of times without offset, of all that is shown (Europe/Paris); else local"
    )
    name_time_zone: Annotated[str, AfterValidator(_check_zone)] = Field(
        "", description="of times in names (UTC); else time_zone"
    )
    settle_s: float = Field(60.0, ge=0, description="a file that changed no longer ago still grows")
    look_s: float = Field(2.0, ge=0, description="between two looks that must find a file the same")

    @property
    def zone(self) -> tzinfo:
        """The time zone that `time_zone` names; this machine's where it names none.

        Raises:
            InputError: there is none of that name, or this machine's cannot be told.
        """
        if not self.time_zone:
            return local_zone()
        try:
            return ZoneInfo(self.time_zone)
        except (OSError, ValueError, KeyError):
            raise InputError(
                f"BGM_INBOX__TIME_ZONE: no time zone is called {self.time_zone!r}; write one such as "
                "Europe/Paris or UTC"
            ) from None

    @property
    def name_zone(self) -> tzinfo:
        """The time zone that times in names are meant in, where they tell no offset.

        Raises:
            InputError: as `zone`.
        """
        return ZoneInfo(self.name_time_zone) if self.name_time_zone else self.zone


class NightSettings(BaseModel):
    """What Prefect does by itself, and when; see docs/nightly.md."""

    cron: Cron = Field("15 2 * * *", description="when the inbox is looked through (cron)")
    check_cron: Cron = Field("0 5 * * *", description="when the stem store is checked (cron)")
    retention_cron: Cron = Field("30 5 * * *", description="when old runs are dropped (cron)")
    report_cron: Cron = Field("0 6 * * *", description="when the morning's report is made (cron)")
    time_zone: Annotated[str, AfterValidator(_check_zone)] = Field(
        "", description="of these times (Europe/Paris); else that of the inbox, or local"
    )
    backlog_limit: int = Field(
        500, ge=1, description="so many episodes wait or run at once; what is more waits for the next night"
    )
    episodes_at_once: int = Field(1, ge=1, description="so many flow runs does one worker see to at once")
    episode_timeout_s: float = Field(21_600.0, gt=0, description="an episode that takes longer has failed")
    take_ups: int = Field(3, ge=0, description="how often a run whose process died is begun again by itself")
    old_runs_kept_days: float = Field(
        30.0, ge=0, le=LONGEST_DAYS, description="results that others took the place of"
    )
    flow_runs_kept_days: float = Field(
        30.0, ge=1, le=LONGEST_DAYS, description="flow runs that have ended, with their logs"
    )
    webhook_url: SecretStr = Field(SecretStr(""), description="where summaries are posted to, as JSON")


class Settings(BaseSettings):
    """All settings of the program."""

    model_config = SettingsConfigDict(
        env_prefix="BGM_", env_nested_delimiter="__", env_file=".env", extra="ignore"
    )

    data_dir: Path = Field(default_factory=lambda: user_data_path("bgm"), description="where all is kept")
    database_url: str = Field("", repr=False, description="SQLAlchemy URL; empty: SQLite below data_dir")
    stem_store: str = Field("", description="folder of stems, or s3://bucket/prefix; empty: below data_dir")
    model: str = Field("auto", description="separation network: its name, its weights file, or auto")
    speed: float = Field(
        3.0, gt=0, description="on a CPU, auto takes a network that is so many times as fast as the programme"
    )
    detector: str = Field("music_detector", description="detection network: its name, or its weights file")
    calibration: MaybePath = Field(
        None, description="file that `bgm calibrate` wrote; empty: the one that ships"
    )
    device: str = Field("auto", description="torch device: auto, cpu, cuda, cuda:1 ...")
    engine: Literal["auto", "torch", "openvino"] = Field(
        "auto", description="what computes the separation network; auto: OpenVINO on a CPU, PyTorch on a GPU"
    )
    threads: int = Field(0, ge=0, description="CPU threads of the network; 0: as many as there are cores")
    keep: Literal["music", "all"] = Field("music", description="which segments' stems are kept")
    media: MediaSettings = MediaSettings()
    separation: SeparationSettings = SeparationSettings()
    detection: DetectionSettings = DetectionSettings()
    inbox: InboxSettings = InboxSettings()
    night: NightSettings = NightSettings()

    @cached_property
    def resolved_database_url(self) -> str:
        """``database_url``, or the SQLite file below ``data_dir``."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'bgm.sqlite'}"

    @cached_property
    def resolved_stem_store(self) -> str:
        """``stem_store``, or the folder below ``data_dir``."""
        return self.stem_store or str(self.data_dir.absolute() / "stems")

    @property
    def night_zone(self) -> str:
        """Name of the time zone that the night's schedules are meant in.

        Raises:
            InputError: none is set, and this machine's is called by no name that others know.
        """
        name = self.night.time_zone or str(self.inbox.zone)
        if name not in available_timezones():
            raise InputError(
                f"BGM_NIGHT__TIME_ZONE: is not set, and the time zone here has no name but {name!r}, which "
                "schedules cannot be meant in; set it to one such as Europe/Paris"
            )
        return name

    @property
    def graphs(self) -> Path:
        """Folder of the graphs that were made of networks; what is missing there is made again."""
        return self.data_dir.absolute() / "graphs"

    def results(self) -> dict[str, Any]:
        """The settings that change results, as JSON knows them: not places, threads or batch sizes."""
        return self.model_dump(
            mode="json",
            include={
                "keep": True,
                "media": {"min_gap_s"},
                "separation": {
                    "context_s",
                    "crossfade_s",
                    "silence_db",
                    "skip_below",
                    "mask_exponent",
                    "bfloat16",
                    "tf32",
                },
                "detection": True,
            },
        )

    def networks(self) -> dict[str, str]:
        """Settings that say which networks and calibration, as a process in another folder understands them:
        files by their absolute paths. What has an ending is a file of weights, and no name."""

        def known_anywhere(name: str) -> str:
            return str(Path(name).absolute()) if Path(name).suffix else name

        return {
            "model": known_anywhere(self.model),
            "detector": known_anywhere(self.detector),
            "calibration": str(self.calibration.absolute()) if self.calibration else "",
        }

    def results_sha256(self) -> str:
        """Hash of the settings that change results."""
        return hashlib.sha256(json.dumps(self.results(), sort_keys=True).encode()).hexdigest()


def load_settings(**changes: Any) -> Settings:
    """The settings that the environment and the ``.env`` file give, but for `changes` that are not None.

    A variable that is no setting is warned of, since it has no effect.

    Raises:
        InputError: a variable has a value that cannot be used; the message names it.
    """
    try:
        given = EnvSettingsSource(Settings).env_vars.keys() | DotEnvSettingsSource(Settings).env_vars.keys()
        _warn_of_unknown(frozenset(name.upper() for name in given))
        return Settings(**{name: value for name, value in changes.items() if value is not None})
    except ValidationError as error:
        wrong = [
            f"BGM_{'__'.join(map(str, one['loc'])).upper()}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors()
        ]
        raise InputError(f"{'; '.join(wrong)}; change it or leave it out") from None
    except SettingsError as error:
        group = str(error).partition('"')[2].partition('"')[0].upper()
        cure = f"set its members one by one, as BGM_{group}__NAME=VALUE"
        raise InputError(f"BGM_{group}: neither JSON nor a value of its own; {cure}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f".env cannot be read: {error}") from None


def names_of(model: type[BaseModel] = Settings, prefix: str = "BGM_") -> Iterator[str]:
    """The names of all environment variables that set something: groups, as JSON, and their members."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name.upper()}"
        if isinstance(field.default, BaseModel):
            yield from names_of(type(field.default), f"{prefix}{name.upper()}__")


@cache
def _warn_of_unknown(given: frozenset[str]) -> None:
    """Once in a process."""
    known = set(names_of())
    for name in sorted(name for name in given - known if name.startswith("BGM_")):
        meant = get_close_matches(name, known, 1)
        cure = f"is {meant[0]} meant?" if meant else "docs/settings.md lists all"
        log.warning("%s has no effect: there is no such setting; %s", name, cure)
