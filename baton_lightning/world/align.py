"""Alignment of expected and detected events by edit distance; ties are resolved by time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

_PER_SECOND = 1e-4


@dataclass(frozen=True)
class Alignment:
    """An alignment of two sequences with the fewest errors.

    Args:
        partner: For each expected token the index of the aligned found token (equal or not), or ``None``.
        extra: Indices of found tokens without a partner.
        errors: Substitutions + deletions + insertions.
    """

    partner: tuple[int | None, ...]
    extra: tuple[int, ...]
    errors: int


def align(
    expected: Sequence[str], found: Sequence[str], expected_times: Sequence[float] | None = None, found_times: Sequence[float] | None = None
) -> Alignment:
    """Aligns found tokens with expected tokens, monotonically and with the fewest edits.

    Among alignments with the same number of edits, the one with the smallest time differences is chosen, so that an early surplus token
    does not shift the later ones.
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
    """Fewest edits over all assignments of speakers: the numerator of cpWER.

    Args:
        expected: Words of each expected speaker.
        found: Words of each found speaker; the names may differ.
    """
    ours, theirs = [list(w) for w in expected.values()], [list(w) for w in found.values()]
    size = max(len(ours), len(theirs))
    ours += [[]] * (size - len(ours))
    theirs += [[]] * (size - len(theirs))
    edits = np.array([[align(a, b).errors for b in theirs] for a in ours]).reshape(size, size)
    return int(edits[linear_sum_assignment(edits)].sum())
