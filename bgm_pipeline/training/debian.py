"""Debian packages as a source of recordings: which serves which split, how they are fetched and unpacked.

Nothing is installed and no root is needed: ``apt-get download`` and ``dpkg-deb -x``.
"""

import hashlib
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from bgm_pipeline.errors import InputError
from bgm_pipeline.training.clips import Kind

BY_SOURCE = "by source"
"""In place of a split: a hash of each source's name decides (train 70 %, valid 10 %, test 20 %)."""

_OWN_FOLDERS = "or build from folders of your own: bgm corpus build DIR --music FOLDER --speech FOLDER"
_DOWNLOAD_TIMEOUT_S = 3600
_UNPACK_TIMEOUT_S = 600

_ASTERISK_TONES = r"beep|beeperr|(a|de)scending-2tone|confbridge-(join|leave)|tt-monkeys"
_ASTERISK_SPEECH = rf".*/sounds/[^/]+/(?!silence/|({_ASTERISK_TONES})\.)[^.]+\.(g722|gsm)"
# Left out: instruments, a bugle, spoken letters and names, a voice from the moon, sounds of two stamps.
_STAMP_EFFECTS = (
    r".*/stamps/(?!hobbies/music/|symbols/|seasonal/hanukkah/|military/|space/)(?!.*_desc)"
    r"(?!.*/(beaver|mountaingoat|ram)\.)[^.]+\.ogg"
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Which recordings of a package serve as what."""

    package: str
    split: str
    """The split, or `BY_SOURCE`."""
    kind: Kind
    files: str
    """Regular expression of their paths in the package."""
    source: str = ""
    """Composer or speaker; empty: the package. ``{thing}`` stands for the file's name up to the first _."""

    def source_of(self, recording: Path) -> str:
        """Which composer, speaker or thing is heard on a recording."""
        return self.source.format(thing=recording.stem.split("_")[0]) or self.package

    @property
    def splits(self) -> set[str]:
        """The splits that it may give recordings to."""
        return {"train", "valid", "test"} if self.split == BY_SOURCE else {self.split}

    def split_of(self, recording: Path) -> str:
        """Which split a recording is in."""
        if self.split != BY_SOURCE:
            return self.split
        fraction = stable_fraction(self.source_of(recording))
        return "train" if fraction < 0.7 else "valid" if fraction < 0.8 else "test"


def _asterisk(language: str, split: str) -> Recipe:
    return Recipe(f"asterisk-core-sounds-{language}-g722", split, "speech", _ASTERISK_SPEECH)


def _tuxpaint(language: str, split: str) -> Recipe:
    files = rf".*_desc_{language}(\.ogg)+"
    return Recipe("tuxpaint-stamps-default", split, "speech", files, f"tuxpaint-{language}")


RECIPES = (
    Recipe("wesnoth-1.16-music", "train", "music", r".*/music/.*\.ogg"),
    Recipe("naev-data", "train", "music", r".*/snd/music/.*\.ogg"),
    Recipe("singularity-music", "train", "music", r".*/music/.*\.ogg"),
    Recipe("drascula-music", "train", "music", r".*/audio/.*\.ogg"),
    Recipe("ufoai-music", "train", "music", r".*/music/.*\.ogg"),
    _asterisk("en", "train"),
    Recipe(
        "asterisk-core-sounds-en-g722", "train", "other", rf".*/({_ASTERISK_TONES})\.g722", "asterisk-tones"
    ),
    _asterisk("es", "train"),
    _asterisk("it", "train"),
    Recipe("fillets-ng-data-cs", "train", "speech", r".*/sound/.*/cs/.*\.ogg"),
    *(_tuxpaint(language, "train") for language in ("es", "fr", "el", "be", "ca")),
    Recipe(
        "fillets-ng-data",
        "train",
        "other",
        r".*/sound/(?!music/|elk/|warcraft/|viking1/|viking2/)(?!.*music\.ogg).*\.ogg",
    ),
    Recipe("tuxpaint-stamps-default", BY_SOURCE, "other", _STAMP_EFFECTS, "tuxpaint-{thing}"),
    Recipe("hyperrogue-music", "valid", "music", r".*/music/.*\.ogg"),
    _tuxpaint("da", "valid"),
    Recipe("asterisk-prompt-fr-armelle", "valid", "speech", _ASTERISK_SPEECH),
    Recipe("unknown-horizons", "test", "music", r".*/content/audio/music/.*\.ogg"),
    Recipe("colobot-common-sounds", "test", "music", r".*/music/.*\.ogg"),
    _asterisk("fr", "test"),
    _tuxpaint("ro", "test"),
    Recipe("asterisk-moh-opsound-wav", "demo", "music", r".*/moh/.*\.wav"),
    _asterisk("fr", "demo"),
)
"""The corpus: split by composer and speaker, so that no voice and no hand is in two splits (the demo, which
judges nothing, speaks with the test's voice). Which mixtures a seed draws depends on the packages' order."""

_FREE_FORM_LICENCES = {
    "asterisk-moh-opsound-wav": "CC-BY-SA-3.0",
    "asterisk-prompt-fr-armelle": "BSD-2-clause (no endorsement)",
    "fillets-ng-data": "GPL-2",
    "fillets-ng-data-cs": "GPL-2",
    "singularity-music": "CC-BY-SA-3.0",
    "wesnoth-1.16-music": "GPL-2+",
}
"""Read from the copyright files that are prose, not in Debian's format for machines."""


def stable_fraction(name: str) -> float:
    """A number in [0, 1) that depends on the name alone, on every machine and in every year."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def recipes_by_package(splits: Collection[str]) -> dict[str, list[Recipe]]:
    """The packages that the splits need, with the recipes that serve them."""
    wanted: dict[str, list[Recipe]] = {}
    for recipe in RECIPES:
        if not recipe.splits.isdisjoint(splits):
            wanted.setdefault(recipe.package, []).append(recipe)
    return wanted


def recordings_of(recipe: Recipe, root: Path) -> Iterator[Path]:
    """The recipe's recordings in an unpacked package, in the order of their names; links are left out, since
    they name a recording for the second time."""
    for path in sorted(root.rglob("*")):
        is_wanted = re.fullmatch(recipe.files, path.relative_to(root).as_posix())
        if is_wanted and path.is_file() and not path.is_symlink():
            yield path


def fetch_package(name: str, cache: Path) -> Path:
    """The package's ``.deb`` in the cache folder; downloaded if it is not there.

    Raises:
        InputError: apt-get is missing, or cannot get the package.
    """
    cache.mkdir(parents=True, exist_ok=True)
    cached = sorted(cache.glob(f"{name}_*.deb"))
    if cached:
        return cached[-1]
    with tempfile.TemporaryDirectory(prefix="download-", dir=cache) as download:
        _run(["apt-get", "download", name], Path(download), _DOWNLOAD_TIMEOUT_S, f"cannot download {name}")
        [package] = Path(download).glob("*.deb")
        return package.rename(cache / package.name)


def unpack_package(package: Path, root: Path) -> str:
    """Unpack a ``.deb``, and the game archives (``.pk3``, which are zip files) in it; returns its version.

    Raises:
        InputError: dpkg-deb is missing, or the package is damaged.
    """
    cure = f"{package} cannot be unpacked (delete it, so that it is downloaded again)"
    _run(["dpkg-deb", "-x", str(package.absolute()), str(root.absolute())], root, _UNPACK_TIMEOUT_S, cure)
    for archive in root.rglob("*.pk3"):
        with zipfile.ZipFile(archive) as entries:
            entries.extractall(archive.parent)
    return _run(["dpkg-deb", "-f", str(package.absolute()), "Version"], root, _UNPACK_TIMEOUT_S, cure).strip()


def copyright_of(package: str, root: Path) -> tuple[str, str]:
    """The short names of all licences in an unpacked package, joined, and its whole copyright file."""
    text = (root / "usr/share/doc" / package / "copyright").read_text(errors="replace")
    names = re.findall(r"^License:[ \t]*(\S.*?)[ \t]*$", text, re.MULTILINE)
    return _FREE_FORM_LICENCES.get(package) or "; ".join(sorted(set(names))), text


def _run(command: list[str], folder: Path, timeout_s: float, what: str) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            check=True,
            timeout=timeout_s,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise InputError(
            f"{what}: {command[0]} is not here (not a Debian system?); {_OWN_FOLDERS}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{what}: {command[0]} took more than {timeout_s:g} s; try again") from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        cure = f"if package lists are missing, run apt-get update as root (Debian 12 has all); {_OWN_FOLDERS}"
        raise InputError(f"{what}: {reason}; {cure}") from error
    return done.stdout
