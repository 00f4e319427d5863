"""What the page asks for: plans of prompts, the same plans after edits, and clips. Independent of HTTP."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from baton_lightning.generation.clip import PLAYER_HEIGHT, GeneratedClip
from baton_lightning.generation.pipeline import Pipeline
from baton_lightning.generation.prompt_warnings import prompt_warnings
from baton_lightning.media import mp4_bytes
from baton_lightning.metrics.prompts import Prompt
from baton_lightning.plan.clip_plan import ClipPlan
from baton_lightning.plan.picture import change, colours
from baton_lightning.world import vocabulary

KEPT = 50
"""Plans that are kept; the oldest is dropped."""
LONGEST_PROMPT = 2_000
"""Maximum length of a prompt, in characters."""
MOST_EDITS = 50
EXAMPLES = (
    (
        "a red circle on the left and a blue square on the right. first the red circle jumps. then the blue square flashes.",
        "first a thump. then a ding.",
    ),
    ("a green triangle in the middle. first the green triangle talks.", "first [green] says 'ba ku'."),
    (
        "a cyan square on the left and a yellow circle on the right. first the cyan square talks. then the yellow circle talks.",
        "first [cyan] says 'di'. then [yellow] says 'ka bo'.",
    ),
)


class Desk:
    """Plans and clips of one run for one page. Plans are numbered; edits are replayed from the numbered plan at every request.

    Args:
        pipe: Plans and generates.
        name: Name of the run, for the page.
    """

    def __init__(self, pipe: Pipeline, name: str) -> None:
        self.pipe, self.name = pipe, name
        self.plans: OrderedDict[int, ClipPlan] = OrderedDict()
        self.made = 0
        self.lock = threading.Lock()
        """One request computes at a time."""

    @property
    def model(self) -> Any:
        return self.pipe.generator.model

    def about(self) -> dict[str, Any]:
        """Geometry, defaults and the prompt language."""
        clip = self.model.clip
        return {
            "name": self.name,
            "seconds": clip.seconds,
            "keyframes_per_second": clip.keyframe_fps,
            "columns": clip.plan_grid[1],
            "plan_scale": self.model.guidance.plan_scale,
            "seed": self.model.seed,
            "step": shared_step(clip.keyframe_fps, clip.audio_plan_rate),
            "words": {
                "colours": list(vocabulary.COLOURS),
                "shapes": list(vocabulary.SHAPES),
                "columns": list(vocabulary.COLUMNS),
                "kinds": list(vocabulary.KINDS),
                "effects": vocabulary.EFFECTS,
                "spoken": list(vocabulary.WORDS),
            },
            "examples": [list(pair) for pair in EXAMPLES],
        }

    def plan(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Plans two prompts.

        Args:
            request: ``video`` and ``audio``, the prompts.

        Returns:
            Number and picture of the plan, and warnings about the prompts.

        Raises:
            ValueError: If a prompt is missing or too long.
        """
        video, audio = (text_of(request, name) for name in ("video", "audio"))
        with self.lock:
            plan = self.pipe.plan(video, audio)
            self.made += 1
            self.plans[self.made] = plan
            while len(self.plans) > KEPT:
                self.plans.popitem(last=False)
            tokenizer = getattr(self.pipe.generator.components.built("text_encoder"), "tokenizer", None)
            return {"plan": self.made, "doubts": prompt_warnings(tokenizer, [Prompt(video, audio)]), **drawn(plan, plan)}

    def edit(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The picture of a plan after edits.

        Args:
            request: ``plan``, its number, and ``edits``, operations of :mod:`baton_lightning.plan.edits`; ``other`` of ``mix`` is the
                number of another plan.

        Raises:
            ValueError: If the plan is unknown or an edit does not fit it.
        """
        base, edited = self._edited(request)
        return drawn(edited, base)

    def clip(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A clip of a plan, or of its prompts alone.

        Args:
            request: As for :meth:`edit`, with ``seed``, ``plan_scale`` and ``follow``, which is false for a clip without a plan.

        Returns:
            The clip as an mp4 and its seconds of computation.

        Raises:
            ValueError: If a value is out of range.
        """
        _, plan = self._edited(request)
        seed = int(number_of(request, "seed", 0, 2**31 - 1))
        scale = number_of(request, "plan_scale", 0.0, 20.0)
        with self.lock:
            start, usual = time.monotonic(), self.model.guidance.plan_scale
            self.model.guidance.plan_scale = scale
            try:
                follow = request.get("follow", True)
                clip = self.pipe(plan, seed=seed) if follow else self.pipe.without_plan(plan.video_prompt, plan.audio_prompt, seed=seed)
            finally:
                self.model.guidance.plan_scale = usual
            return {"mp4": mp4(clip), "sound": spectrogram(clip), "seconds": round(time.monotonic() - start, 2)}

    def _edited(self, request: Mapping[str, Any]) -> tuple[ClipPlan, ClipPlan]:
        """A numbered plan, and the plan after the request's edits."""
        base, edits = self._numbered(request.get("plan")), request.get("edits", [])
        if not isinstance(edits, list) or len(edits) > MOST_EDITS or not all(isinstance(edit, dict) for edit in edits):
            raise ValueError(f"edits must be a list of at most {MOST_EDITS} operations, got {str(edits)[:80]}")
        others = [self._numbered(edit.get("other")) for edit in edits if edit.get("op") == "mix"]
        return base, base.edited(*edits, others=others)

    def _numbered(self, number: Any) -> ClipPlan:
        plan = self.plans.get(number) if isinstance(number, int) and not isinstance(number, bool) else None
        if plan is None:
            raise ValueError("this plan is no longer kept; press Plan again")
        return plan


def drawn(plan: ClipPlan, reference: ClipPlan) -> dict[str, Any]:
    """A plan as colours and a curve.

    Args:
        plan: The plan.
        reference: Plan whose principal components give the colours, so that a plan and its edits have the same.

    Returns:
        ``video``: a colour for each keyframe, row and column; ``audio``: (time in s, distance from the median token).
    """
    painted = colours(plan.video.flatten(0, 2), reference.video.flatten(0, 2)).mul(255).round().int()
    shown = ["#" + "".join(f"{channel:02x}" for channel in pixel) for pixel in painted.tolist()]
    keyframes, rows, columns = plan.clip.video_plan_grid
    grid = [[shown[(k * rows + r) * columns : (k * rows + r + 1) * columns] for r in range(rows)] for k in range(keyframes)]
    curve = [[round(t, 4), round(v, 4)] for t, v in zip(list(plan.clip.audio_plan_times), change(plan.audio).tolist(), strict=True)]
    return {"video": grid, "audio": curve}


def mp4(clip: GeneratedClip) -> str:
    """A clip as a data URI, enlarged to a visible size."""
    frames = clip.enlarged(max(1, -(-PLAYER_HEIGHT // clip.frames.shape[1])))
    content = mp4_bytes(frames, clip.fps, clip.audio, clip.sample_rate, pix_fmt="yuv420p")
    return "data:video/mp4;base64," + base64.b64encode(content).decode()


def spectrogram(clip: GeneratedClip, height: int = 96, width: int = 400) -> str:
    """The sound's spectrogram up to half its sample rate, low frequencies at the bottom, as a PNG data URI; 40 dB from white to black."""
    from PIL import Image

    window = 512
    power = torch.stft(torch.from_numpy(clip.audio), window, 128, window=torch.hann_window(window), return_complex=True).abs().square()
    decibels = 10 * power.clamp_min(1e-10).log10()
    grey = ((decibels.max() - decibels) / 40).clamp(0, 1).mul(255).byte().flip(0).numpy()
    picture = Image.fromarray(np.ascontiguousarray(grey), "L").resize((width, height))
    written = io.BytesIO()
    picture.save(written, format="png")
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()


def shared_step(video_rate: float, audio_rate: float, most: float = 10.0) -> float:
    """Shortest time that is a whole number of keyframes and of audio tokens, in s; edits of both move by multiples of it."""
    for keyframes in range(1, int(most * video_rate) + 1):
        if abs((tokens := keyframes / video_rate * audio_rate) - round(tokens)) < 1e-6:
            return keyframes / video_rate
    return 1 / video_rate


def text_of(request: Mapping[str, Any], name: str) -> str:
    """A prompt of a request.

    Raises:
        ValueError: If it is missing, empty or too long.
    """
    value = request.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"write the {name} prompt first")
    if len(value) > LONGEST_PROMPT:
        raise ValueError(f"the {name} prompt must have at most {LONGEST_PROMPT:,} characters, got {len(value):,}")
    return value


def number_of(request: Mapping[str, Any], name: str, low: float, high: float) -> float:
    """A number of a request.

    Raises:
        ValueError: If it is missing or out of range.
    """
    value = request.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name} must be a number in [{low:g}, {high:g}], got {str(value)[:40]}")
    return float(value)
