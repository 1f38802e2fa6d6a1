"""The command line: `ft2ray align | status | generate | score | report | ui | annotate | ...`.

Every path may be an s3:// URL. An FT2RayError ends as one sentence with its exit code (see errors.py): 2 for
a mistake, 75 for a run that cannot go on for now. Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence

from ft2ray.config import AlignConfig, is_override, load_config, to_yaml
from ft2ray.errors import FT2RayError, UserError
from ft2ray.labels.commands import add_commands

PACKAGED_POLICY = ["generator.weights=embedded-uncurated", "generator.sampling.audio_scale=1"]
"""What the policy in the package was trained on."""
READER_GONE = 141  # as a shell reports a program that SIGPIPE has ended


def main(argv: Sequence[str] | None = None) -> int:
    # One thread per process, before torch or OpenMP load: Ray runs several processes side by side.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    arguments = _parser().parse_args(argv)
    messages = _Messages()
    logging.getLogger("ft2ray").addHandler(messages)
    logging.getLogger("ft2ray").setLevel(logging.INFO)
    try:
        arguments.run_command(arguments)
        sys.stdout.flush()
    except FT2RayError as error:
        print(f"ft2ray: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # such as `ft2ray score ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains as it exits
        return READER_GONE
    finally:
        logging.getLogger("ft2ray").removeHandler(messages)
    return 0


class _Messages(logging.Handler):
    """What the package says while a command runs: information on stdout, warnings on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        warning = record.levelno >= logging.WARNING
        print(self.format(record), file=sys.stderr if warning else sys.stdout, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ft2ray", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    align = commands.add_parser(
        "align", help="the whole method: curate, train experts and gate, evaluate, report"
    )
    align.add_argument(
        "settings", nargs="*", metavar="CONFIG.yaml | a.b=c", help="one YAML file, then overrides"
    )
    align.add_argument(
        "--dry-run",
        action="store_true",
        help="check all that can be checked without starting, print the configuration and stop",
    )
    align.set_defaults(run_command=_align)

    check = commands.add_parser(
        "check", help="whether a configuration can work, and fits a Kubernetes manifest; starts nothing"
    )
    check.add_argument("settings", nargs="*", metavar="CONFIG.yaml | a.b=c", help="as for align")
    check.add_argument(
        "--on", metavar="MANIFEST", help="rendered YAML, or a folder such as cluster/overlays/gpu"
    )
    check.set_defaults(run_command=_check)

    plan = commands.add_parser(
        "plan", help="memory and FLOPs of a configuration on named GPUs; starts nothing"
    )
    plan.add_argument("settings", nargs="*", metavar="CONFIG.yaml | a.b=c", help="as for align")
    plan.add_argument("--gpu", default="H100", help="the card, such as H100 or H200 (H100)")
    plan.add_argument("--cards", type=int, default=8, help="cards in all, each a training worker (8)")
    plan.set_defaults(run_command=_plan)

    generate = commands.add_parser("generate", help="animate a portrait with a recording")
    generate.add_argument("--portrait", required=True)
    generate.add_argument("--audio", required=True)
    generate.add_argument("--out", required=True, help="the mp4 to write")
    generate.add_argument(
        "--run",
        help="a run folder, whose policy is used; without it the base or, with --system, the packaged policy",
    )
    generate.add_argument(
        "--system",
        help="base, tlpo, uniform, expert_ls, ... of the run or, without --run, of the packaged policy",
    )
    generate.add_argument(
        "--weights",
        metavar="mn=1,ls=1,vq=1",
        help="your own weight of each dimension, in place of the gate's",
    )
    generate.add_argument("--seed", type=int, default=0, help="of the noise, from 0 on (0)")
    generate.add_argument(
        "settings", nargs="*", metavar="a.b=c", help="overrides, such as generator.sampling.audio_scale=3"
    )
    generate.set_defaults(run_command=_generate)

    score = commands.add_parser("score", help="what Talking-Critic says of a video with sound")
    score.add_argument("clips", nargs="+", metavar="CLIP.mp4")
    score.add_argument("--critic", default="embedded", help="folder of a critic's weights")
    score.set_defaults(run_command=_score)

    status = commands.add_parser("status", help="how far a run is: groups, pairs, staleness, steps, refusals")
    status.add_argument("run", metavar="RUN_DIR")
    status.add_argument("--watch", action="store_true", help="again and again until the run is finished")
    status.add_argument(
        "--timeline",
        metavar="TRACE.json",
        help="also write who did what when, for Perfetto or chrome://tracing",
    )
    status.set_defaults(run_command=_status)

    report = commands.add_parser("report", help="write report.html and report.json of a run folder again")
    report.add_argument("run", metavar="RUN_DIR")
    report.set_defaults(run_command=_report)

    export = commands.add_parser("export-pairs", help="a run's preference pairs as a Parquet dataset")
    export.add_argument("run", metavar="RUN_DIR")
    export.add_argument("out", metavar="OUT_DIR")
    export.set_defaults(run_command=_export_pairs)

    adapters = commands.add_parser(
        "export-adapters",
        help="a run's policy as LoRA files for diffusers or ComfyUI; a gate as one file per timestep bucket",
    )
    adapters.add_argument("run", metavar="RUN_DIR")
    adapters.add_argument("out", metavar="OUT_DIR")
    adapters.add_argument("--layout", default="diffusers", help="diffusers (default) or comfyui")
    adapters.add_argument("--buckets", type=int, default=4, help="files that stand for the gate (4)")
    adapters.set_defaults(run_command=_export_adapters)

    imported = commands.add_parser(
        "import-adapter", help="put a LoRA that was trained elsewhere in the place of one of a run's experts"
    )
    imported.add_argument("file", metavar="FILE.safetensors")
    imported.add_argument("--run", required=True, metavar="RUN_DIR")
    imported.add_argument("--dimension", required=True, help="the expert to replace: ls, mn, vq")
    imported.set_defaults(run_command=_import_adapter)
    add_commands(commands)
    for command in (generate, report, adapters, imported):
        command.add_argument(
            "--allow-code",
            action="store_true",
            help="import a generator or critic that the run's configuration names as package.module:name",
        )
    return parser


