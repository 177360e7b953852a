"""A corpus from packages and from folders, as someone who trains on it sees it."""

import csv
import os
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recordings import RATE, tone, write, write_g722

from bgm_pipeline.errors import InputError
from bgm_pipeline.training import debian
from bgm_pipeline.training.corpus import Corpus, build_from_debian, build_from_folders, load_corpus


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


class PackageMaker:
    """Real Debian packages with made-up sounds, in a cache folder."""

    def __init__(self, folder: Path) -> None:
        self.trees = folder / "trees"
        self.cache = folder / "cache"
        self.cache.mkdir()

    def tree(self, name: str, copyright_text: str = "License: CC-BY-4.0\n") -> Path:
        root = self.trees / name
        (root / "DEBIAN").mkdir(parents=True)
        (root / "DEBIAN/control").write_text(
            f"Package: {name}\nVersion: 1:2.0-1\nArchitecture: all\n"
            "Maintainer: Nobody <nobody@example.org>\nDescription: sounds\n"
        )
        doc = root / "usr/share/doc" / name
        doc.mkdir(parents=True)
        (doc / "copyright").write_text(copyright_text)
        return root

    def pack(self) -> None:
        for root in self.trees.iterdir():
            package = self.cache / f"{root.name}_2.0_all.deb"
            command = ["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(root), str(package)]
            subprocess.run(command, check=True, capture_output=True, timeout=60)


@pytest.fixture
def packages(tmp_path: Path) -> PackageMaker:
    return PackageMaker(tmp_path)


@pytest.fixture
def demo_cache(packages: PackageMaker) -> Path:
    """The two packages of the demo split, and none else."""
    moh = packages.tree("asterisk-moh-opsound-wav", "Attribution-ShareAlike 3.0\n")
    for number in range(3):
        write(moh / f"usr/share/asterisk/moh/song{number}.wav", tone(11 + number, 300 + 50 * number))
    sounds = packages.tree("asterisk-core-sounds-fr-g722") / "usr/share/asterisk/sounds/fr_CA_f_June"
    (sounds / "digits").mkdir(parents=True)
    (sounds / "silence").mkdir()
    for name in ("hello", "vm-goodbye", "digits/7", "confbridge-mute-in"):
        write_g722(sounds / f"{name}.g722", tone(1.0, 200 + 20 * len(name)))
    for name in ("beep", "beeperr", "ascending-2tone", "confbridge-join", "tt-monkeys", "silence/1"):
        write_g722(sounds / f"{name}.g722", tone(1.0, 900 + 20 * len(name)))
    packages.pack()
    return packages.cache


# From Debian packages


def test_the_demo_split_needs_its_two_packages_only(tmp_path: Path, demo_cache: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    folder = tmp_path / "corpus"
    corpus = build_from_debian(folder, ("demo",), demo_cache, lambda *step: steps.append(step))
    assert {clip.split for clip in corpus.clips} == {"demo"}
    assert [clip.path.name for clip in corpus.select("demo", "music")] == [f"song{n}.flac" for n in range(3)]
    assert {clip.path.stem for clip in corpus.select("demo", "speech")} == {
        "hello",
        "vm-goodbye",
        "7",
        "confbridge-mute-in",
    }, "spoken prompts are speech; beeps, screams and silence are not"
    for clip in corpus.select("demo", "speech"):
        assert clip.duration_s == pytest.approx(1, abs=0.1)
        assert clip.rms_db == pytest.approx(-23, abs=0.1)
        assert clip.source == "asterisk-core-sounds-fr-g722"
    assert ("asterisk-moh-opsound-wav", 3, 3) in steps


def test_where_the_sounds_come_from_is_kept(tmp_path: Path, demo_cache: Path) -> None:
    folder = tmp_path / "corpus"
    build_from_debian(folder, ("demo",), demo_cache)
    table = {row["package"]: row for row in rows_of(folder / "packages.csv")}
    assert table["asterisk-moh-opsound-wav"]["licence"] == "CC-BY-SA-3.0"
    assert table["asterisk-core-sounds-fr-g722"]["licence"] == "CC-BY-4.0"
    assert table["asterisk-core-sounds-fr-g722"]["version"] == "1:2.0-1"
    assert table["asterisk-moh-opsound-wav"]["files"] == "3"
    assert float(table["asterisk-moh-opsound-wav"]["music_minutes"]) == pytest.approx(36 / 60, abs=0.01)
    assert "ShareAlike" in (folder / "copyright/asterisk-moh-opsound-wav.txt").read_text()
    left = {path.name for path in folder.iterdir()}
    assert left == {"audio", "copyright", "corpus.csv", "packages.csv", "dropped.csv"}, (
        "nothing unpacked stays"
    )
    assert sum(1 for _ in demo_cache.iterdir()) == 2, "the packages stay"


def test_a_killed_build_goes_on_where_it_was(tmp_path: Path, demo_cache: Path) -> None:
    whole = build_from_debian(tmp_path / "whole", ("demo",), demo_cache)
    folder = tmp_path / "killed"
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from bgm_pipeline.training.corpus import build_from_debian\n"
        "def die(step, done, total):\n"
        "    if done == 2 and 'core' in step: os.kill(os.getpid(), 9)\n"
        "build_from_debian(Path(sys.argv[1]), ('demo',), Path(sys.argv[2]), die)\n"
    )
    died = subprocess.run([sys.executable, "-c", program, folder, demo_cache], check=False, timeout=120)
    assert died.returncode == -signal.SIGKILL
    with pytest.raises(InputError, match=r"no corpus here"):
        load_corpus(folder)
    kept = folder / "audio/demo/music/asterisk-moh-opsound-wav/song0.flac"
    first_written = kept.stat().st_mtime_ns
    (
        demo_cache / "asterisk-moh-opsound-wav_2.0_all.deb"
    ).unlink()  # done before the kill, so not needed again
    corpus = build_from_debian(folder, ("demo",), demo_cache)
    assert corpus.clips == whole.clips
    assert kept.stat().st_mtime_ns == first_written
    assert not [path for path in folder.rglob("*") if "partial" in path.name or "unpacked" in path.name]


def test_a_split_can_be_added_later(tmp_path: Path, demo_cache: Path, packages: PackageMaker) -> None:
    folder = tmp_path / "corpus"
    demo = build_from_debian(folder, ("demo",), demo_cache)
    write(packages.tree("hyperrogue-music") / "usr/share/hyperrogue/music/caves.ogg", tone(12))
    voice = packages.tree("asterisk-prompt-fr-armelle") / "usr/share/asterisk/sounds/fr/hello.gsm"
    wav = write(voice.with_suffix(".wav"), tone(1))
    subprocess.run(["ffmpeg", "-v", "error", "-i", wav, "-ar", "8000", voice], check=True, timeout=60)
    stamps = packages.tree("tuxpaint-stamps-default") / "usr/share/tuxpaint/stamps"
    write(stamps / "animals/gnu_desc_da.ogg", tone(1))
    write(stamps / "animals/gnu_desc_ro.ogg", tone(1, 500))
    write(stamps / "hobbies/music/cello.ogg", tone(3))
    things = [f"thing{number}" for number in range(40)]
    for number, thing in enumerate(things):
        write(stamps / f"animals/{thing}_small.ogg", tone(0.3, 300 + 10 * number))
    packages.pack()
    corpus = build_from_debian(folder, ("valid",), packages.cache)
    assert corpus.select("demo", "music") == demo.select("demo", "music")
    assert [clip.path.stem for clip in corpus.select("valid", "music")] == ["caves"]
    assert {clip.source for clip in corpus.select("valid", "speech")} == {
        "tuxpaint-da",
        "asterisk-prompt-fr-armelle",
    }
    others = {clip.source for clip in corpus.select("valid", "other")}
    assert others == {
        f"tuxpaint-{thing}" for thing in things if 0.7 <= debian.stable_fraction(f"tuxpaint-{thing}") < 0.8
    }
    assert 0 < len(others) < 12
    at_once = build_from_debian(tmp_path / "at once", ("demo", "valid"), packages.cache)
    assert corpus.clips == at_once.clips, "in the same order: a seed draws the same mixtures"


def test_a_recording_that_a_package_holds_twice_is_kept_once(tmp_path: Path, packages: PackageMaker) -> None:
    music = packages.tree("hyperrogue-music") / "usr/share/hyperrogue/music"
    write(music / "caves.ogg", tone(12))
    (music / "copy.ogg").write_bytes((music / "caves.ogg").read_bytes())
    (music / "link.ogg").symlink_to("caves.ogg")
    write(packages.tree("asterisk-prompt-fr-armelle") / "usr/share/asterisk/sounds/fr/none.txt.wav", tone(1))
    write(packages.tree("tuxpaint-stamps-default") / "usr/share/tuxpaint/stamps/gnu_desc_da.ogg", tone(1))
    packages.pack()
    corpus = build_from_debian(tmp_path / "corpus", ("valid",), packages.cache)
    assert [clip.path.name for clip in corpus.select("valid", "music")] == ["caves.flac"]
    [dropped] = rows_of(tmp_path / "corpus/dropped.csv")
    assert dropped["recording"].endswith("copy.ogg")
    assert "same audio" in dropped["reason"]


def test_numbered_names_of_a_package_leave_names_with_numbers_alone(
    tmp_path: Path, packages: PackageMaker
) -> None:
    music = packages.tree("hyperrogue-music") / "usr/share/hyperrogue/music"
    for duration_s, name in enumerate(("a/x", "b/x", "c/x-2"), start=11):
        write(music / f"{name}.ogg", tone(duration_s))
    write(packages.tree("asterisk-prompt-fr-armelle") / "usr/share/asterisk/sounds/fr/none.txt.wav", tone(1))
    write(packages.tree("tuxpaint-stamps-default") / "usr/share/tuxpaint/stamps/gnu_desc_da.ogg", tone(1))
    packages.pack()
    corpus = build_from_debian(tmp_path / "corpus", ("valid",), packages.cache)
    clips = corpus.select("valid", "music")
    assert [clip.path.name for clip in clips] == ["x.flac", "x-2.flac", "x-2-2.flac"]
    for clip, duration_s in zip(clips, (11, 12, 13), strict=True):
        assert soundfile.info(tmp_path / "corpus" / clip.path).duration == pytest.approx(duration_s, abs=0.1)


def test_music_inside_a_game_archive_is_found(tmp_path: Path, packages: PackageMaker) -> None:
    root = packages.tree("ufoai-music")
    song = write(tmp_path / "music/song.ogg", tone(1))
    base = root / "usr/share/games/ufoai/base"
    base.mkdir(parents=True)
    subprocess.run(
        [sys.executable, "-m", "zipfile", "-c", base / "0music.pk3", song.parent], check=True, timeout=60
    )
    packages.pack()
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    debian.unpack_package(packages.cache / "ufoai-music_2.0_all.deb", unpacked)
    [recipe] = debian.recipes_by_package(("train",))["ufoai-music"]
    assert [path.name for path in debian.recordings_of(recipe, unpacked)] == ["song.ogg"]


def test_no_composer_and_no_speaker_is_in_two_splits() -> None:
    splits = defaultdict(set)
    for recipe in debian.RECIPES:
        if recipe.split not in (debian.BY_SOURCE, "demo"):
            splits[recipe.source or recipe.package].add(recipe.split)
    assert all(len(where) == 1 for where in splits.values()), splits


def test_without_debian_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"apt-get is not here.*--music FOLDER --speech FOLDER"):
        build_from_debian(tmp_path / "corpus", ("demo",))


