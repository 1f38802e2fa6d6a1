"""Which prompts a run works on: portraits x clips of speech, checked once, split for good.

The two folders are local or on S3; prompts keep the paths or URLs, so that any worker can read the files.
Everything unusable is quarantined with its reason and the rest goes on. Recordings (and, from four of them
on, portraits) of the evaluation never occur in the curation: what lies in a subfolder `evaluation` is kept
for it, and without one a share is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import zip_longest
from pathlib import Path

import numpy as np

from ft2ray.errors import MediaError, UserError
from ft2ray.media.audio import SAMPLE_RATE, check_speech, read_audio
from ft2ray.media.face import FaceMesher
from ft2ray.media.portrait import load_portrait
from ft2ray.records import Prompt, content_id
from ft2ray.rounds.duplicates import picture_print, same_picture, same_sound, sound_print
from ft2ray.rounds.plan import Plan, Quarantined
from ft2ray.rounds.settings import PromptSettings
from ft2ray.storage import absolute, base_name, join, list_files, local_path

HELD_OUT = "evaluation"  # subfolder of portraits or speech that only the evaluation uses
MIN_SHARE = 0.9  # a last clip that is this much of `seconds` long is kept and filled up with silence


@dataclass(frozen=True)
class _Recording:
    path: str
    audio_id: str
    audible_starts: tuple[float, ...]  # on the grid of hop_seconds
    print_BF: np.ndarray
    held_out: bool


def plan_prompts(config: PromptSettings, size: int) -> Plan:
    """Read and check every file of the two folders.

    Args:
        config: where they are, and how many prompts to make of them.
        size: pixels of the square video.

    Raises:
        UserError: where nothing usable is left.
    """
    quarantined: list[Quarantined] = []
    portraits: dict[str, str] = {}  # portrait_id -> path
    pictures: dict[str, np.ndarray] = {}  # path -> print
    recordings: dict[str, _Recording] = {}
    held_out: set[str] = set()  # ids of portraits
    mesher = FaceMesher()
    for path, kept in _split_files(config.portraits, "portraits"):
        if kept and len(held_out) == config.evaluation_prompts:
            continue  # every prompt has a portrait of its own
        try:
            _require_text(path)
            portrait = load_portrait(path, size=size, mesher=mesher)
            picture_P = picture_print(portrait.image_HW3)
            _refuse_copy(
                path, (there for there, known_P in pictures.items() if same_picture(known_P, picture_P))
            )
            portraits[portrait.portrait_id], pictures[path] = path, picture_P
            held_out |= {portrait.portrait_id} if kept else set()
        except MediaError as error:
            quarantined.append(Quarantined(_shown(path), error.reason, str(error)))
    for path, kept in _split_files(config.speech, "speech"):
        known = recordings.values()
        if kept and sum(there.held_out for there in known) == config.evaluation_prompts:
            continue
        try:
            _require_text(path)
            recording = _inspect_recording(path, kept, config)
            _refuse_copy(
                path, (there.path for there in known if same_sound(there.print_BF, recording.print_BF))
            )
            recordings[recording.audio_id] = recording
        except MediaError as error:
            quarantined.append(Quarantined(_shown(path), error.reason, str(error)))
    _require_usable(portraits.keys() - held_out, config.portraits, "portrait", quarantined)
    own = {name for name, recording in recordings.items() if not recording.held_out}
    _require_usable(own, config.speech, "recording", quarantined)

    curation_portraits, evaluation_portraits = _split_portraits(portraits, held_out)
    curation_clips, evaluation_clips = _split_recordings(list(recordings.values()), config)
    return Plan(
        curation=_cross(curation_portraits, curation_clips, config, size)[: config.curation_prompts],
        evaluation=_cross(evaluation_portraits, evaluation_clips, config, size)[: config.evaluation_prompts],
        quarantined=quarantined,
    )


def read_sound(prompt: Prompt, max_seconds: float) -> np.ndarray:
    """wav_T of exactly `prompt.seconds`, filled up with silence where the recording ends."""
    samples = round(prompt.seconds * SAMPLE_RATE)
    start = round(prompt.start_seconds * SAMPLE_RATE)
    wav_T = read_audio(prompt.speech, max_seconds)[start : start + samples]
    return np.pad(wav_T, (0, samples - len(wav_T)))


def media_files(folder: str, embedded: str) -> list[str]:
    """Paths or URLs of all files below a folder, "embedded" being the package's own.

    Raises:
        UserError: where there is no folder, or nothing in it.
    """
    root = _root(folder, embedded)
    files = [join(root, file) for file in list_files(root, recursive=True)]
    path = local_path(root)
    if path is not None:  # named and quarantined, not passed over
        files += [str(link) for link in path.rglob("*") if link.is_symlink() and not link.exists()]
    if not files and path is not None and not path.is_dir():
        raise UserError(f"prompts: no folder {root}; give a folder of {embedded} or 'embedded'")
    if not files:
        raise UserError(f"prompts: {root} holds no files; put your {embedded} there")
    return files


def _require_text(path: str) -> None:
    """Refuse a name that is not text: the store keeps the paths of prompts as text."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise MediaError(
            "name", f"{_shown(base_name(path))}: its name is not UTF-8 text; rename the file."
        ) from error


def _shown(path: str) -> str:
    """The path as text, with escapes for the bytes that are none."""
    return path.encode(errors="backslashreplace").decode()


def _root(folder: str, embedded: str) -> str:
    if folder == "embedded":
        return str(Path(str(resources.files("ft2ray"))) / "assets" / embedded)
    return absolute(folder)


