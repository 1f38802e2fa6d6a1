"""`ft2ray ui`: the page over one run folder or one folder of clips.

It listens on loopback; elsewhere only behind a token, which is the password of the page, under any name: that
name is the annotator's. Nothing is loaded from the network.
"""

from __future__ import annotations

import hmac
import ipaddress
from pathlib import Path

import gradio as gr
from markupsafe import Markup

from ft2ray.errors import ConfigurationError
from ft2ray.labels.clips import Source, is_run, open_source
from ft2ray.run import Run
from ft2ray.scratch import remove_leftovers, scratch_folder
from ft2ray.serving.settings import FrontSettings
from ft2ray.ui.align import align_tab
from ft2ray.ui.blind import blind_tab
from ft2ray.ui.critic import critic_tab
from ft2ray.ui.curate import curate_tab
from ft2ray.ui.label import label_tab
from ft2ray.ui.play import MAX_UPLOAD_MB, play_tab
from ft2ray.ui.words import paragraph

HERE = Path(__file__).parent


def build(source: Source, run: Run | None, scratch: Path) -> gr.Blocks:
    """The page.

    `run`: None where the clips are a folder's; then there is nothing but labelling.
    `scratch`: folder for the clips on the screen.
    """
    with gr.Blocks(title="ft2ray", analytics_enabled=False) as page:
        gr.HTML(Markup("<h1>ft2ray</h1>") + paragraph(source.url), padding=False)
        with gr.Tab("Label"):
            label_tab(source, scratch)
        if run is not None:
            with gr.Tab("Blind test"):
                blind_tab(run, scratch)
            with gr.Tab("Curate"):
                curate_tab(page, run, scratch)
        with gr.Tab("Critic"):
            critic_tab(source, scratch)
        if run is not None:
            with gr.Tab("Align"):
                align_tab(page, run)
            with gr.Tab("Play"):
                play_tab(page, run, scratch)
    return page


def serve(url: str, host: str, port: int, wait: bool = True) -> gr.Blocks:
    """Open the page over a run folder or a folder of clips.

    `wait`: until it is interrupted.

    Raises ConfigurationError where other machines would reach it without a token.
    Raises DataError where there is no clip.
    """
    token = FrontSettings().token()
    check_exposure(host, token)
    remove_leftovers()
    source = open_source(url)
    run = Run.open(url) if is_run(url) else None
    with scratch_folder() as scratch:
        page = build(source, run, scratch)
        page.launch(
            server_name=host,
            server_port=port,
            auth=None
            if token is None
            else lambda _, given: hmac.compare_digest(given.encode(), token.encode()),
            auth_message="Your name, and the token as password.",
            allowed_paths=[str(scratch)],
            max_file_size=f"{MAX_UPLOAD_MB}mb",
            prevent_thread_lock=True,
            footer_links=[],
            show_error=True,
            css_paths=[HERE / "page.css"],
            js=(HERE / "page.js").read_text(),
            theme=_theme(),
        )
        if wait:
            page.block_thread()
    return page


def _theme() -> gr.themes.Base:
    """Fonts that every machine has, and colours that stand out as WCAG AA asks."""
    fonts = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}
    return gr.themes.Default(primary_hue="blue", **fonts).set(
        color_accent="*primary_700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        body_text_color_subdued="*neutral_600",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )


def check_exposure(host: str, token: str | None) -> None:
    """Refuse to listen for other machines without a token."""
    if token is not None or host == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise ConfigurationError(f"--host {host} is no address; give one such as 127.0.0.1") from error
    if not loopback:
        raise ConfigurationError(
            f"--host {host} can be reached from other machines and no token is set: set FT2RAY_TOKEN, which "
            "then is the password of the page"
        )
