"""Encodes images as H.264 and H.265, and decodes them."""

import io
from fractions import Fraction

import av
from PIL import Image

from world import HEIGHT, WIDTH

ENCODERS = {"h264": "libx264", "h265": "libx265"}


def encode(pictures, to, codec: str, fps: int, crf: int, preset: str) -> None:
    """Encodes as a camera does: a key frame per second, closed groups of pictures, no B frames, so that decoding
    order is display order. One thread, for the same bytes every time. `to`: a path, or a file to write."""
    group = f"keyint={fps}:min-keyint={fps}:scenecut=0:open-gop=0:bframes=0:ref=1:colormatrix=smpte170m:range="
    settings = {
        "h264": {"threads": "1", "profile": "main", "x264-params": group + "tv"},
        "h265": {"x265-params": group + "limited:pools=none:frame-threads=1:log-level=error"},
    }[codec]
    # Only a file on disk can be rewritten with its index in front.
    options = {"movflags": "+faststart"} if isinstance(to, str) else {}
    with av.open(to, "w", format="mp4", options=options) as file:
        stream = file.add_stream(ENCODERS[codec], rate=fps, options={"crf": str(crf), "preset": preset, **settings})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, fps)
        if codec == "h265":
            stream.codec_context.codec_tag = "hvc1"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_image(picture)
            frame.pts = number
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def decode(source):
    """Returns the images of a path or a file, in order."""
    with av.open(source) as file:
        file.streams.video[0].thread_count = 1
        for frame in file.decode(video=0):
            yield frame.to_image()


def through(pictures, codec: str, fps: int, crf: int) -> list[Image.Image]:
    """Encodes and decodes images as a camera does."""
    file = io.BytesIO()
    encode(pictures, file, codec, fps, crf, "ultrafast")
    file.seek(0)
    return list(decode(file))


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")
