"""Metrics over sets: what they average, and that batches and ranks do not matter."""

import pytest
import torch

from baton_lightning.metrics.checklist import PromptAccuracy
from baton_lightning.metrics.cpwer import AttributedWordErrorRate, CpWordErrorRate
from baton_lightning.metrics.desync import MeanOffset
from baton_lightning.metrics.frechet import FrechetDistance
from baton_lightning.metrics.kl import PairedKL
from baton_lightning.metrics.result import ClipMean
from baton_lightning.metrics.wer import WordErrorRate

ASKED, HEARD = {"Ann": "a b", "Bob": "c"}, {"Ann": "a", "Bob": "c d"}
TRUE, MADE = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
CASES = {
    "wer": (lambda: WordErrorRate(), [(["a b c"], ["a b"]), (["d"], ["e f"])]),
    "cpwer": (lambda: CpWordErrorRate(), [([ASKED], [HEARD]), ([HEARD], [{}])]),
    "attributed": (lambda: AttributedWordErrorRate(), [([ASKED], [HEARD]), ([HEARD], [{}])]),
    "mean": (lambda: ClipMean("PQ", "PQ", "up"), [(torch.tensor([1.0, 3.0]),), (torch.tensor([8.0]),)]),
    "offset": (lambda: MeanOffset(), [(torch.tensor([[0.4, -0.2]]),), (torch.tensor([[-1.0, -1.0]]),)]),
    "kl": (lambda: PairedKL(), [(TRUE[:2], MADE[:2]), (TRUE[2:], MADE[2:])]),
    "fd": (lambda: FrechetDistance(4), [(TRUE[:2], MADE[:2]), (TRUE[2:], MADE[2:])]),
    "p-acc": (lambda: PromptAccuracy(), [([[True, False]],), ([[True], [False, False, True]],)]),
}


def filled(name, batches):
    make, _ = CASES[name]
    metric = make()
    for batch in batches:
        metric.update(*batch)
    return metric


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_together_say_what_one_says(name):
    batches = CASES[name][1]
    whole, (one, other) = filled(name, batches).result(), (filled(name, [batch]) for batch in batches)
    states = {key: [getattr(one, key), getattr(other, key)] for key in one._defaults}
    keys = iter(one._reductions)  # torchmetrics gathers state by state, in this order
    one.dist_sync_fn, one.distributed_available_fn = (lambda state, group=None: states[next(keys)]), (lambda: True)
    merged = one.result()
    assert merged.value == pytest.approx(whole.value, rel=1e-9)
    assert (merged.n, merged.protocol, merged.better) == (whole.n, whole.protocol, whole.better)
    assert merged.also == pytest.approx(whole.also, rel=1e-9)
    assert one.n == CASES[name][0]().n + filled(name, batches[:1]).n  # and goes on with its own share


@pytest.mark.parametrize("name", CASES)
def test_every_metric_says_its_n_and_its_protocol_and_starts_over_when_reset(name):
    metric = filled(name, CASES[name][1])
    result = metric.result({"no sound": 2}).to_dict()
    assert result["n"] > 0 and result["protocol"] and result["better"] in ("up", "down") and result["left_out"] == {"no sound": 2}
    metric.reset()
    assert metric.n == 0


def test_signed_offsets_do_not_cancel_and_the_signed_mean_stands_beside():
    metric = MeanOffset()
    metric.update(torch.tensor([[0.6, -0.6], [1.0, 1.0], [-1.0, -1.0]]))
    result = metric.result()
    assert result.value == pytest.approx((0.6 + 1 + 1) / 3)
    assert result.also["signed"] == pytest.approx(0)


def test_kl_is_zero_only_for_the_same_and_looks_from_the_true_side():
    true, made = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 3.0]])
    metric = PairedKL()
    metric.update(true, true + 5)  # logits are free up to a constant
    assert metric.result().value == pytest.approx(0, abs=1e-12)
    p, q = true.softmax(-1), made.softmax(-1)
    metric.reset()
    metric.update(true, made)
    assert metric.result().value == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-6)
    with pytest.raises(ValueError, match="logits of paired clips"):
        metric.update(true, made.repeat(2, 1))


def test_prompt_accuracy_averages_prompts_not_questions():
    metric = PromptAccuracy()
    metric.update([[True], [False, False, False, True]])
    assert metric.result().value == pytest.approx((1 + 0.25) / 2)
    assert metric.result().also == {"strict": 0.5, "questions": 5}


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_number_that_is_none_is_refused_and_no_clips_are_no_number():
    metric = ClipMean("PQ", "PQ", "up")
    assert metric.result().value is None and metric.result().n == 0
    with pytest.raises(ValueError, match="PQ: every clip's number must be finite"):
        metric.update(torch.tensor([float("nan")]))
