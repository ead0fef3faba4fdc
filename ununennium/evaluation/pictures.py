"""Pictures of a run: how it learnt, and what it sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ununennium.inference.writers import NODATA, colour

_INK = "#333333"


def loss_curve(history: Mapping[str, Sequence[float | None]], path: str | Path) -> None:
    """Losses, and the validation metrics where there are any, over epochs, as a PNG.

    Args:
        history: metric name to one value per epoch; None or NaN leaves a gap.
        path: where the picture goes.
    """
    losses = [name for name in ("train_loss", "val_loss") if name in history]
    scores = [name for name in history if name.startswith("val_IoU")]
    figure, axes = _figure(2 if scores else 1, width=5.2, height=3.4)
    for axis, names, title in zip(axes, (losses, scores), ("Loss", "Validation IoU"), strict=False):
        for name in names:
            values = [float("nan") if value is None else value for value in history[name]]
            axis.plot(range(1, len(values) + 1), values, label=name, marker="o" if len(values) < 3 else None)
        axis.set(xlabel="epoch", title=title)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False)
    if scores:
        axes[-1].set_ylim(0, 1)
    _save(figure, path)


def prediction_panel(
    image: npt.NDArray[Any],
    label: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    classes: Sequence[str],
    path: str | Path,
    *,
    ignore_index: int = 255,
) -> None:
    """Image, label, prediction and errors (in the colour of what was predicted), side by side, as a PNG.

    Args:
        image: (H, W) grey or (H, W, 3), any dtype; stretched between its 2nd and 98th percentile.
        label: int (H, W).
        prediction: int (H, W), 255 without data.
        classes: class names, for the legend.
        path: where the picture goes.
        ignore_index: label value of unlabelled pixels, shown white.
    """
    import matplotlib.patches

    height, width = label.shape
    figure, axes = _figure(4, width=min(4.2, max(1.8, 6.0 * width / height)), height=6.0)
    unlabelled, missing = label == ignore_index, prediction == NODATA
    wrong = (label != prediction) & ~unlabelled & ~missing
    difference = np.full((*label.shape, 3), 255, np.uint8)
    difference[~unlabelled & ~missing] = 225
    for number in range(len(classes)):
        difference[wrong & (prediction == number)] = colour(number) if number else (0, 114, 178)
    shown: tuple[tuple[str, npt.NDArray[Any]], ...] = (
        ("Image", _stretch(image)),
        ("Label", _coloured(label, len(classes), unlabelled)),
        ("Prediction", _coloured(prediction, len(classes), missing)),
        ("Errors", difference),
    )
    for axis, (title, picture) in zip(axes, shown, strict=True):
        axis.imshow(picture, cmap="gray" if picture.ndim == 2 else None, interpolation="nearest")
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    patches = [
        matplotlib.patches.Patch(facecolor=_hex(colour(number)), edgecolor=_INK, linewidth=0.5, label=name)
        for number, name in enumerate(classes[:20])
    ]
    patches.append(matplotlib.patches.Patch(facecolor=_hex((0, 114, 178)), label=f"{classes[0]} predicted wrongly"))
    figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 6), frameon=False, fontsize=8)
    _save(figure, path)


def class_map_picture(
    path_of_map: str | Path, classes: Sequence[str], path: str | Path, *, longest: int = 1600
) -> None:
    """A class map with its legend, as a PNG; a large map is drawn from its overviews.

    Args:
        path_of_map: a GeoTIFF as ``ClassMapWriter`` writes it.
        classes: class names.
        path: where the picture goes.
        longest: pixels read along the longer side.
    """
    import matplotlib.patches
    import rasterio
    from rasterio.enums import Resampling

    with rasterio.open(path_of_map) as dataset:
        scale = min(1.0, longest / max(dataset.shape))
        shape = tuple(max(1, round(side * scale)) for side in dataset.shape)
        values = dataset.read(1, out_shape=shape, resampling=Resampling.nearest)
    figure, axes = _figure(
        1, width=8.0 * min(1.0, shape[1] / shape[0]) + 1.0, height=8.0 * min(1.0, shape[0] / shape[1]) + 1.0
    )
    axes[0].imshow(_coloured(values, len(classes), values == NODATA), interpolation="nearest")
    axes[0].axis("off")
    patches = [
        matplotlib.patches.Patch(facecolor=_hex(colour(number)), edgecolor=_INK, linewidth=0.5, label=name)
        for number, name in enumerate(classes[:20])
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 6), frameon=False)
    _save(figure, path)


def _hex(rgb: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def _figure(columns: int, *, width: float, height: float) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(np.atleast_1d(figure.subplots(1, columns)))


def _save(figure: Any, path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, facecolor="white")


def _stretch(image: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    finite = image[np.isfinite(image)]
    low, high = np.percentile(finite, (2, 98)) if finite.size else (0.0, 1.0)
    stretched: npt.NDArray[np.float64] = np.clip((image - low) / max(high - low, 1e-12), 0, 1)
    return stretched


def _coloured(values: npt.NDArray[Any], num_classes: int, missing: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    table = np.array([colour(number) for number in range(num_classes)], np.uint8)
    picture = table[np.where(missing, 0, values)]
    picture[missing] = 255
    return picture
