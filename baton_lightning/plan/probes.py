"""Probes of planned tokens: small networks that read objects, motion and loudness of the benchmark world from perceiver features.

A multilayer perceptron sees one column of a keyframe with its neighbours, and gives the colour, shape and state of the object in it. A
linear map sees seven audio tokens, and gives the amplitude of each of the world's carriers. A decoder shows each keyframe as a picture. All
are trained on features of clips whose scenes are known. :mod:`baton_lightning.plan.reading` detects events in the resulting curves.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from baton_lightning import atomic
from baton_lightning.clip import ClipSpec
from baton_lightning.plan.clip_plan import ClipPlan
from baton_lightning.plan.decoder import Decoder
from baton_lightning.shards.stored_clip import clip_of
from baton_lightning.world import vocabulary as v
from baton_lightning.world.render import bump, motion
from baton_lightning.world.scene import Scene
from baton_lightning.world.sound import play, tones

FORMAT = "baton_lightning probes 1"
NAME = "probes.safetensors"
"""Name of the file in a run folder."""
STATE_UNITS = (2.0, 3.0, 0.1, 0.2)
"""Units of the predicted state: x from the middle of its column, y from the baseline, scale - 1 and whiteness."""
CELLS, REACH, WIDTH = 3, 3, 128
"""Rows and columns that keyframes are pooled to; audio tokens on each side; hidden channels."""
NUM_COLOURS, NUM_STATES = len(v.COLOURS), len(STATE_UNITS)
STEPS, BATCH, NOISE = 2000, 512, 0.1
"""Training of the perceptron: steps, columns of a step, and the standard deviation of the noise that is added to standardised tokens."""
MOST_CLIPS_HEARD = 1000
"""Largest number of clips that the linear map is fitted to."""


@dataclass(frozen=True)
class Curves:
    """What the probes read from one plan.

    Args:
        colour: Probability of each colour in each column, and of an empty column [N, 3, 7].
        shape: Logarithm of the probability of each shape [N, 3, 3].
        state: x, y (in units of the world), scale and whiteness of the object in each column [N, 3, 4].
        loudness: Amplitude of each carrier [20, K_a].
    """

    colour: NDArray
    shape: NDArray
    state: NDArray
    loudness: NDArray


class Probes(nn.Module):
    """Probes of one feature space.

    Args:
        clip: Geometry of the clips.

    Raises:
        ValueError: If the plan has fewer than 3 rows or columns.
    """

    def __init__(self, clip: ClipSpec) -> None:
        super().__init__()
        if min(clip.plan_grid) < CELLS:
            rows, columns = clip.plan_grid
            raise ValueError(f"plan probes: a keyframe must have at least {CELLS} rows and columns of tokens, got {rows} x {columns}")
        self.clip = clip.at()
        for name, width in (("video", clip.video_plan_width), ("audio", clip.audio_plan_width)):
            self.register_buffer(f"{name}_statistics", torch.stack([torch.zeros(width), torch.ones(width)]))
        inputs = 3 * CELLS * clip.video_plan_width + CELLS
        outputs = NUM_STATES + NUM_COLOURS + 1 + len(v.SHAPES)
        self.video = nn.Sequential(nn.Linear(inputs, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, outputs))
        self.register_buffer("audio", torch.zeros((2 * REACH + 1) * clip.audio_plan_width + 1, len(v.CARRIERS)))
        self.decoder: Decoder | None = Decoder(clip, CELLS**2 * clip.video_plan_width + 1)

    # ---- reading
    @torch.no_grad()
    def curves(self, plan: ClipPlan) -> Curves:
        """The curves of a plan.

        Raises:
            ValueError: If the plan has another geometry, or other feature statistics than the probes' clips.
        """
        raw = self.features(plan)
        state, colour, shape = self.video(self.columns(raw["video"][None]))[0].split((NUM_STATES, NUM_COLOURS + 1, len(v.SHAPES)), -1)
        state = state.double().numpy() * STATE_UNITS + np.array([0.0, v.BASELINE_Y, 1.0, 0.0])
        state[..., 0] += v.COLUMN_X
        loudness = self.windows(raw["audio"][None])[0] @ self.audio
        return Curves(colour.softmax(-1).numpy(), shape.log_softmax(-1).numpy(), state, loudness.double().numpy().T)

    @torch.no_grad()
    def pictures(self, plan: ClipPlan) -> UInt8[Tensor, "N Y X 3"] | None:
        """The keyframes of a plan as RGB pictures of 32 rows. ``None`` if the probes are of an earlier version, which had no decoder.

        Raises:
            ValueError: As for :meth:`curves`.
        """
        return None if self.decoder is None else self.decoder(self.keyframes(self.features(plan)["video"][None])[0])

    def sound(self, plan: ClipPlan) -> NDArray[np.float32]:
        """The sound of a plan, mono [S] in [-1, 1] at the clip's sample rate: the carriers with the amplitudes of :meth:`curves`.

        Raises:
            ValueError: As for :meth:`curves`.
        """
        return play(self.curves(plan).loudness, np.array(self.clip.audio_plan_times), self.clip)

    def features(self, plan: ClipPlan) -> dict[str, Tensor]:
        """Modality -> raw features of a plan, which must fit the probes."""
        plan.require_fits(self.clip, {"video": self.video_statistics, "audio": self.audio_statistics})
        return {name: tokens * plan.statistics[name][1] + plan.statistics[name][0] for name, tokens in plan.tokens.items()}

    def cells(self, features: Float[Tensor, "B N h w C"]) -> Float[Tensor, "B N C 3 3"]:
        """The standardised features of each keyframe, pooled to 3 rows and columns."""
        standardised = (features - self.video_statistics[0]) / self.video_statistics[1]
        pooled = functional.adaptive_avg_pool2d(standardised.flatten(0, 1).permute(0, 3, 1, 2), CELLS)
        return pooled.unflatten(0, features.shape[:2])

    def keyframes(self, features: Float[Tensor, "B N h w C"]) -> Float[Tensor, "B N F"]:
        """Inputs of the decoder: the cells of each keyframe, and a one."""
        return functional.pad(self.cells(features).flatten(2), (0, 1), value=1.0)

    def columns(self, features: Float[Tensor, "B N h w C"]) -> Float[Tensor, "B N 3 F"]:
        """Inputs of the perceptron: the standardised features of each column and of its two neighbours, and which column it is."""
        own = self.cells(features).permute(0, 1, 4, 3, 2).flatten(3)  # B N column (row C)
        padded = functional.pad(own, (0, 0, 1, 1))
        number = torch.eye(CELLS).expand(*own.shape[:2], CELLS, CELLS)
        return torch.cat([padded[:, :, :-2], own, padded[:, :, 2:], number], -1)

    def windows(self, features: Float[Tensor, "B K C"]) -> Float[Tensor, "B K F"]:
        """Inputs of the linear map: each standardised audio token with its neighbours, and a one."""
        standardised = (features - self.audio_statistics[0]) / self.audio_statistics[1]
        padded = functional.pad(standardised.transpose(1, 2), (REACH, REACH), mode="replicate")
        windows = padded.unfold(2, 2 * REACH + 1, 1).permute(0, 2, 1, 3).flatten(2)
        return functional.pad(windows, (0, 1), value=1.0)

    # ---- training
    @classmethod
    def fit(
        cls,
        clip: ClipSpec,
        scenes: Sequence[Scene],
        video: Float[Tensor, "B K_v C_v"],
        audio: Float[Tensor, "B K_a C_a"],
        statistics: dict[str, Tensor],
        steps: int = STEPS,
        seed: int = 0,
    ) -> Probes:
        """Trains probes on clips with known scenes; about a minute on one core with 2,000 clips.

        Args:
            clip: Geometry of the clips.
            scenes: Scene of each clip.
            video: Raw video features.
            audio: Raw audio features.
            statistics: Modality -> mean and standard deviation [2, C] of the features.
            steps: Training steps of the perceptron.
            seed: Seed of its weights and of the order of its data.
        """
        from tqdm import trange

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            probes = cls(clip)
            probes.video_statistics.copy_(statistics["video"])
            probes.audio_statistics.copy_(statistics["audio"])
            heard = probes.windows(audio[:MOST_CLIPS_HEARD]).flatten(0, 1)
            played = torch.from_numpy(np.concatenate([amplitudes(scene, clip) for scene in scenes[:MOST_CLIPS_HEARD]])).float()
            gram = (heard.T @ heard).double()
            gram += NOISE**2 * len(heard) * torch.eye(len(gram), dtype=torch.float64)  # least squares with this noise on the tokens
            probes.audio.copy_(torch.linalg.solve(gram, (heard.T @ played).double()))

            shown = video.unflatten(1, clip.video_plan_grid)
            if probes.decoder is not None:
                probes.decoder.fit(probes.keyframes(shown), scenes, clip, NOISE)

            inputs = probes.columns(shown).flatten(0, 2)
            parts = [columns_of(scene, clip) for scene in scenes]
            state, colour, shape = (torch.from_numpy(np.concatenate(part)).flatten(0, 1) for part in zip(*parts, strict=True))
            optimizer = torch.optim.AdamW(probes.video.parameters(), weight_decay=1e-2)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
            for _ in trange(steps, desc="probes", mininterval=1):
                rows = torch.randint(len(inputs), (BATCH,))
                there = colour[rows] < NUM_COLOURS
                noisy = inputs[rows] + NOISE * torch.randn(BATCH, inputs.shape[1])
                states, colours, shapes = probes.video(noisy).split((NUM_STATES, NUM_COLOURS + 1, len(v.SHAPES)), -1)
                loss = functional.cross_entropy(colours, colour[rows]) + functional.cross_entropy(shapes[there], shape[rows][there])
                loss = loss + functional.mse_loss(states[there], state[rows][there])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return probes.requires_grad_(False).eval()

    # ---- files
    def save(self, path: Path, **notes: Any) -> None:
        """Writes the probes as safetensors.

        Args:
            path: The file; an existing one is replaced.
            notes: Further text to keep in its header.
        """
        told = {"format": FORMAT, "clip": json.dumps(self.clip.to_dict())} | {key: str(value) for key, value in notes.items()}
        atomic.write_tensors(path, {name: tensor.contiguous() for name, tensor in self.state_dict().items()}, told)

    @classmethod
    def load(cls, path: Path) -> Probes:
        """Reads a file written by :meth:`save`.

        Raises:
            ValueError: If the file is not one of probes, or is damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                told = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            if told.get("format") != FORMAT:
                raise ValueError(f"its format is {told.get('format')!r:.60}")
            probes = cls(clip_of(json.loads(told["clip"])))
            if not any(name.startswith("decoder.") for name in tensors):  # probes of earlier versions
                probes.decoder = None
            probes.load_state_dict(tensors)
        except (SafetensorError, OSError, ValueError, LookupError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"plan: {path} must hold probes as `plan probes` writes them ({reason}); make them again") from error
        return probes.requires_grad_(False).eval()


