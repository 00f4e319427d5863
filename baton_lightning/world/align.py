"""Alignment of what was expected with what was found: edit distance, ties broken by time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

_PER_SECOND = 1e-4


@dataclass(frozen=True)
class Alignment:
    """The cheapest alignment of two sequences.

    Args:
        partner: For each expected token the index of the found token it is aligned with (equal or not), or ``None``.
        extra: Indices of found tokens that nothing is aligned with.
        errors: Substitutions + deletions + insertions.
    """

    partner: tuple[int | None, ...]
    extra: tuple[int, ...]
    errors: int


def align(
    expected: Sequence[str], found: Sequence[str], expected_times: Sequence[float] | None = None, found_times: Sequence[float] | None = None
) -> Alignment:
    """Aligns found tokens with expected ones, monotonically and with the fewest edits.

    Among alignments of equally many edits, the one whose moments differ least wins, so a surplus token early on does not shift
    those after it.
    """
    n, m = len(expected), len(found)
    apart = np.zeros((n, m))
    if expected_times is not None and found_times is not None and n and m:
        apart = _PER_SECOND * np.minimum(np.abs(np.subtract.outer(np.asarray(expected_times), np.asarray(found_times))), 10.0)
    cost = np.zeros((n + 1, m + 1))
    cost[:, 0], cost[0, :] = np.arange(n + 1), np.arange(m + 1)
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            match = cost[i - 1, j - 1] + (expected[i - 1] != found[j - 1]) + apart[i - 1, j - 1]
            cost[i, j] = min(match, cost[i - 1, j] + 1, cost[i, j - 1] + 1)
    partner: list[int | None] = [None] * n
    extra: list[int] = []
    errors, i, j = 0, n, m
    while i or j:
        if i and j:
            differs = int(expected[i - 1] != found[j - 1])
            if np.isclose(cost[i, j], cost[i - 1, j - 1] + differs + apart[i - 1, j - 1], rtol=0, atol=1e-9):
                i, j, errors = i - 1, j - 1, errors + differs
                partner[i] = j
                continue
        errors += 1
        if i and np.isclose(cost[i, j], cost[i - 1, j] + 1, rtol=0, atol=1e-9):
            i -= 1
        else:
            j -= 1
            extra.append(j)
    return Alignment(tuple(partner), tuple(reversed(extra)), errors)


def best_permutation_errors(expected: Mapping[str, Sequence[str]], found: Mapping[str, Sequence[str]]) -> int:
    """Edits that remain when speakers may be renamed freely: the numerator of cpWER.

    Args:
        expected: Words of each expected speaker.
        found: Words of each found speaker; the names need not agree.
    """
    ours, theirs = [list(w) for w in expected.values()], [list(w) for w in found.values()]
    size = max(len(ours), len(theirs))
    ours += [[]] * (size - len(ours))
    theirs += [[]] * (size - len(theirs))
    edits = np.array([[align(a, b).errors for b in theirs] for a in ours]).reshape(size, size)
    return int(edits[linear_sum_assignment(edits)].sum())
