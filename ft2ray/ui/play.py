"""The tab Play: a portrait and speech through the systems of a run, side by side."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from markupsafe import Markup
from pydantic import ValidationError

from ft2ray.dimensions import Dimension
from ft2ray.errors import FT2RayError, UserError
from ft2ray.generator.settings import SamplerSettings
from ft2ray.media import flite
from ft2ray.play import Player, PlaySettings, settings_of
from ft2ray.run import Run
from ft2ray.systems import BASE, TLPO
from ft2ray.ui.words import captioned, paragraph, system_choices

if TYPE_CHECKING:  # heavy: loaded with the first clip that is asked for
    from ft2ray.animator import Progress


MAX_UPLOAD_MB = 50


def play_tab(page: gr.Blocks, run: Run, scratch: Path) -> None:
    sampling: SamplerSettings = run.config.generator.sampling
    names = [dimension.name for dimension in run.config.dimensions]
    default = PlaySettings(
        systems=tuple(system for system in (BASE, TLPO) if system in run.config.systems),
        steps=sampling.steps,
        guidance=sampling.audio_scale,
        motion=sampling.noise_scale,
        weights=dict.fromkeys(names, 1.0),
    )
    player = Player(run)
    gr.HTML(paragraph("A portrait and speech through the systems of this run, side by side."))
    with gr.Row():
        portrait = gr.Image(
            type="filepath", sources=["upload", "webcam"], label="Portrait", height=280, elem_id="portrait"
        )
        speech = gr.Audio(type="filepath", sources=["upload", "microphone"], label="Speech", elem_id="speech")
    speaks = flite.available()
    with gr.Row():
        text = gr.Textbox(
            label="Or type what is said (English)", lines=2, max_length=flite.MAX_CHARACTERS, scale=4,
            placeholder="" if speaks else "needs the program flite (apt-get install flite)",
            interactive=speaks, elem_id="text",
        )  # fmt: skip
        voice = gr.Dropdown(list(flite.VOICES), value=flite.VOICES[0], label="Voice", interactive=speaks)
    gr.HTML(
        Markup('<p class="ft-error ft-too-large" role="alert" data-limit="{}"></p>').format(
            MAX_UPLOAD_MB * 2**20
        ),
        padding=False,
    )
    systems = gr.CheckboxGroup(system_choices(run.config), value=list(default.systems), label="Systems")
    with gr.Row():
        sliders = [_slider(dimension) for dimension in run.config.dimensions]
    with gr.Row():
        seed = gr.Number(0, label="Seed", precision=0, minimum=0)
        steps = gr.Slider(1, 50, default.steps, step=1, label="Steps")
        guidance = gr.Slider(0, 6, default.guidance, step=0.1, label="Guidance by the sound")
        motion = gr.Slider(0.1, 2, default.motion, step=0.05, label="Amount of motion")
    make = gr.Button("Animate", variant="primary")
    note, clips = gr.HTML(), gr.HTML()
    inputs = [systems, seed, steps, guidance, motion, *sliders]

    def animate(
        request: gr.Request,
        portrait: str | None,
        speech: str | None,
        text: str,
        voice: str,
        systems: Sequence[str],
        seed: float,
        steps: int,
        guidance: float,
        motion: float,
        *weights: float,
        progress: Any = gr.Progress(),  # noqa: B008  # how Gradio hands it in
    ) -> Iterator[tuple[Markup, Markup]]:
        if not (portrait and (speech or text.strip()) and systems):
            yield paragraph("Give a portrait, speech and at least one system.", "error"), Markup()
            return
        made: list[tuple[str, Path]] = []
        try:
            if not speech:
                wav = scratch / f"{uuid.uuid4().hex}.wav"
                flite.spoken(text, voice, wav)
                speech = str(wav)
            chosen = PlaySettings(
                systems=tuple(systems), seed=int(seed or 0), steps=int(steps), guidance=float(guidance),
                motion=float(motion), weights=dict(zip(names, map(float, weights), strict=True)),
            )  # fmt: skip
            for system, mp4 in player.play(portrait, speech, chosen, _shown_by(progress)):
                path = scratch / f"{uuid.uuid4().hex}.mp4"
                path.write_bytes(mp4)
                made.append((system, path))
                yield _link(chosen), captioned(made)
        except ValidationError as error:
            first = error.errors()[0]
            yield paragraph(f"{first['loc'][0]}: {first['msg']}.", "error"), captioned(made)
        except FT2RayError as error:
            yield paragraph(str(error), "error"), captioned(made)

    def from_link(request: gr.Request) -> list[Any]:
        try:
            chosen = settings_of(dict(request.query_params), default)
        except UserError as error:
            return [paragraph(str(error), "error"), *(gr.skip() for _ in inputs)]
        how = [chosen.seed, chosen.steps, chosen.guidance, chosen.motion]
        return [Markup(), list(chosen.systems), *how, *(chosen.weights[name] for name in names)]

    media = [portrait, speech, text, voice]
    make.click(animate, [*media, *inputs], [note, clips], api_visibility="private", concurrency_limit=1)
    page.load(from_link, None, [note, *inputs], api_visibility="private", show_progress="hidden")


def _slider(dimension: Dimension) -> gr.Slider:
    return gr.Slider(0, 3, 1, step=0.1, label=f"Weight of {dimension.title} ({dimension.name})")


def _shown_by(progress: Any) -> Progress:
    def show(state: str, share: float) -> bool:
        progress(share, desc=state)
        return True

    return show


def _link(chosen: PlaySettings) -> Markup:
    return Markup('<p class="ft-quiet"><a href="?{}">Link to these settings</a></p>').format(chosen.query)