def test_a_package_that_cannot_be_had_is_named_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot download no-such-package-here: .*apt-get update"):
        debian.fetch_package("no-such-package-here", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "asterisk-core-sounds-fr-g722_1_all.deb").write_bytes(b"half a download")
    with pytest.raises(InputError, match=r"fr-g722_1_all\.deb cannot be unpacked \(delete it"):
        build_from_debian(tmp_path / "corpus", ("demo",), tmp_path)


def test_an_unknown_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such split: training"):
        build_from_debian(tmp_path, ("training",))


# From folders


@pytest.fixture
def own_folders(tmp_path: Path) -> tuple[Path, Path]:
    for number in range(9):
        for part in range(2):
            frequency = 200 + 20 * number + 5 * part
            write(tmp_path / f"music/band{number}/album/{part}.ogg", tone(10.5, frequency))
            write(tmp_path / f"speech/voice{number}/{part}.wav", tone(0.6, frequency))
    (tmp_path / "music/band0/cover.jpg").write_bytes(b"no sound")
    return tmp_path / "music", tmp_path / "speech"


def sources_by_split(corpus: Corpus) -> dict[str, set[str]]:
    found = defaultdict(set)
    for clip in corpus.clips:
        found[clip.split].add(clip.source)
    return found


def test_folders_are_split_by_their_subfolders(tmp_path: Path, own_folders: tuple[Path, Path]) -> None:
    corpus = build_from_folders(tmp_path / "corpus", *own_folders, valid_share=0.2, test_share=0.2)
    assert len(corpus.clips) == 36
    found = sources_by_split(corpus)
    assert found.keys() == {"train", "valid", "test"}
    assert sum(len(sources) for sources in found.values()) == 18, "no band and no voice is in two splits"
    assert len(found["train"]) > 6
    [dropped] = rows_of(tmp_path / "corpus/dropped.csv")
    assert dropped["recording"] == "band0/cover.jpg"
    assert "not readable as audio" in dropped["reason"]


