"""Areas of classes with their standard errors, from a map and what labels say of it (Olofsson et al. 2014).

P. Olofsson, G. M. Foody, M. Herold, S. V. Stehman, C. E. Woodcock, M. A. Wulder: Good practices for estimating area and
assessing accuracy of land change. Remote Sensing of Environment 148 (2014) 42-57. Numbers of equations are theirs. The
strata are the classes of the map; labels stand for a random sample within each. The standard errors are those of that
sample, with the finite population correction (Cochran 1977, section 2.6): 0 where every pixel of the map has a label.
They speak of the mapped area itself. A holdout of blocks is a one-stage cluster sample of a wider area (Stehman 1997),
in which pixels that lie side by side say less than as many drawn at random; the intervals of an evaluation, which draw
whole blocks, speak of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ununennium.evaluation.evaluation import Areas, ClassArea

FloatArray = npt.NDArray[np.float64]
Interval = tuple[float, float]


class Intervals(NamedTuple):
    """95 % intervals of a holdout as a sample of blocks; None where too few blocks inform one.

    Attributes:
        share: of each class's share.
        users: of each class's user's accuracy.
        producers: of each class's producer's accuracy.
        accuracy: of the accuracy.
    """

    share: Sequence[Interval | None]
    users: Sequence[Interval | None]
    producers: Sequence[Interval | None]
    accuracy: Interval | None


def estimate_areas(
    confusion: npt.ArrayLike,
    mapped_pixels: Sequence[int],
    classes: Sequence[str],
    *,
    mapped_m2: Sequence[float] | None = None,
    pixels_per_label: float = 1.0,
    intervals: Intervals | None = None,
) -> Areas:
    """Estimate the area of each class.

    Args:
        confusion: (K, K) of the labelled pixels, rows by label (reference), columns by prediction (map).
        mapped_pixels: pixels of the map of each class, labelled or not.
        classes: class names.
        mapped_m2: the same in square metres, where pixels have a size; they are the weights of the strata then.
        pixels_per_label: pixels of the map that one label of ``confusion`` stands for: those of a patch.
        intervals: 95 % intervals by blocks, if they are known.

    Returns:
        NaN for what the labels cannot tell: a class that is mapped, and has no labelled pixel on its map.
    """
    by_map = np.asarray(confusion, np.float64).T  # rows by map, as in the paper
    number = by_map.sum(1)
    sizes = np.asarray(mapped_pixels if mapped_m2 is None else mapped_m2, np.float64)
    weight = sizes / sizes.sum() if sizes.sum() else np.zeros(len(sizes))
    on_map = weight > 0  # a stratum that is not mapped adds nothing, however few labels it has
    share = shares(by_map.T[None], weight)[0]
    unlabelled = _unlabelled_share(number, np.asarray(mapped_pixels, np.float64) / pixels_per_label)
    with np.errstate(divide="ignore", invalid="ignore"):
        proportion = by_map / number[:, None]
        part = weight[:, None] * proportion  # equation 4
        variance = _corrected((weight[:, None] * part - part**2) / (number - 1)[:, None], unlabelled[:, None])
        share_se = np.sqrt(np.where(on_map[:, None], variance, 0.0).sum(0))  # equation 10
        users = np.diagonal(proportion)  # equation 2
        users_variance = _corrected(users * (1 - users) / (number - 1), unlabelled)  # equation 6
        right = np.where(on_map, weight * users, 0.0)
        accuracy = right.sum()  # equation 1
        accuracy_se = np.sqrt(np.where(on_map, weight**2 * users_variance, 0.0).sum())  # equation 5
        producers = right / share  # equation 3
        # Equation 7.
        spread = np.where(on_map[:, None], sizes[:, None] ** 2 * proportion * (1 - proportion), 0.0)
        spread = _corrected(spread / (number - 1)[:, None], unlabelled[:, None])
        elsewhere = np.where(on_map[:, None] & ~np.eye(len(sizes), dtype=bool), spread, 0.0)
        own = np.where(on_map, sizes**2 * (1 - producers) ** 2 * users_variance, 0.0)
        producers_se = np.sqrt(own + producers**2 * elsewhere.sum(0)) / (share * sizes.sum())
    total = None if mapped_m2 is None else float(sizes.sum())
    found = [
        ClassArea(
            name=name,
            mapped_pixels=int(mapped_pixels[position]),
            mapped_share=float(weight[position]),
            share=float(share[position]),
            share_se=float(share_se[position]),
            mapped_m2=None if mapped_m2 is None else float(mapped_m2[position]),
            area_m2=None if total is None else float(total * share[position]),  # equation 11
            area_se_m2=None if total is None else float(total * share_se[position]),  # equation 12
            users_accuracy=float(users[position]),
            users_accuracy_se=float(users_variance[position] ** 0.5),
            producers_accuracy=float(producers[position]),
            producers_accuracy_se=float(producers_se[position]),
            share_interval=None if intervals is None else intervals.share[position],
            users_accuracy_interval=None if intervals is None else intervals.users[position],
            producers_accuracy_interval=None if intervals is None else intervals.producers[position],
        )
        for position, name in enumerate(classes)
    ]
    by_area = None if intervals is None else intervals.accuracy
    return Areas(found, int(np.sum(mapped_pixels)), total, float(accuracy), float(accuracy_se), by_area)


def estimates(confusions: FloatArray, weight: FloatArray, whole: FloatArray) -> FloatArray:
    """Estimates that intervals are drawn of, for many samples at once.

    Shares rest on the map of the holdout, whose classes have known sizes. Accuracies are asked of other blocks, where
    the map's classes have other sizes too: those are drawn along, in proportion to the labels on each class.

    Args:
        confusions: (B, K, K), rows by label.
        weight: (K,), the share of each class in the map.
        whole: (K, K), the sum over all blocks.

    Returns:
        (B, 3 K + 1): shares, user's and producer's accuracies (equations 9, 2 and 3), and the accuracy (equation 1).
    """
    on_class = confusions.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        sizes = np.where(weight > 0, weight * on_class / whole.sum(0), 0.0)
        sizes /= sizes.sum(1, keepdims=True)
        users = confusions.diagonal(axis1=1, axis2=2) / on_class
        parts = np.where(sizes[:, None, :] > 0, sizes[:, None, :] * confusions / on_class[:, None, :], 0.0)
        right = parts.diagonal(axis1=1, axis2=2)
        producers = right / parts.sum(2)
    return np.concatenate([shares(confusions, weight), users, producers, right.sum(1)[:, None]], 1)


def shares(confusions: FloatArray, weight: FloatArray) -> FloatArray:
    """Equation 9 for many samples at once.

    Args:
        confusions: (B, K, K), rows by label.
        weight: (K,), the share of each class in the map.

    Returns:
        (B, K); NaN where a class that is mapped has no label on its map.
    """
    number = confusions.sum(1)  # (B, K) labels on each class of the map
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = weight * confusions / number[:, None, :]
    found: FloatArray = np.where(weight > 0, parts, 0.0).sum(2)
    return found


def _unlabelled_share(number: FloatArray, population: FloatArray) -> FloatArray:
    """The finite population correction ``1 - n / N`` of each stratum; 1 for one that is not mapped."""
    return 1 - np.minimum(number / np.maximum(population, np.maximum(number, 1.0)), 1.0)


def _corrected(variance: FloatArray, unlabelled: FloatArray) -> FloatArray:
    """A variance times the correction; 0 where all is labelled, however few pixels that are."""
    return np.where(unlabelled == 0, 0.0, variance * unlabelled)
