"""Speed and faithfulness of the portrait codec: real motion, rendered, and measured again in the pixels.

    python studies/render.py CLIP... --portraits DIR [--size 256] [--frames 75]

Prints per portrait: milliseconds a frame (one thread), frames with a face, correlation of the driving with
the re-detected mouth gap (mean and worst over the clips), and the share of folded triangles.
"""

import argparse
import time
from pathlib import Path

import cv2
import numpy as np

from ft2ray.errors import MediaError
from ft2ray.generator.portrait.motion import MotionBasis
from ft2ray.generator.portrait.warp import Warper, fold_share
from ft2ray.media.face import FaceMesher, mouth_gap
from ft2ray.media.portrait import load_portrait
from ft2ray.media.video import read_video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--portraits", type=Path, required=True)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--frames", type=int, default=75)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    basis, mesher = MotionBasis.load(), FaceMesher()
    drivers = []
    for path in arguments.clips:
        mesh_FP3 = mesher.track(read_video(path)[0])[: arguments.frames]
        drivers.append((basis.encode(mesh_FP3), mouth_gap(mesh_FP3)))
    table = []
    for path in sorted(arguments.portraits.iterdir()):
        try:
            portrait = load_portrait(path, arguments.size, mesher)
        except MediaError as error:
            print(f"{path.name}: left out, {error.reason}")
            continue
        rows = []
        for x_CF, gap_F in drivers:
            mesh_FP3 = basis.decode(x_CF, portrait.mesh_P3)
            warper = Warper(portrait)
            start = time.perf_counter()
            frames_FHW3 = warper.render(mesh_FP3)
            milliseconds = (time.perf_counter() - start) / len(frames_FHW3) * 1e3
            seen_FP3 = mesher.track(frames_FHW3)
            found_F = np.isfinite(seen_FP3).all(axis=(1, 2))
            agreement = np.corrcoef(gap_F[found_F], mouth_gap(seen_FP3[found_F]))[0, 1]
            rows.append((milliseconds, found_F.mean(), agreement, fold_share(mesh_FP3, portrait)))
        table.append(rows)
        speed, found, agreement, folds = np.array(rows).T
        print(
            f"{path.name}: {speed.mean():.1f} ms, found {found.min():.0%}, gap r {agreement.mean():.2f} "
            f"(worst {agreement.min():.2f}), folded {folds.mean():.2%}"
        )
    speed, found, agreement, folds = np.array(table).reshape(-1, 4).T
    print(
        f"all {len(table)} portraits x {len(drivers)} clips: {np.median(speed):.1f} ms a frame (median), "
        f"found {found.mean():.1%}, gap r mean {agreement.mean():.3f} median {np.median(agreement):.3f}, "
        f"folded {folds.mean():.2%}"
    )


if __name__ == "__main__":
    main()