def test_own_folders_join_what_is_there_of_debian_packages_in_either_order(
    tmp_path: Path, demo_cache: Path, own_folders: tuple[Path, Path]
) -> None:
    demo = build_from_debian(tmp_path / "a", ("demo",), demo_cache)
    build_from_folders(tmp_path / "a", *own_folders)
    both = build_from_folders(tmp_path / "a", *own_folders)
    assert set(both.clips) > set(demo.clips)
    own = build_from_folders(tmp_path / "b", *own_folders)
    assert len(both.clips) == len(demo.clips) + len(own.clips)
    assert build_from_debian(tmp_path / "b", ("demo",), demo_cache).clips == both.clips


def test_a_new_band_leaves_the_others_in_their_split(tmp_path: Path, own_folders: tuple[Path, Path]) -> None:
    music, speech = own_folders
    before = build_from_folders(tmp_path / "corpus", music, speech, valid_share=0.2, test_share=0.2)
    write(music / "another/song.ogg", tone(10.5, 333))
    after = build_from_folders(tmp_path / "corpus", music, speech, valid_share=0.2, test_share=0.2)
    assert {*after.clips} > {*before.clips}


def test_a_few_loose_files_still_fill_each_split(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"music/song {number}?.wav", tone(11, 300 + 50 * number))
        write(tmp_path / f"speech/{number}.wav", tone(1, 300 + 50 * number))
    corpus = build_from_folders(tmp_path / "corpus", tmp_path / "music", tmp_path / "speech")
    for split in ("train", "valid", "test"):
        assert len(corpus.select(split, "music")) == len(corpus.select(split, "speech")) == 1