def read_settings(settings: Sequence[str]) -> AlignConfig:
    """The configuration that one YAML file and `a.b=c` overrides stand for."""
    from ft2ray.storage import exists, local_copy

    files = [s for s in settings if not is_override(s)]
    if len(files) > 1:
        raise UserError(
            f"give one YAML file and overrides of the form a.b=c, got the files {', '.join(files)}"
        )
    for file in files:
        if not exists(file):
            raise UserError(f"configuration: no file {file}; give the path of a YAML file")
    return load_config(local_copy(files[0]) if files else None, [s for s in settings if is_override(s)])


def _align(arguments: argparse.Namespace) -> None:
    config = read_settings(arguments.settings)
    if arguments.dry_run:
        from ft2ray.checks import check_inputs

        check_inputs(config)
        print(to_yaml(config), end="")
        return
    from ft2ray.pipeline.align import align

    align(config)


def _check(arguments: argparse.Namespace) -> None:
    from ft2ray.pipeline.manifest import check

    needed = check(read_settings(arguments.settings), arguments.on)
    print("\n".join(["The configuration can work.", *(f"needed: {line}" for line in needed)]))


def _plan(arguments: argparse.Namespace) -> None:
    from ft2ray.planning.plan import make_plan

    plan = make_plan(read_settings(arguments.settings), arguments.gpu, arguments.cards)
    print(plan.table())
    plan.check()


