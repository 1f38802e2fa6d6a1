"""Prompts are planned from what is usable; the rest is named, and the two splits share no sound."""

import dataclasses
import json
import os
import shutil
from importlib import resources
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from ft2ray import storage
from ft2ray.errors import MediaError, UserError
from ft2ray.media.audio import SAMPLE_RATE, read_audio
from ft2ray.rounds.duplicates import picture_print, same_picture, same_sound, sound_print
from ft2ray.rounds.prompts import plan_prompts, read_sound
from ft2ray.rounds.settings import PromptSettings

ASSETS = Path(str(resources.files("ft2ray"))) / "assets"


@pytest.fixture
def media(tmp_path):
    """A folder of portraits and one of speech with a good file each."""
    portraits, speech = tmp_path / "portraits", tmp_path / "speech"
    portraits.mkdir()
    speech.mkdir()
    shutil.copy(ASSETS / "portraits" / "grace_hopper.jpg", portraits)
    shutil.copy(ASSETS / "speech" / "sense_and_sensibility_0870.flac", speech)
    return portraits, speech


def plan(media, **settings):
    return plan_prompts(PromptSettings(portraits=str(media[0]), speech=str(media[1]), **settings), 256)


def spans(prompts):
    return {(p.speech, p.start_seconds, p.start_seconds + p.seconds) for p in prompts}


def test_the_embedded_media_give_both_splits_without_shared_sound():
    planned = plan_prompts(PromptSettings(), 256)
    assert planned.curation and planned.evaluation and not planned.quarantined
    assert not {p.speech for p in planned.curation} & {p.speech for p in planned.evaluation}
    everything = planned.curation + planned.evaluation
    assert len({p.prompt_id for p in everything}) == len(everything)
    assert plan_prompts(PromptSettings(), 256) == planned


def test_the_embedded_media_evaluate_on_24_readers_and_a_dozen_faces():
    planned = plan_prompts(PromptSettings(evaluation_prompts=24), 256)
    assert len({p.speech for p in planned.evaluation}) == len(planned.evaluation) == 24
    assert len({p.portrait for p in planned.evaluation}) >= 12
    assert not {p.portrait for p in planned.curation} & {p.portrait for p in planned.evaluation}


def test_what_lies_in_a_folder_named_evaluation_is_kept_for_it(media):
    portraits, speech = media
    for folder, file in ((portraits, "astronaut.jpg"), (speech, "sense_and_sensibility_0890.flac")):
        (folder / "evaluation").mkdir()
        shutil.copy(ASSETS / folder.name / file, folder / "evaluation")
    planned = plan(media)
    for prompts, kept in ((planned.curation, False), (planned.evaluation, True)):
        assert prompts and {Path(p.speech).parent.name == "evaluation" for p in prompts} == {kept}
        assert {Path(p.portrait).parent.name == "evaluation" for p in prompts} == {kept}


def test_nothing_but_a_folder_named_evaluation_leaves_nothing_to_curate(media):
    (media[1] / "evaluation").mkdir()
    shutil.move(media[1] / "sense_and_sensibility_0870.flac", media[1] / "evaluation")
    with pytest.raises(UserError, match="all speech lie in .*evaluation"):
        plan(media)


def test_a_single_recording_is_cut_in_two(media):
    planned = plan(media)
    for _, start, end in spans(planned.curation):
        assert all(end <= s + 1e-6 or e <= start + 1e-6 for _, s, e in spans(planned.evaluation))


def test_few_prompts_hear_as_many_recordings_as_there_are(media):
    for other in ("0880", "0890", "0920", "0930"):
        shutil.copy(ASSETS / "speech" / f"sense_and_sensibility_{other}.flac", media[1])
    first = read_audio(media[1] / "sense_and_sensibility_0870.flac")
    wavfile.write(media[1] / "a_part.wav", SAMPLE_RATE, first[SAMPLE_RATE:])
    planned = plan(media, curation_prompts=4, evaluation_prompts=2)  # 6 recordings, a third of them held out
    assert len({p.speech for p in planned.curation}) == 4
    assert len({p.speech for p in planned.evaluation}) == 2