def test_files_that_differ_in_their_ending_do_not_overwrite_each_other(tmp_path: Path) -> None:
    for number, name in enumerate(("a.wav", "a.ogg", "a!.wav", "a?.wav")):
        write(tmp_path / "music/band" / name, tone(11, 300 + 50 * number))
        write(tmp_path / "speech/voice" / name, tone(1, 300 + 50 * number))
    corpus = build_from_folders(
        tmp_path / "corpus", tmp_path / "music", tmp_path / "speech", valid_share=0, test_share=0
    )
    assert len({clip.path for clip in corpus.clips}) == 8


def test_recordings_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    for duration_s, name in enumerate(("a/x", "b/x", "c/x-2"), start=11):
        write(tmp_path / f"music/band/{name}.wav", tone(duration_s))
    write(tmp_path / "speech/a.wav", tone(1))
    corpus = build_unsplit(tmp_path)
    clips = corpus.select("train", "music")
    lengths_s = [soundfile.info(corpus.folder / clip.path).duration for clip in clips]
    assert lengths_s == [clip.duration_s for clip in clips] == [11, 12, 13]


def test_no_recording_gets_the_clip_of_another_one(tmp_path: Path) -> None:
    write(tmp_path / "music/band/CD1/01.wav", tone(11))
    write(tmp_path / "music/band/CD2/01.wav", tone(12))
    write(tmp_path / "speech/a.wav", tone(1))
    before = build_unsplit(tmp_path)
    os.utime(write(tmp_path / "music/band/CD0/01.wav", tone(13)), (1e9, 1e9))
    after = build_unsplit(tmp_path)
    assert [clip.duration_s for clip in after.select("train", "music")] == [13, 11, 12]
    assert {*after.clips} > {*before.clips}