def _generate(arguments: argparse.Namespace) -> None:
    from ft2ray.animate import animate
    from ft2ray.run import Run

    if not 0 <= arguments.seed < 2**63:
        raise UserError(f"--seed {arguments.seed} is not from 0 to 2**63 - 1")
    if unknown := [text for text in arguments.settings if not is_override(text)]:
        raise UserError(f"{unknown[0]} is not of the form a.b=value; settings of a run come with --run")
    named = any(text.startswith("generator.weights=") for text in arguments.settings)
    run = Run.open(arguments.run, arguments.settings) if arguments.run else None
    packaged = run is None and bool(arguments.system or arguments.weights)
    if packaged and named:
        raise UserError(
            "--system and --weights without --run take the packaged policy, which has a base of its own: "
            "leave generator.weights out, or give the folder of a run as --run"
        )
    given = {text.partition("=")[0] for text in arguments.settings}
    own = [text for text in PACKAGED_POLICY if packaged and text.partition("=")[0] not in given]
    frames = animate(
        load_config(None, [*own, *arguments.settings]) if run is None else run.config,
        arguments.portrait,
        arguments.audio,
        arguments.out,
        seed=arguments.seed,
        policy_dir=run.current_policy if run is not None else "embedded" if packaged else None,
        system=arguments.system,
        weights=_weights(arguments.weights),
        allow_code=named or arguments.allow_code,
    )
    print(f"{arguments.out}: {frames} frames")


def _weights(text: str | None) -> dict[str, float] | None:
    if text is None:
        return None
    try:
        items = [
            (name.strip(), float(value)) for name, value in (item.split("=") for item in text.split(","))
        ]
    except ValueError as error:
        raise UserError(f"--weights {text!r} is not of the form mn=1,ls=0.5,vq=1") from error
    weights = dict(items)
    if len(weights) < len(items):
        raise UserError(f"--weights {text!r} names a dimension twice")
    return weights


def _score(arguments: argparse.Namespace) -> None:
    import torch

    from ft2ray.loaders import load_critic
    from ft2ray.media.face import FaceMesher
    from ft2ray.storage import base_name

    torch.set_num_threads(1)
    critic, mesher = load_critic(arguments.critic, allow_code=True), FaceMesher()
    failed = []
    for clip in arguments.clips:
        try:
            (p_K,) = critic.score([critic.viewer.read(clip, mesher)])
        except UserError as error:
            said = str(error).removeprefix(f"{base_name(clip)}: ")
            failed.append(said if clip in said else f"{clip}: {said}")
            continue
        scores = dict(zip(critic.dimensions, map(float, p_K), strict=True))
        print(json.dumps({"clip": clip, "p_yes": scores, "critic": critic.fingerprint}), flush=True)
    if failed:
        raise UserError("; ".join(failed))


def _status(arguments: argparse.Namespace) -> None:
    from ft2ray.observe.status import read_status, watch
    from ft2ray.observe.timeline import chrome_trace, read_spans
    from ft2ray.run import Run
    from ft2ray.storage import write_atomically

    if arguments.watch:
        watch(arguments.run)
    else:
        print(read_status(arguments.run))
    if arguments.timeline:
        write_atomically(arguments.timeline, chrome_trace(read_spans(Run.open(arguments.run).spans)).encode())


def _report(arguments: argparse.Namespace) -> None:
    from ft2ray.observe.reporting import write_run_report

    print(write_run_report(arguments.run, arguments.allow_code))


def _export_pairs(arguments: argparse.Namespace) -> None:
    from ft2ray.observe.reporting import export_run_pairs

    print(export_run_pairs(arguments.run, arguments.out))


def _export_adapters(arguments: argparse.Namespace) -> None:
    from ft2ray.run_adapters import export_run_adapters

    index = export_run_adapters(
        arguments.run, arguments.out, arguments.layout, arguments.buckets, arguments.allow_code
    )
    for name, about in index["files"].items():
        line = f"{name}: rank {about['rank']}, alpha {about['alpha']:g}"
        if "t" in about:
            line += (
                f", for t from {about['t'][0]:.3f} down to {about['t'][1]:.3f}, off the gate by "
                f"{about['error']['of_velocity']:.2%} of the velocity, "
                f"{about['error']['of_effect']:.1%} of what alignment adds"
            )
        print(line)


def _import_adapter(arguments: argparse.Namespace) -> None:
    from ft2ray.run_adapters import import_run_adapter

    print(import_run_adapter(arguments.file, arguments.run, arguments.dimension, arguments.allow_code))


if __name__ == "__main__":
    sys.exit(main())
