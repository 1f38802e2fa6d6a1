"""What hostile files cost before they are refused: memory and time of each, in a process of its own.

    python -m bench.refusals

Each file is small; read without bounds, the same kinds took gigabytes or minutes.
"""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

_SCRIPT = """
import json, resource, sys, time
from ft2ray.errors import MediaError
from ft2ray.media.{module} import {function}
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
try:
    {function}(sys.argv[1])
    reason = "read"
except MediaError as error:
    reason = error.reason
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([reason, (peak - before) / 1024, time.perf_counter() - began]))
"""


def black_png(width: int, height: int, colour: int = 2) -> bytes:
    """A black picture; colour as in PNG's header: 0 grey, 2 RGB, 6 RGB with alpha."""
    rows = zlib.compressobj(9)
    row = bytes(1 + width * {0: 1, 2: 3, 6: 4}[colour])
    body = b"".join(rows.compress(row) for _ in range(height)) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    )


def flac_of_long_blocks(rate: int) -> bytes:
    """A second of sound becomes 65,535 / rate times as long when it is resampled; one block a packet."""
    import av
    import numpy as np

    file = io.BytesIO()
    with av.open(file, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=8000, layout="mono", options={"frame_size": "65535"})
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4 * 65535), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    content = bytearray(file.getvalue())
    about = int.from_bytes(content[18:26])
    content[18:26] = (about & ((1 << 44) - 1) | rate << 44).to_bytes(8)
    return bytes(content)


def tiny_frames(frames: int, width: int, height: int) -> bytes:
    """Very many frames of a few bytes that change nothing, 5,000 a second."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "ultrafast", "tune": "zerolatency"}
        packets = []
        for index in range(2):
            frame = av.VideoFrame(width, height, "yuv420p")
            frame.pts = index
            packets += stream.encode(frame)
        packets += stream.encode(None)
        same = bytes(packets[-1])
        for index in range(frames):
            packet = av.Packet(bytes(packets[0]) if index == 0 else same)
            packet.stream, packet.is_keyframe = stream, index == 0
            packet.time_base = Fraction(1, 5000)
            packet.pts = packet.dts = index
            container.mux(packet)
    return file.getvalue()


FILES: dict[str, tuple[str, str, Callable[[], bytes]]] = {  # kind -> module, function, content
    "PNG of 20,000 x 500": ("image", "read_image", lambda: black_png(20_000, 500)),
    "PNG of 40,000 x 2,000": ("image", "read_image", lambda: black_png(40_000, 2_000)),
    "PNG of 79,999,999 x 1": ("image", "read_image", lambda: black_png(79_999_999, 1)),
    "PNG of 8,900 x 8,900, RGB and alpha": ("image", "read_image", lambda: black_png(8_900, 8_900, 6)),
    "FLAC of 4 samples a second": ("audio", "read_audio", lambda: flac_of_long_blocks(4)),
    "FLAC of 4,000 samples a second": ("audio", "read_audio", lambda: flac_of_long_blocks(4_000)),
    "15,000 pictures of 4,096 x 2,304 in 3 s": (
        "video",
        "read_video",
        lambda: tiny_frames(15_000, 4096, 2304),
    ),
}


def measure(kind: str, folder: Path) -> tuple[int, str, float, float]:
    """Bytes of a file of `FILES`, what became of it, MB of memory above the imports, and seconds."""
    module, function, content = FILES[kind]
    path = folder / "hostile"
    path.write_bytes(content())
    script = _SCRIPT.format(module=module, function=function)
    ended = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    return path.stat().st_size, *json.loads(ended.stdout)


def main() -> None:
    print("| file | bytes | becomes | memory, MB | seconds |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind in FILES:
            size, reason, megabytes, seconds = measure(kind, Path(folder))
            print(f"| {kind} | {size:,} | {reason} | {megabytes:.0f} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
