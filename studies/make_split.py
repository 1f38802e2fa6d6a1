"""Assign every person of a media folder to one role, once: python studies/make_split.py MEDIA.

Writes studies/split.csv (file, person, role, split), the only place that says who is used for what. A
person's films, pictures and recordings have one role and one split, so that nothing learns from a person on
whom something else is measured. Files that the manifest marks `measure` only ever measure.

Roles:
    base        the generators' training film and speech
    annotators  the film behind the simulated annotators' own lip predictor
    critic      film, portraits and speech of the critic's training
    judges      film that the judges are fitted on (train), with which measures are chosen (validation) and
                on which their validity is reported (test); decoy speech (train)
    prompts     portraits and speech that generators animate: curation (train), choices (validation), reported
                figures (test)
    package     portraits (as blends only) and speech that the package ships for its own evaluation
"""

from __future__ import annotations

import argparse
import csv
import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

SPLIT = Path(__file__).with_name("split.csv")
SEED = 12

# Film has few people, and which clips show the same person no manifest says: looked at, assigned by hand.
# GRID s1 and the speaker of sbia1a belong to the judge that the package has had from the start.
FILM = {
    "grid_s1": (("grid_s1_", "grid_bbaf2n", "grid_test_video"), "judges", "train"),
    "grid_sbia1a": (("grid_sbia1a",), "judges", "train"),
    "grid_hq": (("grid_hq_", "grid_lwbsza"), "annotators", "train"),
    "grid_pwij3p": (("grid_pwij3p", "grid_swwp2s"), "base", "train"),
    "grid_brbk7n": (("grid_brbk7n",), "base", "train"),
    "grid_lbax4n": (("grid_lbax4n",), "base", "train"),
    "grid_u1": (("grid_u1_",), "base", "train"),
    "usg_weekly": (("usg_weekly_",), "base", "train"),
    "grid_lbbc2a": (("grid_lbbc2a",), "base", "validation"),
    "grid_u2": (("grid_u2_",), "critic", "train"),
    "grid_s31": (("grid_s31_",), "judges", "test"),
    "grid_u3": (("grid_u3_",), "judges", "validation"),
    # usg_0071 is a portrait of the same person
    "wild_1": (("hdtf_a", "retalk_3", "usg_0071"), "judges", "test"),
    "wild_2": (("latentsync_1",), "judges", "validation"),
    "wild_3": (("pcavs_00086",), "judges", "test"),
    "wild_4": (("pcavs_00098",), "judges", "validation"),
    "wild_5": (("pcavs_00104", "pcavs_741400163"), "judges", "test"),
    "wild_6": (("pcavs_00473",), "judges", "test"),
    "wild_7": (("pcavs_517600055",), "judges", "test"),
    "wild_8": (("pcavs_796100172",), "judges", "validation"),
    "wild_9": (("retalk_1",), "judges", "validation"),
    "wild_10": (("retalk_2",), "judges", "test"),
}
SPEECH_TRAIN = (("package", "test", 24), ("prompts", "train", 22), ("judges", "train", 8),
                ("critic", "train", 12), ("critic", "validation", 4))  # fmt: skip
"""People of train speech, drawn in this order; the others train the base."""
PORTRAITS_PACKAGE = 72
"""Portraits that become 24 blends of three; of the others every fourth validates the critic."""


def speaker(stem: str) -> str:
    """The person of a recording; FLEURS names none, so that each of its languages counts as one."""
    for pattern in (r"libri_\d+", r"vctk_p\d+", r"fleurs_[a-z]+", r"kerstin", r"dreamtalk_\w+?1"):
        if found := re.match(pattern, stem):
            return found[0]
    return stem


SPEECH_TEST = (
    "musetalk_yongen",
    "sadtalker_chinese_news",
    "sadtalker_fayu",
    "sadtalker_rd_radio31_000",
    "sadtalker_rd_radio36_000",
)
"""Other measured speech is for validation; these no choice had used, and the test needed more recordings."""


