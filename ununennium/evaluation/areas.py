"""Areas of classes with their standard errors, from a map and what labels say of it (Olofsson et al. 2014).

P. Olofsson, G. M. Foody, M. Herold, S. V. Stehman, C. E. Woodcock, M. A. Wulder: Good practices for estimating area and
assessing accuracy of land change. Remote Sensing of Environment 148 (2014) 42-57. Numbers of equations are theirs. The
strata are the classes of the map; labels stand for a random sample within each. Labelled pixels that lie side by side
say less than that, so the standard errors are the least that they can be: ``share_interval`` of an evaluation, which
draws whole blocks, shows how much.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ununennium.evaluation.evaluation import Areas, ClassArea

FloatArray = npt.NDArray[np.float64]


def estimate_areas(
    confusion: npt.ArrayLike,
    mapped_pixels: Sequence[int],
    classes: Sequence[str],
    *,
    mapped_m2: Sequence[float] | None = None,
    intervals: Sequence[tuple[float, float] | None] | None = None,
) -> Areas:
    """Estimate the area of each class.

    Args:
        confusion: (K, K) of the labelled pixels, rows by label (reference), columns by prediction (map).
        mapped_pixels: pixels of the map of each class, labelled or not.
        classes: class names.
        mapped_m2: the same in square metres, where pixels have a size; they are the weights of the strata then.
        intervals: 95 % intervals of the shares, if they are known.

    Returns:
        NaN for what the labels cannot tell: a class that is mapped, and has no labelled pixel on its map.
    """
    by_map = np.asarray(confusion, np.float64).T  # rows by map, as in the paper
    number = by_map.sum(1)
    sizes = np.asarray(mapped_pixels if mapped_m2 is None else mapped_m2, np.float64)
    weight = sizes / sizes.sum() if sizes.sum() else np.zeros(len(sizes))
    on_map = weight > 0  # a stratum that is not mapped adds nothing, however few labels it has
    share = shares(by_map.T[None], weight)[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        proportion = by_map / number[:, None]
        part = weight[:, None] * proportion  # equation 4
        variance = (weight[:, None] * part - part**2) / (number - 1)[:, None]
        share_se = np.sqrt(np.where(on_map[:, None], variance, 0.0).sum(0))  # equation 10
        users = np.diagonal(proportion)  # equation 2
        users_variance = users * (1 - users) / (number - 1)  # equation 6
        right = np.where(on_map, weight * users, 0.0)
        accuracy = right.sum()  # equation 1
        accuracy_se = np.sqrt(np.where(on_map, weight**2 * users_variance, 0.0).sum())  # equation 5
        producers = right / share  # equation 3
        # Equation 7.
        spread = np.where(on_map[:, None], sizes[:, None] ** 2 * proportion * (1 - proportion), 0.0)
        elsewhere = np.where(on_map[:, None] & ~np.eye(len(sizes), dtype=bool), spread / (number - 1)[:, None], 0.0)
        own = np.where(on_map, sizes**2 * (1 - producers) ** 2 * users_variance, 0.0)
        producers_se = np.sqrt(own + producers**2 * elsewhere.sum(0)) / (share * sizes.sum())
    total = None if mapped_m2 is None else float(sizes.sum())
    found = [
        ClassArea(
            name=name,
            mapped_pixels=int(mapped_pixels[place]),
            mapped_share=float(weight[place]),
            share=float(share[place]),
            share_se=float(share_se[place]),
            mapped_m2=None if mapped_m2 is None else float(mapped_m2[place]),
            area_m2=None if total is None else float(total * share[place]),  # equation 11
            area_se_m2=None if total is None else float(total * share_se[place]),  # equation 12
            users_accuracy=float(users[place]),
            users_accuracy_se=float(users_variance[place] ** 0.5),
            producers_accuracy=float(producers[place]),
            producers_accuracy_se=float(producers_se[place]),
            share_interval=None if intervals is None else intervals[place],
        )
        for place, name in enumerate(classes)
    ]
    return Areas(found, int(np.sum(mapped_pixels)), total, float(accuracy), float(accuracy_se))


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