def test_a_name_as_long_as_names_may_be_gives_a_clip(tmp_path: Path) -> None:
    write(tmp_path / "music/band" / f"{'é' * 125}.wav", tone(11))
    write(tmp_path / "speech/a.wav", tone(1))
    assert build_unsplit(tmp_path).select("train", "music")


def test_names_that_are_not_utf_8_are_names_like_others(tmp_path: Path) -> None:
    write(tmp_path / "speech/a.wav", tone(1))
    write(tmp_path / "music/band/1.wav", tone(11))
    (tmp_path / "music/band" / os.fsdecode(b"M\xfcller cover.jpg")).write_bytes(b"no sound")
    write(tmp_path / "music/band/2.wav", tone(12)).rename(
        tmp_path / "music/band" / os.fsdecode(b"M\xfcller 2.wav")
    )
    (tmp_path / "music/band").rename(tmp_path / "music" / os.fsdecode(b"M\xfcller"))
    corpus = build_unsplit(tmp_path)
    assert [clip.duration_s for clip in corpus.select("train", "music")] == [11, 12]
    assert {clip.source for clip in corpus.select("train", "music")} == {r"M\xfcller"}
    [dropped] = rows_of(tmp_path / "corpus/dropped.csv")
    assert dropped["recording"] == r"M\xfcller/M\xfcller cover.jpg"


def test_a_changed_recording_is_converted_again(tmp_path: Path) -> None:
    music, speech = tmp_path / "music", tmp_path / "speech"
    write(speech / "a.wav", tone(1))
    write(music / "a.wav", tone(11))
    [clip] = build_unsplit(tmp_path).select("train", "music")
    later = (tmp_path / "corpus" / clip.path).stat().st_mtime + 10
    os.utime(write(music / "a.wav", tone(13)), (later, later))
    [clip] = build_unsplit(tmp_path).select("train", "music")
    assert clip.duration_s == 13


def test_another_folder_of_the_same_names_gives_its_own_sound(tmp_path: Path) -> None:
    write(tmp_path / "speech/a.wav", tone(1))
    for year, hz in (("2023", 300), ("2024", 3000)):
        os.utime(write(tmp_path / year / "music/CD1/01.wav", tone(11, hz)), (1e9, 1e9))
        build_from_folders(
            tmp_path / "corpus", tmp_path / year / "music", tmp_path / "speech", valid_share=0, test_share=0
        )
        [clip] = load_corpus(tmp_path / "corpus").select("train", "music")
        samples, _ = soundfile.read(tmp_path / "corpus" / clip.path)
        assert np.abs(np.fft.rfft(samples)).argmax() / clip.duration_s == hz


