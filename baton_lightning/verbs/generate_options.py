"""`generate`: generates mp4s with sound from a stage-3 run. The options are checked before torch is loaded."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from baton_lightning import trust
from baton_lightning.arguments import Parser, require_at_least_one
from baton_lightning.generation.pretrained import folder_of

PLANS = ("planned", "truth", "shuffled", "none", "ceiling")
FORMS = ("image", "video", "audio", "extend", "inpaint")
SCALES = ("video_scale", "audio_scale", "plan_scale")
SAVINGS = ("keep_projections", "one_batch", "plan_every", "guided")
EXAMPLES = """examples:
  held-out prompts of the run's data, scored if they are the benchmark world's:
    python -m baton_lightning generate --run runs/demo/stage3_joint --num 8 --out clips

  a plan that was made, looked at and perhaps edited (python -m baton_lightning plan --help):
    python -m baton_lightning generate --run runs/demo/stage3_joint --plan plan.safetensors --out clips

  a prompt of your own, another noise, on a GPU that holds one network at a time:
    python -m baton_lightning generate --run runs/paper/stage3 --out mine --device cuda --offload --seed 1 \\
        --video-prompt "a dog barks at the door" --audio-prompt "a dog barks twice"
"""


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog="python -m baton_lightning generate",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run = made.add_argument_group("which run")
    run.add_argument(
        "--run",
        type=folder_of,
        required=True,
        help="run folder of a stage 3, e.g. runs/demo/stage3_joint, whose planner's run is searched beside it; an export of one; "
        "or `nano`, the tiny weights that come with the library",
    )
    run.add_argument("--ckpt", type=Path, metavar="FILE", help="use this checkpoint in the run's folder; the run need not be finished")
    run.add_argument("--dit", type=Path, metavar="RUN", help="use the transformer of this stage-3 run instead, e.g. of the adaptation")
    run.add_argument("--data", type=Path, metavar="FOLDER", help="current folder of the run's data set (default: the recorded one)")

    run.add_argument(
        "--trust",
        action="append",
        default=[],
        type=trust.package,
        metavar="NAME",
        help="package whose classes the run's configuration may name",
    )

    asked = made.add_argument_group("which clips")
    asked.add_argument(
        "--plan",
        default="planned",
        metavar="{planned,truth,shuffled,none,ceiling,FILE}",
        help="what the generator follows: the planner's tokens, the clip's own features, another prompt's plan, no plan; "
        "`ceiling` only passes the true clip through the codecs; FILE is a plan of `plan make` or `plan edit`, with its prompts "
        "(default: %(default)s)",
    )
    asked.add_argument(
        "--geometry",
        metavar="WxHxSs",
        help="size and duration, e.g. 960x544x5s, one of those that the run was trained on (default: its first)",
    )
    asked.add_argument("--num", type=int, default=8, help="held-out prompts per tier (default: %(default)s)")
    asked.add_argument("--split", default="test", help="split of the data set that they are in, e.g. ood (default: %(default)s)")
    asked.add_argument("--video-prompt", help="a prompt of your own: the picture")
    asked.add_argument("--audio-prompt", help="the sound; needs --video-prompt")
    asked.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help='prompts of your own, as JSON: {"key": {"video_prompt": ..., "audio_prompt": ...}, ...}, or a file of Verse-Bench, '
        "AVGen-Bench or JavisBench; clips are named after the keys",
    )

    condition = made.add_argument_group("files to start from (docs/tasks.md); they need prompts of your own")
    condition.add_argument("--image", type=Path, metavar="FILE", help="a picture that the clip starts from")
    condition.add_argument("--video", type=Path, metavar="FILE", help="a film; sound is generated for it")
    condition.add_argument("--audio", type=Path, metavar="FILE", help="a sound; a picture is generated for it")
    condition.add_argument("--extend", type=Path, metavar="FILE", help="a clip to extend by --seconds")
    condition.add_argument("--seconds", type=float, metavar="S", help="duration of the extension, in s")
    condition.add_argument("--inpaint", type=Path, metavar="FILE", help="a clip of which --box is generated again")
    condition.add_argument(
        "--box",
        type=float,
        nargs="+",
        metavar="X",
        help="LEFT TOP RIGHT BOTTOM as shares of the picture, 0 to 1, then optionally START STOP in s",
    )
    condition.add_argument(
        "--task",
        metavar="WORDS",
        help="with held-out clips: parts of the true clip that are given, e.g. video=given or first_frame=1,prefix=0.5",
    )

    sampling = made.add_argument_group("sampling (default: the run's settings)")
    sampling.add_argument("--seed", type=int, help="seed of the noise; the same seed gives the same clips")
    sampling.add_argument("--steps", type=int, help="steps of the sampler")
    for name, what in zip(
        SCALES, ("guidance scale of the text on video", "guidance scale of the text on audio", "guidance scale of the plan"), strict=True
    ):
        sampling.add_argument(
            f"--{name.replace('_', '-')}", type=float, metavar="X", help=f"{what}; 1: no guidance and no additional forward pass"
        )
    sampling.add_argument(
        "--keep-projections", action="store_true", help="compute keys and values of text and plan once per clip; same clips, more memory"
    )
    sampling.add_argument(
        "--one-batch", action="store_true", help="compute a guided step in one batch; more memory, same clips but for rounding"
    )
    sampling.add_argument("--plan-every", type=int, metavar="N", help="use an output of plan attention for N steps; approximate")
    sampling.add_argument("--guided", type=float, nargs=2, metavar=("LOW", "HIGH"), help="flow times with guidance; approximate")

    where = made.add_argument_group("device")
    where.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:n (default: %(default)s)")
    where.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="type of the planner's and the transformer's weights; auto: bfloat16 on a GPU, float32 on the CPU (default: %(default)s)",
    )
    where.add_argument(
        "--offload", action="store_true", help="only one of text encoder, planner, transformer and codecs on the device at a time"
    )
    where.add_argument("--batch-size", type=int, default=16, help="clips generated together (default: %(default)s)")

    out = made.add_argument_group("output")
    out.add_argument("--out", type=Path, required=True, help="folder for k.mp4, k.json and scores.json; must not contain clips")
    out.add_argument(
        "--save-plans",
        action="store_true",
        help="write the plan that each clip follows as k.plan.safetensors, 2 MB per 1,000 tokens of 512 channels; `report` draws them",
    )
    out.add_argument("--force", action="store_true", help="replace clips that an earlier `generate` left in --out")
    return made


def check(options: argparse.Namespace) -> None:
    """Refuses options that contradict each other or are out of range.

    Raises:
        ValueError: If an option is invalid. The message names it.
    """
    for name, text in (("video", options.video_prompt), ("audio", options.audio_prompt)):
        if text is not None and not text.strip():
            raise ValueError(f"generate: --{name}-prompt must have words, got an empty text; docs/prompts.md has examples")
    if options.plan not in PLANS and not Path(options.plan).is_file():
        raise ValueError(f"generate: --plan must be one of {', '.join(PLANS)}, or the file of a plan, got {options.plan}")
    if options.plan not in PLANS and (options.prompts or options.video_prompt):
        raise ValueError("generate: a plan's file has its prompts; give --plan FILE, or prompts of your own")
    if bool(options.video_prompt) != bool(options.audio_prompt):
        raise ValueError("generate: --video-prompt and --audio-prompt go together; give both or neither")
    if options.prompts and options.video_prompt:
        raise ValueError("generate: give --prompts or --video-prompt, not both")
    if (options.prompts or options.video_prompt) and options.plan not in ("planned", "none"):
        raise ValueError(f"generate: a prompt of your own has no true clip, so --plan must be planned or none, got {options.plan}")
    require_one_form(options)
    require_at_least_one("generate", options, "num", "batch_size")
    if options.steps is not None:
        require_at_least_one("generate", options, "steps")
    if options.plan_every is not None:
        require_at_least_one("generate", options, "plan_every")
    if options.guided is not None and not 0 <= options.guided[0] <= options.guided[1] <= 1:
        raise ValueError(
            f"generate: --guided must be flow times LOW <= HIGH within 0 and 1, got {options.guided[0]:g} {options.guided[1]:g}"
        )
    for name in SCALES:
        if (value := getattr(options, name)) is not None and not math.isfinite(value):
            raise ValueError(f"generate: --{name.replace('_', '-')} must be a finite number, got {value}")


def require_one_form(options: argparse.Namespace) -> None:
    """Refuses several conditions at once, conditions without their prompts or options, and conditions that are not files.

    Raises:
        ValueError: If a condition is invalid. The message names its option.
    """
    given = [name for name in FORMS if getattr(options, name) is not None]
    several = [*given, *(["task"] if options.task is not None else [])]
    if len(several) > 1:
        raise ValueError(
            f"generate: give one of --image, --video, --audio, --extend, --inpaint and --task, got {', '.join(f'--{n}' for n in several)}"
        )
    own = options.video_prompt or options.prompts or options.plan not in PLANS
    if given and not own:
        raise ValueError(f"generate: --{given[0]} needs prompts that describe the clip: --video-prompt and --audio-prompt")
    if options.task is not None and own:
        raise ValueError("generate: --task takes what is given from held-out clips; for prompts of your own give --image, --video, ...")
    if options.task is not None and options.plan == "ceiling":
        raise ValueError("generate: --plan ceiling generates nothing, so it takes no --task")
    for name, form in (("seconds", "extend"), ("box", "inpaint")):
        if (getattr(options, name) is not None) != (getattr(options, form) is not None):
            raise ValueError(f"generate: --{form} FILE and --{name} go together")
    for name in given:
        if not getattr(options, name).is_file():
            raise ValueError(f"generate: --{name} must be a file, got {getattr(options, name)}")


def form_of(options: argparse.Namespace) -> str | None:
    """Name of the condition among the options; ``None`` if there is none."""
    return next((name for name in FORMS if getattr(options, name) is not None), None)