def film_person(stem: str) -> str | None:
    for person, (prefixes, _, _) in FILM.items():
        if stem.startswith(prefixes):
            return person
    return None


def group(note: str) -> str:
    """Sex and cheek tone as the manifest states them: blends mix people of one group."""
    found = re.search(r"sex (\w).*?cheek tone (\w+)", note)
    return f"{found[1]}-{found[2]}" if found else "unstated"


def assign(rows: Sequence[Mapping[str, str]]) -> dict[str, tuple[str, str, str]]:
    """File -> (person, role, split)."""
    draw = random.Random(SEED)
    found: dict[str, tuple[str, str, str]] = {}
    voices: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    portraits: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        kind, stem = row["file"].split("/")[0], Path(row["file"]).stem
        person = film_person(stem)
        if person is not None:
            found[row["file"]] = (person, *FILM[person][1:])
        elif kind == "clips":
            raise SystemExit(f"{row['file']} is new: look who it shows and add it to FILM")
        elif kind == "speech":
            voices[speaker(stem)].append(row)
        elif row["use"] == "train":
            portraits[group(row["note"])].append(row["file"])
        else:
            split = "validation" if re.match(r"p\d\d_", stem) else "test"
            role = "critic" if stem.startswith("usg_") else "prompts"
            found[row["file"]] = (stem, role, split)
    found |= _assign_speech(voices, draw) | _assign_portraits(portraits, draw)
    return found


def _assign_speech(
    voices: Mapping[str, list[Mapping[str, str]]], draw: random.Random
) -> dict[str, tuple[str, str, str]]:
    role_of: dict[str, tuple[str, str]] = {}
    english = sorted(
        p for p, rows in voices.items() if rows[0]["use"] == "train" and re.match(r"libri_|vctk_", p)
    )
    draw.shuffle(english)
    for role, split, people in SPEECH_TRAIN:
        for person in english[:people]:
            role_of[person] = (role, split)
        english = english[people:]
    measured = sorted(
        p for p, rows in voices.items() if rows[0]["use"] == "measure" and re.match(r"libri_|vctk_", p)
    )
    draw.shuffle(measured)
    role_of |= {person: ("prompts", "test") for person in measured}
    found = {}
    for person, rows in voices.items():
        train = rows[0]["use"] == "train"
        foreign = ("critic", "train") if person == "fleurs_fr" else ("base", "train")
        measured_split = "test" if person in SPEECH_TEST else "validation"
        role, split = role_of.get(person, foreign if train else ("prompts", measured_split))
        found |= {row["file"]: (person, role, split) for row in rows}
    return found


def _assign_portraits(
    portraits: Mapping[str, list[str]], draw: random.Random
) -> dict[str, tuple[str, str, str]]:
    found = {}
    total = sum(len(files) for files in portraits.values())
    for files in portraits.values():
        files = draw.sample(sorted(files), len(files))
        shipped = 3 * round(PORTRAITS_PACKAGE / 3 * len(files) / total)
        for n, file in enumerate(files):
            role = ("package", "test") if n < shipped else ("critic", "train" if n % 4 else "validation")
            found[file] = (Path(file).stem, *role)
    return found


def read_split(path: Path = SPLIT) -> list[dict[str, str]]:
    """The committed rows: file, person, role, split."""
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def files_of(role: str, *splits: str, kind: str, path: Path = SPLIT) -> dict[str, str]:
    """File -> person of one role: kind is clips, portraits or speech."""
    return {
        row["file"]: row["person"]
        for row in read_split(path)
        if row["role"] == role and row["split"] in splits and row["file"].startswith(f"{kind}/")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("media", type=Path)
    with (parser.parse_args().media / "manifest.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    found = assign(rows)
    with SPLIT.open("w", newline="") as lines:
        table = csv.writer(lines, lineterminator="\n")
        table.writerow(["file", "person", "role", "split"])
        table.writerows([file, *found[file]] for file in sorted(found))


if __name__ == "__main__":
    main()