def test_every_bad_file_is_named_and_the_rest_goes_on(media):
    portraits, speech = media
    (portraits / "text.jpg").write_text("this is not a picture")
    good = (portraits / "grace_hopper.jpg").read_bytes()
    (portraits / "cut.jpg").write_bytes(good[: len(good) // 3])
    (portraits / "empty.png").write_bytes(b"")
    (portraits / "link.png").symlink_to(portraits / "moved.png")
    wavfile.write(speech / "silence.wav", SAMPLE_RATE, np.zeros(5 * SAMPLE_RATE, np.int16))
    wavfile.write(speech / "short.wav", SAMPLE_RATE, np.full(SAMPLE_RATE // 10, 3000, np.int16))
    (speech / "text.wav").write_text("not a sound")
    noise = np.random.default_rng(0).integers(-9000, 9000, 40 * SAMPLE_RATE).astype(np.int16)
    wavfile.write(speech / "long.wav", SAMPLE_RATE, noise)
    planned = plan(media, max_recording_seconds=30.0)
    reasons = {Path(q.path).name: q.reason for q in planned.quarantined}
    assert reasons == {
        "text.jpg": "unreadable",
        "cut.jpg": "unreadable",
        "empty.png": "unreadable",
        "link.png": "unreadable",
        "silence.wav": "silence",
        "short.wav": "too_short",
        "text.wav": "unreadable",
        "long.wav": "too_long",
    }
    assert all(q.message.endswith(".") for q in planned.quarantined)
    assert planned.curation and planned.evaluation


def test_a_name_that_the_store_cannot_hold_is_quarantined_at_the_start(media):
    """Bytes that are not UTF-8, from an old disk: Parquet would refuse the path after the first groups."""
    for folder, name in zip(media, (b"caf\xe9.jpg", b"caf\xe9.flac"), strict=True):
        (good,) = folder.iterdir()
        shutil.copy(good, os.fsencode(folder) + b"/" + name)
    planned = plan(media)
    assert {q.reason for q in planned.quarantined} == {"name"} and len(planned.quarantined) == 2
    assert all("rename the file" in q.message and "\\udce9" in q.path for q in planned.quarantined)
    json.dumps(dataclasses.asdict(planned), ensure_ascii=False).encode()


def test_nothing_usable_is_one_clear_error(media):
    portraits, _ = media
    (portraits / "grace_hopper.jpg").write_text("gone")
    with pytest.raises(ValueError, match="no usable portrait.*grace_hopper.jpg"):
        plan(media)
    (portraits / "grace_hopper.jpg").unlink()
    with pytest.raises(ValueError, match="holds no files"):
        plan(media)
    shutil.rmtree(portraits)
    with pytest.raises(ValueError, match="no folder"):
        plan(media)


def test_the_same_photo_twice_counts_once(media):
    before = plan(media)
    shutil.copy(media[0] / "grace_hopper.jpg", media[0] / "again.jpg")
    after = plan(media)
    assert [p.prompt_id for p in after.curation] == [p.prompt_id for p in before.curation]


def test_a_clip_is_always_exactly_as_long_as_asked(media):
    speech = media[1] / "sense_and_sensibility_0870.flac"
    samples = int(2.8 * SAMPLE_RATE)
    whole_T = read_audio(speech)
    speech.unlink()
    for name, wav_T in (("a.wav", whole_T[:samples]), ("b.wav", whole_T[samples : 2 * samples])):
        wavfile.write(media[1] / name, SAMPLE_RATE, wav_T)
    planned = plan(media)
    (prompt,) = planned.curation
    clip_T = read_sound(prompt, 300.0)
    assert clip_T.shape == (3 * SAMPLE_RATE,)
    assert np.abs(clip_T[:samples]).max() > 0 and not clip_T[samples:].any()


def test_folders_on_s3_give_the_same_prompts_under_their_urls(media, s3):
    (media[0] / "text.jpg").write_text("this is not a picture")
    storage.upload_folder(media[0].parent, s3, last="")
    here, there = plan(media), plan((f"{s3}/portraits", f"{s3}/speech"))
    for one, other in ((here.curation, there.curation), (here.evaluation, there.evaluation)):
        assert [p.prompt_id for p in one] == [p.prompt_id for p in other]
    prompt = there.curation[0]
    assert prompt.portrait == f"{s3}/portraits/grace_hopper.jpg" and prompt.speech.startswith(f"{s3}/speech/")
    assert np.array_equal(read_sound(prompt, 300.0), read_sound(here.curation[0], 300.0))
    assert [q.path for q in there.quarantined] == [f"{s3}/portraits/text.jpg"]
    storage.delete(prompt.speech)
    with pytest.raises(MediaError, match="there is no such file"):
        read_sound(prompt, 300.0)
    with pytest.raises(ValueError, match="holds no files"):
        plan((f"{s3}/portraits", f"{s3}/nothing"))


@pytest.mark.parametrize(
    ("name", "codec", "rate"), [("a.mp3", "libmp3lame", 22_050), ("a.ogg", "libopus", 48_000)]
)
def test_a_recording_in_two_encodings_counts_once(media, name, codec, rate):
    other = ASSETS / "speech" / "sense_and_sensibility_0890.flac"
    shutil.copy(other, media[1])
    encode(other, media[1] / name, codec, rate)
    planned = plan(media)
    (refused,) = planned.quarantined
    assert (
        refused.reason == "duplicate"
        and "sense_and_sensibility_0890.flac: holds the same as a." in refused.message
    )
    heard = [{Path(p.speech).name for p in split} for split in (planned.curation, planned.evaluation)]
    assert heard[0] | heard[1] == {name, "sense_and_sensibility_0870.flac"} and not heard[0] & heard[1]


def test_a_portrait_in_two_encodings_counts_once(media):
    Image.open(media[0] / "grace_hopper.jpg").save(media[0] / "again.jpg", quality=40)
    Image.open(media[0] / "grace_hopper.jpg").save(media[0] / "lossless.png")
    shutil.copy(ASSETS / "portraits" / "astronaut.jpg", media[0])
    planned = plan(media)
    assert [q.reason for q in planned.quarantined] == ["duplicate"] * 2
    assert {Path(p.portrait).name for p in planned.curation} == {"again.jpg", "astronaut.jpg"}


def test_silence_and_flat_pictures_are_not_all_the_same():
    assert not same_sound(sound_print(np.zeros(SAMPLE_RATE)), sound_print(np.zeros(SAMPLE_RATE)))
    assert not same_picture(picture_print(np.zeros((32, 32, 3))), picture_print(np.full((32, 32, 3), 9)))


def encode(source: Path, out: Path, codec: str, rate: int) -> None:
    with av.open(str(source)) as old, av.open(str(out), "w") as new:
        stream = new.add_stream(codec, rate=rate, layout="mono")
        resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=rate)
        fifo = av.AudioFifo()
        for frame in [*old.decode(audio=0), None]:
            for piece in resampler.resample(frame):
                piece.pts = None
                fifo.write(piece)
        while (piece := fifo.read(stream.codec_context.frame_size or 1024, partial=True)) is not None:
            new.mux(stream.encode(piece))
        new.mux(stream.encode(None))
