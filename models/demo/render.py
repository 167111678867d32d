"""Renders the clips which the demo cameras play, each with a sidecar that says what is in it.

    python models/demo/render.py [OUT_DIR]      (default: models/demo/cameras)

Writes NAME.mp4 and NAME.json for each camera, and gate-h265.mp4, the gate's first scene in H.265.
The same environment gives the same bytes.
"""

import json
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from scenes import CAMERAS, FPS, SCENE_SECONDS, Camera
from world import HEIGHT, WIDTH, background, caption, draw

# An actor counts as visible while this share of its width is in the picture.
VISIBLE_SHARE = 0.4

# As a camera sends it: a key frame a second, closed groups of pictures, no B frames, so that
# decoding order is display order. One thread, for the same bytes every time.
GROUP = f"keyint={FPS}:min-keyint={FPS}:scenecut=0:open-gop=0:bframes=0:ref=1:colormatrix=smpte170m:range="
ENCODERS = {
    "h264": ("libx264", {"crf": "23", "preset": "slow", "profile": "main", "threads": "1", "x264-params": GROUP + "tv"}),
    "h265": ("libx265", {"crf": "25", "preset": "medium", "x265-params": GROUP + "limited:pools=none:frame-threads=1:log-level=error"}),
}  # fmt: skip


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for camera in CAMERAS:
        pictures = list(frames(camera))
        encode(pictures, out / f"{camera.name}.mp4", "h264")
        (out / f"{camera.name}.json").write_text(json.dumps(sidecar(camera), indent=1) + "\n")
        print(f"{camera.name}: {camera.seconds} s, {(out / f'{camera.name}.mp4').stat().st_size / 1e6:.2f} MB", flush=True)
        if camera.name == "gate":
            encode(pictures[: SCENE_SECONDS * FPS], out / "gate-h265.mp4", "h265")


def frames(camera: Camera):
    scenery = background(camera.background)
    noise = np.random.default_rng(camera.background)
    steps = SCENE_SECONDS * FPS
    for scene in camera.scenes:
        for step in range(steps):
            yield camera.light.on(draw(scenery, scene, step / steps), noise)


def encode(pictures, path: Path, codec: str) -> None:
    encoder, options = ENCODERS[codec]
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as file:
        stream = file.add_stream(encoder, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, FPS)
        if codec == "h265":
            stream.codec_context.codec_tag = "hvc1"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_image(picture)
            frame.pts = number
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def sidecar(camera: Camera) -> dict:
    scenes = []
    for number, scene in enumerate(camera.scenes):
        start = number * SCENE_SECONDS
        actors = [
            {
                "type": a.kind,
                "colour": a.colour,
                "event": a.event,
                "direction": "right" if a.direction > 0 else "left",
                "visible": visible(a, start),
            }
            for a in scene.actors
        ]
        scenes.append(
            {"from": start, "to": start + SCENE_SECONDS, "kind": scene.kind, "caption": caption(scene), "actors": actors}
        )
    return {
        "camera": camera.name,
        "period_seconds": camera.seconds,
        "fps": FPS,
        "width": WIDTH,
        "height": HEIGHT,
        "scenes": scenes,
    }


def visible(a, start: int) -> list[float]:
    """The first and the last moment, in seconds of the clip, at which enough of the actor is in the picture."""
    steps = SCENE_SECONDS * FPS
    seen = [step for step in range(steps) if a.share_visible(step / steps) >= VISIBLE_SHARE]
    return [round(start + seen[0] / FPS, 2), round(start + (seen[-1] + 1) / FPS, 2)]


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent / "cameras")
