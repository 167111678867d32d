"""Renders clips, each with a sidecar that records who is in the image when, and which way they move.

    python models/demo/render.py [OUT_DIR]                  the demo's cameras (default: models/demo/cameras)
    python models/demo/render.py OUT_DIR --held-out COUNT   scenes that nobody has seen

Writes NAME.mp4 and NAME.json for each camera. The same environment gives the same bytes.
"""

import argparse
import json
import random
from pathlib import Path

import scenes
import video
import world

FPS = 12
# Quality of the held-out clips and of the committed ones: that of a cheap camera.
QUALITY = {"h264": (25, "slow"), "h265": (27, "medium")}


def pictures(scene: world.Scene, fps: float, seed: int, times: list[float] | None = None):
    """Renders the scene's images at `times`; by default all, `fps` per second."""
    r = random.Random(seed)
    scenery = world.background(scene.place)
    for t in times or (number / fps for number in range(round(scene.seconds * fps))):
        yield scene.light.on(world.draw(scenery, scene.visits, t), r)


def render(camera: scenes.Camera, out: Path) -> None:
    scene = scenes.scene(camera.seed, camera.seconds, camera.night, scenes.QUIET_END)
    clip = out / f"{camera.name}.mp4"
    crf, preset = QUALITY[camera.codec]
    video.encode(pictures(scene, FPS, camera.seed), str(clip), camera.codec, FPS, crf, preset)
    truth = json.dumps(scenes.sidecar(scene, camera.name, FPS), indent=1)
    clip.with_suffix(".json").write_text(truth + "\n")
    size = clip.stat().st_size / 1e6
    print(f"{camera.name}: {camera.seconds} s, {camera.codec}, {len(scene.visits)} visits, {size:.2f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).resolve().parent / "cameras")
    parser.add_argument("--held-out", type=int, metavar="COUNT")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for camera in map(scenes.held_out, range(args.held_out)) if args.held_out else scenes.CAMERAS:
        if args.held_out is None or not (args.out / f"{camera.name}.json").exists():
            render(camera, args.out)


if __name__ == "__main__":
    main()
