"""An annotator at work on real files."""

import itertools

import numpy as np
import pytest

from ft2ray.errors import DataError
from ft2ray.labels.answers import answer_store, current, read_answers
from ft2ray.labels.clips import open_source
from ft2ray.labels.queue import QueueSettings
from ft2ray.labels.sitting import Sitting
from ft2ray.media.audio import read_audio


@pytest.fixture
def shown(tmp_path):
    (tmp_path / "shown").mkdir()
    return tmp_path / "shown"


def sit(folder, name="Anna", checks=0.0, **more):
    moments = itertools.count(100.0, 2.0)
    return Sitting(
        open_source(folder), name, settings=QueueSettings(checks=checks), clock=lambda: next(moments), **more
    )


def test_the_file_on_the_screen_is_the_clip_under_a_name_that_tells_nothing(folder, shown):
    sitting = sit(folder)
    (path,) = sitting.show(shown)
    assert path.read_bytes() == (folder / sitting.task.clip).read_bytes()
    assert "person" not in path.name
    sitting.answer("yes")
    (other,) = sitting.show(shown)
    assert list(shown.iterdir()) == [other] != [path]


def test_answers_are_kept_with_place_time_and_content_and_can_be_taken_back(folder, shown):
    sitting = sit(folder)
    first = sitting.task
    sitting.show(shown)
    assert sitting.answer("yes") and sitting.answer("no")
    assert sitting.undo() and sitting.undo() and not sitting.undo()
    assert sitting.task == first
    sitting.answer("no")
    rows = read_answers(answer_store(folder))
    assert [(row.answer, row.revision, row.place) for row in rows] == [
        ("yes", 0, 0),
        ("no", 0, 1),
        (None, 1, 2),
        (None, 1, 1),
        ("no", 2, 0),
    ]
    assert [a.answer for a in current(rows)] == ["no"]
    assert rows[0].seconds == 2.0 and len(rows[0].clip_id) == 16


def test_who_comes_back_goes_on_and_a_second_page_gives_no_second_answer(folder):
    one, two = sit(folder), sit(folder)
    seen = one.task.task_id
    assert one.answer("yes", seen)
    assert not two.answer("no", seen), "the task was answered elsewhere"
    assert two.task == one.task
    assert not two.answer("no", seen), "that task is not on the screen any more"
    assert sit(folder).task == one.task
    assert [a.answer for a in read_answers(answer_store(folder))] == ["yes"]


def test_a_clip_that_is_deleted_meanwhile_is_passed_over_and_named(folder, shown):
    sitting = sit(folder)
    gone = sitting.task.clip
    (folder / gone).unlink()
    (path,) = sitting.show(shown)
    assert sitting.gone == [gone] and sitting.task.clip != gone and path.is_file()
    assert gone not in {task.clip for task in sitting.tasks}


def test_a_clip_that_is_deleted_while_it_is_on_the_screen_is_no_crash(folder, shown):
    sitting = sit(folder)
    sitting.show(shown)
    (folder / sitting.task.clip).unlink()
    with pytest.raises(DataError, match="gone"):
        sitting.answer("yes")


def test_a_wrong_sound_is_that_of_the_other_clip(folder, shown):
    sitting = sit(folder, checks=0.5, dimensions=("ls",))
    for _ in range(20):
        if sitting.task is None or sitting.task.check == "wrong_sound":
            break
        sitting.answer("yes")
    task = sitting.task
    assert task is not None and task.check == "wrong_sound"
    (path,) = sitting.show(shown)
    spectrum = [
        np.abs(np.fft.rfft(read_audio(file)[:7000])).argmax()
        for file in (path, folder / task.sound, folder / task.clip)
    ]
    assert abs(spectrum[0] - spectrum[1]) <= 1 < abs(spectrum[0] - spectrum[2])


def test_another_word_than_the_task_knows_is_refused(folder):
    with pytest.raises(DataError, match="give one of yes, no, skip"):
        sit(folder).answer("maybe")


def test_a_folder_without_clips_says_so(tmp_path):
    with pytest.raises(DataError, match="holds no clip"):
        open_source(tmp_path)