def _split_files(folder: str, embedded: str) -> list[tuple[str, bool]]:
    """Find the media files of a folder, and whether each lies in the subfolder HELD_OUT.

    Args:
        folder: of the user's, or "embedded".
        embedded: the package's folder of this kind of media.

    Returns:
        (path, held out) of each.

    Raises:
        UserError: where all are held out.
    """
    kept = join(_root(folder, embedded), HELD_OUT) + "/"
    found = [(path, path.startswith(kept)) for path in media_files(folder, embedded)]
    if all(held_out for _, held_out in found):
        raise UserError(
            f"prompts: all {embedded} lie in {kept}; put those of the curation beside that folder"
        )
    return found


def _refuse_copy(path: str, there: Iterator[str]) -> None:
    """The same content twice, in whatever encoding, would lie on both sides of the split."""
    if (first := next(there, None)) is not None:
        raise MediaError(
            "duplicate", f"{base_name(path)}: holds the same as {base_name(first)}; the first counts"
        )


def _require_usable(found: set[str], folder: str, kind: str, quarantined: list[Quarantined]) -> None:
    if not found:
        why = "; ".join(f"{base_name(q.path)}: {q.message}" for q in quarantined)
        raise UserError(f"prompts: no usable {kind} in {folder} ({why})")


def _inspect_recording(path: str, held_out: bool, config: PromptSettings) -> _Recording:
    wav_T = read_audio(path, config.max_recording_seconds)
    check_speech(wav_T, max_seconds=config.max_recording_seconds)
    total = len(wav_T) / SAMPLE_RATE
    starts = np.arange(0.0, max(total - MIN_SHARE * config.seconds, 0.0) + 1e-6, config.hop_seconds)
    audible = []
    for start in starts:
        clip = wav_T[round(start * SAMPLE_RATE) : round((start + config.seconds) * SAMPLE_RATE)]
        try:
            check_speech(clip)
            audible.append(float(start))
        except MediaError:
            continue  # a pause inside a good recording; the recording itself is judged above and below
    if not audible or total < MIN_SHARE * config.seconds:
        needed = MIN_SHARE * config.seconds
        raise MediaError(
            "too_short", f"{base_name(path)}: no {needed:.1f} s of speech in one piece; record longer"
        )
    return _Recording(path, content_id(wav_T.tobytes()), tuple(audible), sound_print(wav_T), held_out)


def _split_portraits(portraits: dict[str, str], held_out: set[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Those of the curation and of the evaluation.

    Where no folder says it, a quarter of four portraits or more is kept for the evaluation; both use fewer.
    """
    ids = sorted(portraits)
    held_out = held_out or set(ids[: len(ids) // 4])
    rest, kept = [i for i in ids if i not in held_out], [i for i in ids if i in held_out]
    return {i: portraits[i] for i in rest or ids}, {i: portraits[i] for i in kept or ids}


_Clip = tuple[_Recording, float]


def _split_recordings(
    recordings: list[_Recording], config: PromptSettings
) -> tuple[list[_Clip], list[_Clip]]:
    """Clips of the curation and of the evaluation.

    Where no folder says it, a third of the recordings is kept for the evaluation; a single one is cut in two,
    nothing shared.
    """
    recordings = sorted(recordings, key=lambda r: r.audio_id)
    named = {r.audio_id for r in recordings if r.held_out}
    kept = named or {r.audio_id for r in recordings[: max(1, len(recordings) // 3)]}
    if len(recordings) > 1:
        overlapping = [[(r, s) for s in r.audible_starts] for r in recordings if r.audio_id not in kept]
        apart = [
            [(r, s) for s in _apart(r.audible_starts, config.seconds)]
            for r in recordings
            if r.audio_id in kept
        ]
        return _in_turn(overlapping), _in_turn(apart)
    (only,) = recordings
    starts = only.audible_starts
    evaluation = [(only, s) for s in _apart(starts, config.seconds)]
    evaluation = evaluation[-max(1, len(evaluation) // 3) :]
    first = evaluation[0][1]
    curation = [(only, s) for s in starts if s + config.seconds <= first + 1e-6]
    if not curation:
        raise UserError(
            f"prompts: {only.path} is the only recording and too short to keep a part for the evaluation; "
            f"give at least {2 * config.seconds:.0f} s of speech or a second recording"
        )
    return curation, evaluation


def _in_turn(clips: list[list[_Clip]]) -> list[_Clip]:
    """The first clip of every recording, then the second ones: a prefix hears as many voices as it can."""
    return [clip for turn in zip_longest(*clips) for clip in turn if clip is not None]


def _apart(starts: tuple[float, ...], seconds: float) -> list[float]:
    """The starts whose clips of `seconds` do not overlap, from the left."""
    chosen: list[float] = []
    for start in starts:
        if not chosen or start >= chosen[-1] + seconds - 1e-6:
            chosen.append(start)
    return chosen


def _cross(portraits: dict[str, str], clips: list[_Clip], config: PromptSettings, size: int) -> list[Prompt]:
    """Portraits x clips in diagonals, so that a prefix of the list spreads over both."""
    prompts, faces = [], sorted(portraits)
    for diagonal in range(len(faces)):
        for n, (recording, start) in enumerate(clips):
            portrait_id = faces[(n + diagonal) % len(faces)]
            prompts.append(
                Prompt(
                    prompt_id=content_id(portrait_id, recording.audio_id, start, config.seconds, size),
                    portrait=portraits[portrait_id],
                    speech=recording.path,
                    start_seconds=start,
                    seconds=config.seconds,
                )
            )
    return prompts
