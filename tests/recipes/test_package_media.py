"""What makes the package's own evaluation media."""

import json
from pathlib import Path

import numpy as np

import ft2ray
from ft2ray.media.audio import SAMPLE_RATE, read_audio
from recipes.embedded import package_portraits
from recipes.embedded.package_portraits import LEAST_DISTANCE, PEOPLE, blend, common_mesh
from recipes.embedded.package_speech import SECONDS, piece, write_flac

ASSETS = Path(ft2ray.__file__).parent / "assets"


def test_every_packaged_blend_is_of_several_people_and_far_from_each():
    made = json.loads(Path(package_portraits.__file__).with_suffix(".json").read_text())
    assert {path.name for path in (ASSETS / "portraits" / "evaluation").iterdir()} == set(made)
    assert all(len(row["distances"]) == PEOPLE for row in made.values())
    assert min(d for row in made.values() for d in row["distances"].values()) >= LEAST_DISTANCE


def test_a_blend_of_one_person_is_that_person_and_of_two_is_neither(hopper, astronaut):
    alone = blend([hopper] * 3)
    assert np.abs(alone.astype(float) - hopper.image_HW3).mean() < 5
    mixed = blend([hopper, astronaut, astronaut])
    assert np.abs(mixed.astype(float) - alone).mean() > 2
    apart = [np.abs(common_mesh(of) - hopper.mesh_P3).mean() for of in ([hopper] * 3, [hopper, astronaut])]
    assert apart[0] < 0.5 < apart[1]


def test_a_piece_begins_where_somebody_begins_to_speak_and_survives_the_file(tmp_path):
    speech = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * SAMPLE_RATE).astype(np.float32)
    cut = piece(np.concatenate([np.zeros(SAMPLE_RATE, np.float32), speech]))
    assert len(cut) == round(SECONDS * SAMPLE_RATE)
    assert not cut[: SAMPLE_RATE // 20].any() and cut[SAMPLE_RATE // 8 :].any()
    write_flac(tmp_path / "a.flac", cut)
    assert np.abs(read_audio(tmp_path / "a.flac") - cut).max() < 1e-3