def test_a_clip_is_not_made_anew_when_its_recording_has_another_date_alone(tmp_path: Path) -> None:
    write(tmp_path / "speech/a.wav", tone(1))
    recording = write(tmp_path / "music/a.wav", tone(11))
    [clip] = build_unsplit(tmp_path).select("train", "music")
    written = (tmp_path / "corpus" / clip.path).stat().st_mtime_ns
    os.utime(recording, (4e9, 4e9))
    build_unsplit(tmp_path)
    assert (tmp_path / "corpus" / clip.path).stat().st_mtime_ns == written


def build_unsplit(folder: Path) -> Corpus:
    return build_from_folders(
        folder / "corpus", folder / "music", folder / "speech", valid_share=0, test_share=0
    )


def test_one_bad_file_does_not_end_the_build(tmp_path: Path, own_folders: tuple[Path, Path]) -> None:
    samples = tone(11)
    samples[7] = np.nan
    soundfile.write(own_folders[0] / "band0/nan.wav", samples, RATE, subtype="FLOAT")
    corpus = build_from_folders(tmp_path / "corpus", *own_folders)
    assert len(corpus.clips) == 36
    dropped = {row["recording"]: row["reason"] for row in rows_of(tmp_path / "corpus/dropped.csv")}
    assert dropped["band0/nan.wav"] == "samples that are not finite numbers"
    assert not [*corpus.folder.rglob("*.partial")]


def test_a_folder_that_cannot_be_written_to_is_named() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        with _without_privileges(), pytest.raises(InputError, match=f"{name}: cannot be written to"):
            build_from_folders(folder, folder, folder)


@contextmanager
def _without_privileges() -> Iterator[None]:
    """Root may write everywhere, so what is inside runs as nobody, where the tests run as root."""
    if os.getuid() != 0:
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.mark.parametrize(("valid_share", "test_share"), [(0.5, 0.5), (-0.1, 0.1)])
def test_shares_that_leave_nothing_are_refused(tmp_path: Path, valid_share: float, test_share: float) -> None:
    with pytest.raises(InputError, match="below 1"):
        build_from_folders(tmp_path, tmp_path, tmp_path, valid_share=valid_share, test_share=test_share)


def test_a_folder_without_sound_is_named(tmp_path: Path) -> None:
    (tmp_path / "music").mkdir()
    (tmp_path / "music/readme.txt").write_text("no music")
    with pytest.raises(InputError, match=r"music: gives no music for training"):
        build_from_folders(tmp_path / "corpus", tmp_path / "music", tmp_path / "music")
    with pytest.raises(InputError, match=r"nowhere: not a folder"):
        build_from_folders(tmp_path / "corpus", tmp_path / "nowhere", tmp_path / "music")


# Too few sources


def names_in(low: float, high: float) -> Iterator[str]:
    """Names of sources that their hash puts there: below 0.1 is valid, below 0.2 is test."""
    return (name for name in map(str, count()) if low <= debian.stable_fraction(name) < high)


def write_sources(folder: Path, kind: str, names: list[str]) -> None:
    for number, name in enumerate(names):
        write(folder / kind / name / "a.wav", tone(11, 300 + 50 * number))


def test_one_speaker_is_refused_with_the_cure(tmp_path: Path) -> None:
    write_sources(tmp_path, "music", ["a", "b", "c", "d"])
    write_sources(tmp_path, "speech", ["me"])
    with pytest.raises(InputError) as refused:
        build_from_folders(tmp_path / "corpus", tmp_path / "music", tmp_path / "speech")
    message = str(refused.value)
    assert "no speech for valid, no speech for test" in message
    assert f"4 of music in {tmp_path / 'music'}, 1 of speech in {tmp_path / 'speech'}" in message
    assert "each kind needs 3 or more, one each for train, valid, test" in message
    assert "a subfolder, or a file beside the subfolders" in message