def columns_of(scene: Scene, clip: ClipSpec) -> tuple[NDArray, NDArray, NDArray]:
    """What each column of each keyframe shows.

    Returns:
        State [N, 3, 4] in :data:`STATE_UNITS`; colour [N, 3], 6 = empty; shape [N, 3], 0 if empty.
    """
    states = motion(scene, np.array(clip.keyframe_times))
    num, middles = clip.num_keyframes, np.array(v.COLUMN_X)
    state = np.zeros((num, CELLS, NUM_STATES), np.float32)
    colour, shape = np.full((num, CELLS), NUM_COLOURS), np.zeros((num, CELLS), np.int64)
    step = np.arange(num)
    for o in scene.objects:
        x, y, scale, white = states[o.colour]
        column = np.abs(x[:, None] - middles).argmin(1)
        state[step, column] = np.stack([x - middles[column], y - v.BASELINE_Y, scale - 1, white], 1) / STATE_UNITS
        colour[step, column], shape[step, column] = list(v.COLOURS).index(o.colour), v.SHAPES.index(o.shape)
    return state, colour, shape


def amplitudes(scene: Scene, clip: ClipSpec) -> NDArray:
    """Amplitude of each carrier at the time of each audio token [K_a, 20]."""
    times = np.array(clip.audio_plan_times)
    played = np.zeros((len(times), len(v.CARRIERS)))
    for carrier, start, seconds in tones(scene):
        played[:, carrier] += v.TONE_AMPLITUDE * bump((times - start) / seconds)
    return played
