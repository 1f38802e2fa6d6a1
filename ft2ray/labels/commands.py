"""The commands of people at work: `ft2ray ui | annotate | agree | blind-test`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ft2ray.errors import UserError


def add_commands(commands: Any) -> None:
    """Add them to the parser of `ft2ray`."""
    ui = commands.add_parser(
        "ui", help="label, compare and play in the browser, over a run or a folder of clips"
    )
    ui.add_argument("source", metavar="RUN_OR_FOLDER")
    ui.add_argument(
        "--host", default="127.0.0.1", help="another than loopback needs FT2RAY_TOKEN (127.0.0.1)"
    )
    ui.add_argument("--port", type=int, default=7860)
    ui.set_defaults(run_command=_ui)

    annotate = commands.add_parser("annotate", help="answer questions about clips in the terminal")
    annotate.add_argument("source", metavar="RUN_OR_FOLDER")
    annotate.add_argument("--name", required=True, help="the annotator's")
    annotate.add_argument(
        "--dimension", action="append", default=[], help="asked about; all where none is named"
    )
    annotate.add_argument("--kind", choices=("question", "pair"), default="question", help="one clip, or two")
    annotate.add_argument("--order", choices=("random", "unsure"), default="random")
    annotate.set_defaults(run_command=_annotate)

    agree = commands.add_parser(
        "agree", help="how far annotators agree; also imports and exports their answers"
    )
    agree.add_argument("source", metavar="RUN_OR_FOLDER")
    agree.add_argument(
        "--import", dest="imported", metavar="EXPORT.json", help="answers from Label Studio first"
    )
    agree.add_argument("--out", metavar="LABELS.csv", help="what most people said, to tune a critic on")
    agree.add_argument("--layout", default="table", help="table (default), pairs or chat")
    agree.set_defaults(run_command=_agree)

    blind = commands.add_parser("blind-test", help="which of base and aligned clips people prefer")
    blind.add_argument("run", metavar="RUN_DIR")
    blind.add_argument("--system", default="tlpo", help="that is compared with the base (tlpo)")
    blind.add_argument("--name", help="answer in the terminal first, as this annotator")
    blind.set_defaults(run_command=_blind_test)


def _ui(arguments: argparse.Namespace) -> None:
    from ft2ray.ui.app import serve

    print(f"http://{arguments.host}:{arguments.port} (stop with Ctrl-C)", flush=True)
    serve(arguments.source, arguments.host, arguments.port)


def _annotate(arguments: argparse.Namespace) -> None:
    from ft2ray.labels.clips import open_source
    from ft2ray.labels.queue import QueueSettings
    from ft2ray.labels.sitting import Sitting

    settings = QueueSettings(kind=arguments.kind, order=arguments.order)
    _ask(Sitting(open_source(arguments.source), arguments.name, tuple(arguments.dimension), settings))


def _ask(sitting: Any) -> None:
    """Ask in the terminal until all is answered or the input ends."""
    from ft2ray.labels.answers import QUESTION, WORDS
    from ft2ray.scratch import scratch_folder

    titles = {d.name: (d.question, d.title) for d in sitting.source.dimensions}
    with scratch_folder() as folder:
        shown = folder / "shown"
        shown.mkdir()
        while True:
            paths = sitting.show(shown)
            if sitting.task is None:
                print("That was all. Thank you.")
                return
            question, title = titles[sitting.task.dimension]
            words = WORDS[sitting.task.kind]
            print(*paths, sep="\n")
            compared = f"Which is better in {title}, the first (a) or the second (b)?"
            print(question if sitting.task.kind == QUESTION else compared)
            print(f"[{', '.join(words)}, undo, quit] ", end="", flush=True)
            said = sys.stdin.readline()
            found = [
                word for word in (*words, "undo", "quit") if said.strip() and word.startswith(said.strip())
            ]
            if not said or found == ["quit"]:
                return
            if len(found) != 1:
                print(f"{said.strip()!r} is none of them, or more than one")
            elif found == ["undo"]:
                sitting.undo()
            else:
                sitting.answer(found[0])


def _agree(arguments: argparse.Namespace) -> None:
    from ft2ray.labels.agreement import agreement, reliability
    from ft2ray.labels.answers import answer_store, current, read_answers
    from ft2ray.labels.clips import open_source
    from ft2ray.labels.export import export
    from ft2ray.labels.label_studio import read_label_studio

    source = open_source(arguments.source)
    store = answer_store(source.url)
    if arguments.imported:
        given = read_label_studio(arguments.imported, source)
        new = sum(store.commit_once([answer.to_row()]) for answer in given)
        print(f"{new} of {len(given)} answers are new")
    answers = current(read_answers(store))
    if not answers:
        raise UserError(f"{source.url} holds no answers yet; give some with `ft2ray ui {source.url}`")
    for name, found in agreement(answers).items():
        kappas = ", ".join(f"{a} and {b} {_number(kappa)}" for (a, b), kappa in found.kappas.items())
        print(
            f"{name}: {found.clips} clips, {found.shared} of them answered by several; Krippendorff's alpha "
            f"{_number(found.alpha)}; Cohen's kappa {kappas or 'of nobody'}"
        )
    for name, person in reliability(answers).items():
        print(
            f"{name}: {person.answers} answers, the same again for {person.repeated_alike} of "
            f"{person.repeated} clips, wrong sound noticed in {person.wrong_sound_noticed} of "
            f"{person.wrong_sound}, {person.seconds:.1f} s each"
        )
    if arguments.out:
        done = export(arguments.out, answers, source.url, source.dimensions, arguments.layout)
        print(f"{arguments.out}: {done.rows} rows, {done.divided} answers divided equally")
        if done.left_out:
            print(f"left out, for they are gone or changed: {', '.join(done.left_out)}")


def _blind_test(arguments: argparse.Namespace) -> None:
    from ft2ray import blind_test
    from ft2ray.labels.answers import annotator_name
    from ft2ray.labels.sitting import Sitting
    from ft2ray.run import Run

    run = Run.open(arguments.run)
    if arguments.name:
        pairs = blind_test.blind_pairs(run, arguments.system)
        source = blind_test.blind_source(run, pairs)
        name = annotator_name(arguments.name)
        tasks = blind_test.blind_tasks(pairs, run.config.dimension_names, name)
        _ask(Sitting(source, name, tasks=tasks))
    file = blind_test.write_blind_result(run, arguments.system)
    for text in blind_test.sentences(run):
        print(text)
    print(file)


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.2f}"