@pytest.mark.parametrize(
    "names",
    [
        [*islice(names_in(0.2, 1), 2)],
        [*islice(names_in(0, 0.1), 2)],
        [*islice(names_in(0, 0.1), 1), *islice(names_in(0.1, 0.2), 1)],
        [*islice(names_in(0.1, 0.2), 1), *islice(names_in(0.2, 1), 1)],
    ],
    ids=["both train", "both valid", "valid and test", "test and train"],
)
def test_two_speakers_are_enough_to_train_and_the_missing_test_is_told(
    tmp_path: Path, names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_sources(tmp_path, "music", ["a", "b", "c", "d"])
    write_sources(tmp_path, "speech", names)
    corpus = build_from_folders(tmp_path / "corpus", tmp_path / "music", tmp_path / "speech")
    assert len(corpus.select("train", "speech")) == len(corpus.select("valid", "speech")) == 1
    [message] = caplog.messages
    assert "no speech for test;" in message
    assert "2 of speech" in message
    assert "can be trained on" in message


@pytest.mark.parametrize(("low", "high"), [(0, 0.1), (0.1, 0.2), (0.2, 1)])
def test_three_sources_fill_all_splits_wherever_their_hashes_lie(
    tmp_path: Path, low: float, high: float, caplog: pytest.LogCaptureFixture
) -> None:
    for kind in ("music", "speech"):
        write_sources(tmp_path, kind, [*islice(names_in(low, high), 3)])
    corpus = build_from_folders(tmp_path / "corpus", tmp_path / "music", tmp_path / "speech")
    for split in ("train", "valid", "test"):
        assert len(corpus.select(split, "music")) == len(corpus.select(split, "speech")) == 1
    assert not caplog.messages


def test_what_took_a_split_without_a_clip_is_named(tmp_path: Path) -> None:
    for kind in ("music", "speech"):
        write_sources(tmp_path, kind, [*islice(names_in(0.2, 1), 3)])
    [valid] = islice(names_in(0, 0.1), 1)
    (tmp_path / "music" / f"{valid}.jpg").write_bytes(b"no sound")
    with pytest.raises(InputError, match=rf"no music for valid;.* take out .* such as {valid}$"):
        build_from_folders(tmp_path / "corpus", tmp_path / "music", tmp_path / "speech")


def test_utterances_that_would_each_be_a_speaker_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "music/a.wav", tone(11))
    for number in range(3):
        write(tmp_path / f"speech/{number}.wav", tone(1, 300 + 50 * number))
        write(tmp_path / f"speech/voice/{number}.wav", tone(1, 600 + 50 * number))
    write(tmp_path / "speech/interview.wav", tone(13))
    build_unsplit(tmp_path)
    [message] = caplog.messages
    assert "count as a speaker each, and 3 of them last less than 12 s" in message
    assert "put each speaker's files into a folder of their own" in message


# Reading


def test_a_folder_without_a_corpus_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no corpus here.*bgm corpus build"):
        load_corpus(tmp_path)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("", "empty"),
        ("split,kind,package,source,path,duration_s,rms_db\n", "empty"),
        ("split,kind\ntrain,music\n", "broken"),
        ("split,kind,package,source,path,duration_s,rms_db\ntrain,music,p,s,a.flac,long,-20\n", "broken"),
        ("split,kind,package,source,path,duration_s,rms_db\ntrain,noise,p,s,a.flac,12,-20\n", "broken"),
        (
            "split,kind,package,source,path,duration_s,rms_db\ntrain,music,p,s,a.flac,12,-20\n",
            "a.flac: missing",
        ),
    ],
)
def test_a_bad_manifest_is_one_clear_error(tmp_path: Path, manifest: str, message: str) -> None:
    (tmp_path / "corpus.csv").write_text(manifest)
    with pytest.raises(InputError, match=message):
        load_corpus(tmp_path)
