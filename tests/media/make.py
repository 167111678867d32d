"""Makes the videos of this folder: each frame shows its number, as seven squares and by a moving one.

Needs PyAV (pip install av) with libx264 and libx265.
"""

from fractions import Fraction

import av
import numpy as np

WIDTH, HEIGHT, RATE, FRAMES = 192, 144, 25, 100


def picture(number):
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = x * 255 // WIDTH, y * 255 // HEIGHT, 90
    left = (WIDTH - 40) * number // FRAMES
    image[20:60, left : left + 40] = 255
    for bit in range(7):
        image[90:120, 10 + bit * 24 : 30 + bit * 24] = 255 if number >> bit & 1 else 0
    return image


def make(path, codec, options, tag=None):
    with av.open(path, "w", options={"movflags": "faststart"}) as file:
        stream = file.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.options = WIDTH, HEIGHT, "yuv420p", options
        if tag:
            stream.codec_context.codec_tag = tag
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


# One slice per picture: rtph264pay repeats the parameter sets before each slice of a key frame.
SAME = "keyint=25:min-keyint=25:bframes=3:b-adapt=0:scenecut=0"
make(
    "b-frames.h264.mp4",
    "libx264",
    {"crf": "26", "x264-params": f"{SAME}:b-pyramid=normal:open-gop=0:slices=1:sliced-threads=0"},
)
make("open-gop.h265.mp4", "libx265", {"crf": "28", "x265-params": f"{SAME}:open-gop=1"}, tag="hvc1")

# The first 12 s of a camera of the demo: a car is there from 2 s to 6 s.
with av.open("../../models/demo/cameras/drive.mp4") as whole, av.open("drive.mp4", "w") as part:
    video = whole.streams.video[0]
    stream = part.add_stream_from_template(video)
    for packet in whole.demux(video):
        if packet.size and packet.pts * packet.time_base < 12:
            packet.stream = stream
            part.mux(packet)
