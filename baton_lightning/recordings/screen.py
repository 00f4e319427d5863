"""Converts decoded frames to the images that a player displays: deinterlaced, in BT.709, upright.

fields     frames that are flagged as interlaced pass ffmpeg's `bwdif`, which gives one image per frame
colour     frames with other primaries or transfer functions (PQ, HLG, BT.2020, P3) are tone-mapped to BT.709 by libswscale
direction  frames are rotated and mirrored as the display matrix states
shape      the aspect ratio of pixels is returned, and is applied where frames are resized
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from baton_lightning.media import MediaError
from baton_lightning.recordings.container import WIDEST_PIXEL, require_size

if TYPE_CHECKING:
    import av

PRIMARIES = (0, 1, 2, 5, 6, 7)
"""Colour primaries of standard screens, and codes for unspecified ones (ITU-T H.273)."""
TRANSFERS = (0, 1, 2, 4, 5, 6, 7, 11, 12, 13, 14, 15)
"""Transfer functions of standard screens, and codes for unspecified ones. Those of x.v.Color and of SDR BT.2020 equal the BT.709 curve."""
MATRICES = (0, 1, 2, 4, 5, 6, 7, 9)
"""Colour matrices that can be inverted. 2 is unspecified; 10 and codes from 11 on are not supported."""
BT709 = 1


class Screen:
    """Converts the frames of one stream to images.

    Args:
        stream: The video stream.
        name: Name of the file in error messages.
    """

    def __init__(self, stream: Any, name: str) -> None:
        from av.video.reformatter import VideoReformatter

        self.stream, self.name = stream, name
        self.convert = VideoReformatter().reformat  # shared by all frames: its setup costs more than a conversion
        self.graph: Any = None
        self.aspect = pixel_aspect(stream, name)
        self.interlaced = self.converted = False

    def push(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """Adds a frame; yields the progressive frames that are ready.

        Raises:
            MediaError: ``interlaced`` if an interlaced frame has no time.
        """
        if self.graph is None:
            if not frame.interlaced_frame:
                yield frame
                return
            self.graph, self.interlaced = _deinterlacer(self.stream, frame), True
        if frame.pts is None:
            raise MediaError("interlaced", f"{self.name} is interlaced and its frames have no time")
        self.graph.push(frame)
        yield from self._ready()

    def flush(self) -> Iterator[av.VideoFrame]:
        """Yields the frames that the deinterlacer still holds."""
        if self.graph is not None:
            self.graph.push(None)
            yield from self._ready()

    def _ready(self) -> Iterator[av.VideoFrame]:
        import av

        while True:
            try:
                yield self.graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return

    def picture(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """A frame as displayed, uint8 [Y, X, 3], RGB.

        Raises:
            MediaError: ``colour`` if its colours cannot be converted, ``turned`` if its rotation is not a multiple of 90 degrees,
                ``too_large`` if it has too many pixels.
        """
        require_size(frame.width, frame.height, self.name)
        return upright(self._in_colour(frame), display_matrix(frame), self.name)

    def _in_colour(self, frame: av.VideoFrame) -> Any:
        matrix, primaries, transfer = int(frame.colorspace), int(frame.color_primaries), int(frame.color_trc)
        yuv = not frame.format.name.startswith(("rgb", "bgr", "gbr", "gray", "pal", "argb", "abgr", "0rgb", "0bgr", "mono"))
        described = f"matrix {matrix}, primaries {primaries}, transfer {transfer}"
        if yuv and matrix not in MATRICES:
            raise MediaError("colour", f"{self.name} has colours that cannot be converted ({described})")
        if transfer == 2 and _has(frame, "DOVI_METADATA"):
            raise MediaError("colour", f"{self.name} has colours of Dolby Vision without a base that ordinary players show ({described})")
        if primaries in PRIMARIES and transfer in TRANSFERS:
            return self.convert(frame, format="rgb24").to_ndarray()
        self.converted = True
        try:
            return _mapper()(frame, format="rgb24", dst_color_primaries=BT709, dst_color_trc=BT709).to_ndarray()
        except (OSError, ValueError) as error:
            raise MediaError("colour", f"{self.name} has colours that cannot be converted ({described}: {error})") from error


@functools.cache
def _mapper() -> Callable[..., Any]:
    """A converter shared by all recordings. It computes a colour table in seconds, and reuses it for frames of the same kind of colours."""
    from av.video.reformatter import VideoReformatter

    return VideoReformatter().reformat


def _deinterlacer(stream: Any, frame: av.VideoFrame) -> Any:
    from av.filter import Graph

    graph = Graph()
    source = graph.add_buffer(template=stream, width=frame.width, height=frame.height, format=frame.format)
    bwdif, sink = graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
    source.link_to(bwdif)
    bwdif.link_to(sink)
    graph.configure()
    return graph


def _has(frame: Any, kind: str) -> bool:
    return any(data.type.name == kind for data in frame.side_data)


def pixel_aspect(stream: Any, name: str) -> float:
    """Width of a stored pixel over its height; 1 if it is not declared.

    Raises:
        MediaError: ``unreadable`` if the ratio exceeds :data:`~baton_lightning.recordings.container.WIDEST_PIXEL`.
    """
    stated = stream.sample_aspect_ratio
    aspect = float(stated) if stated else 1.0
    if not 1 / WIDEST_PIXEL <= aspect <= WIDEST_PIXEL:
        raise MediaError("unreadable", f"{name} declares pixels of {stated}, {WIDEST_PIXEL}:1 at most")
    return aspect


def display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """Map from stored to displayed coordinates: x' = a x + c y, y' = b x + d y, as (a, b, c, d) in units of 1/65536."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
            return a, b, c, d
    return 1 << 16, 0, 0, 1 << 16


def is_turned(matrix: tuple[int, int, int, int]) -> bool:
    """Whether the matrix swaps rows and columns."""
    return abs(matrix[1]) > abs(matrix[0])


def upright(picture: NDArray[np.uint8], matrix: tuple[int, int, int, int], name: str) -> NDArray[np.uint8]:
    """Rotates and mirrors an image as its display matrix states.

    Raises:
        MediaError: ``turned`` if the rotation is not a multiple of 90 degrees.
    """
    a, b, c, d = matrix
    large, small = ((b, c), (a, d)) if is_turned(matrix) else ((a, d), (b, c))
    if not min(map(abs, large)) > 50 * max(map(abs, small)):
        raise MediaError("turned", f"{name} has a display rotation that is not a multiple of 90 degrees (matrix {matrix})")
    if is_turned(matrix):
        picture, across, down = picture.transpose(1, 0, 2), c, b
    else:
        across, down = a, d
    picture = picture[:, ::-1] if across < 0 else picture
    return picture[::-1] if down < 0 else picture
