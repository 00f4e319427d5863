"""Decoded frames as a player shows them: fields joined, in the colours of an ordinary screen, upright, with the shape of their pixels.

fields     frames that are flagged as interlaced go through ffmpeg's `bwdif`, one picture for each frame
colour     pictures of other primaries or transfer (PQ, HLG, BT.2020, P3) are mapped to BT.709 by libswscale, tone-mapped
direction  turned and mirrored by the display matrix
shape      the sample aspect ratio is handed on; who resizes takes it into account
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
"""Primaries of ordinary screens, and those that nobody stated (ITU-T H.273)."""
TRANSFERS = (0, 1, 2, 4, 5, 6, 7, 11, 12, 13, 14, 15)
"""Transfer functions of ordinary screens, likewise; those of x.v.Color and of BT.2020 without HDR are the curve of BT.709."""
MATRICES = (0, 1, 2, 4, 5, 6, 7, 9)
"""Matrices that can be undone; 2 is a matrix that nobody stated, 10 and from 11 on are not supported."""
BT709 = 1


class Screen:
    """Turns the frames of one stream into pictures.

    Args:
        stream: The video stream.
        name: Named in errors.
    """

    def __init__(self, stream: Any, name: str) -> None:
        from av.video.reformatter import VideoReformatter

        self.stream, self.name = stream, name
        self.convert = VideoReformatter().reformat  # one for all frames: setting up a conversion costs more than converting
        self.graph: Any = None
        self.aspect = pixel_aspect(stream, name)
        self.interlaced = self.converted = False

    def push(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """Takes a frame; gives those that are ready, progressive."""
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
        """The frames that still wait for a neighbour."""
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
        """A frame as shown, uint8 [Y, X, 3], RGB.

        Raises:
            MediaError: ``colour`` if its colours cannot be converted, ``turned`` if it does not stand upright after quarter turns,
                ``too_large`` if it is beyond the limit.
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
    """One for all recordings: it makes a table of colours, in seconds, and keeps it while the kind of colours stays the same."""
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
    """Width of a stored pixel over its height, 1 where nobody states it.

    Raises:
        MediaError: ``unreadable`` if it is absurd.
    """
    stated = stream.sample_aspect_ratio
    aspect = float(stated) if stated else 1.0
    if not 1 / WIDEST_PIXEL <= aspect <= WIDEST_PIXEL:
        raise MediaError("unreadable", f"{name} declares pixels of {stated}, {WIDEST_PIXEL}:1 at most")
    return aspect


def display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """How stored columns and rows lie on the screen: x' = a x + c y, y' = b x + d y, as (a, b, c, d) in 1/65536."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
            return a, b, c, d
    return 1 << 16, 0, 0, 1 << 16


def is_turned(matrix: tuple[int, int, int, int]) -> bool:
    """Whether rows and columns change places."""
    return abs(matrix[1]) > abs(matrix[0])


def upright(picture: NDArray[np.uint8], matrix: tuple[int, int, int, int], name: str) -> NDArray[np.uint8]:
    """A picture turned and mirrored as its matrix says.

    Raises:
        MediaError: ``turned`` unless the matrix is a whole number of quarter turns, mirrored or not.
    """
    a, b, c, d = matrix
    large, small = ((b, c), (a, d)) if is_turned(matrix) else ((a, d), (b, c))
    if not min(map(abs, large)) > 50 * max(map(abs, small)):
        raise MediaError("turned", f"{name} is to be shown turned by other than quarter turns (matrix {matrix})")
    if is_turned(matrix):
        picture, across, down = picture.transpose(1, 0, 2), c, b
    else:
        across, down = a, d
    picture = picture[:, ::-1] if across < 0 else picture
    return picture[::-1] if down < 0 else picture
