"""Speech for typed English text, by the program flite (CMU, permissive licence) where it is installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from ft2ray.errors import UserError

VOICES = ("slt", "rms", "awb", "kal16")  # of flite 2; all at 16 kHz
MAX_CHARACTERS = 2000  # about two minutes of speech
SECONDS = 60.0
TYPOGRAPHY = str.maketrans("‘’“”–—…", "''\"\"--.")


def available() -> bool:
    """Whether the program is there."""
    return shutil.which("flite") is not None


def spoken(text: str, voice: str, wav: Path) -> None:
    """Say `text` into a WAV file.

    Args:
        text: English; what is not in ASCII is refused, since flite leaves it out in silence.
        voice: one of VOICES.
        wav: the file to write.

    Raises:
        UserError: text or voice that cannot be said, or no flite.
    """
    if not available():
        raise UserError(
            "typed text needs the program flite; install it (apt-get install flite), or give a recording"
        )
    text = " ".join(text.translate(TYPOGRAPHY).split())
    if not any(character.isalnum() for character in text):
        raise UserError("there is nothing to say in the text; type a sentence, or give a recording")
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"the text has {len(text)} characters, {MAX_CHARACTERS} at most; shorten it")
    strange = next((c for c in text if not (c.isascii() and c.isprintable())), None)
    if strange is not None:
        raise UserError(
            f"the voices speak English only, and the text holds {strange!r}; leave that out, or record it"
        )
    if voice not in VOICES:
        raise UserError(f"there is no voice {voice!r}; take one of {', '.join(VOICES)}")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:  # a text may look like an option
        file.write(text)
        file.flush()
        command = ["flite", "-voice", voice, "-f", file.name, "-o", str(wav)]
        try:
            said = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"flite did not finish within {SECONDS:g} s; shorten the text") from error
    if said.returncode or not wav.is_file():
        raise UserError(f"flite failed: {said.stderr.decode(errors='replace').strip()[-300:]}")
