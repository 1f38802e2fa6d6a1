"""The committed split: nobody has two roles, and files for measuring are in no role that learns."""

from __future__ import annotations

from collections import defaultdict

from studies.make_split import assign, files_of, read_split


def test_every_person_has_one_role_and_one_split() -> None:
    roles = defaultdict(set)
    for row in read_split():
        roles[row["person"]].add((row["role"], row["split"]))
    assert {person: found for person, found in roles.items() if len(found) > 1} == {}


def test_every_file_occurs_once() -> None:
    files = [row["file"] for row in read_split()]
    assert len(files) == len(set(files))


def test_no_learner_meets_the_speaker_of_the_judges() -> None:
    speakers = {row["file"] for row in read_split() if row["file"].startswith("clips/grid_s1_")}
    assert speakers and speakers <= files_of("judges", "train", kind="clips").keys()


def test_files_for_measuring_never_train_and_blends_have_enough_people() -> None:
    rows = [
        {"file": f"portraits/usg_{n:04d}.jpg", "use": "train", "note": "sex F, cheek tone light (ITA 50)"}
        for n in range(100)
    ] + [{"file": "speech/libri_7-1-0.flac", "use": "measure", "note": ""}]
    found = assign(rows)
    assert found["speech/libri_7-1-0.flac"][1:] == ("prompts", "test")
    shipped = [file for file, (_, role, _) in found.items() if role == "package"]
    assert len(shipped) == 72
