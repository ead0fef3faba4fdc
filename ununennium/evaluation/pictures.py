"""Pictures of a run: how it learnt, and what it sees. Each is a PNG small enough to be embedded in a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ununennium.prediction.writers import NODATA, colour

_INK = "#333333"
_MOST_CLASSES_NAMED = 20
# Reports embed pictures up to 400 kB; a picture that is larger is drawn again at the next resolution (dots per inch).
_MOST_BYTES = 380_000
_RESOLUTIONS = (110, 85, 65, 50)


def loss_curve(history: Mapping[str, Sequence[float | None]], path: str | Path) -> None:
    """Losses, and the validation RMSE, IoU or F1 where there is any, over epochs, as a PNG.

    Args:
        history: metric name to one value per epoch; None or NaN leaves a gap.
        path: path of the picture.
    """
    from matplotlib.ticker import MaxNLocator

    losses = [name for name in ("train_loss", "val_loss") if name in history]
    score = next((name for name in ("RMSE", "IoU") if f"val_{name}" in history), "F1")
    scores = [name for name in history if name.startswith(f"val_{score}")][: _MOST_CLASSES_NAMED + 1]
    figure, axes = _figure(1, 2 if scores else 1, width=5.2, height=3.4)
    for axis, names, title in zip(axes, (losses, scores), ("Loss", f"Validation {score}"), strict=False):
        for name in names:
            values = [float("nan") if value is None else value for value in history[name]]
            # A line needs two neighbours: a value that stands alone is only seen as a point.
            axis.plot(range(1, len(values) + 1), values, label=name, marker="o", markersize=3)
        axis.set(xlabel="epoch", title=title)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(alpha=0.25)
        if names:
            axis.legend(frameon=False, fontsize="small" if len(names) < 6 else "xx-small")
    if scores:
        axes[-1].set_ylim(0, None if score == "RMSE" else 1)
    _save(figure, path)


def prediction_panel(
    image: npt.NDArray[Any],
    label: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    classes: Sequence[str],
    path: str | Path,
    *,
    ignore_index: int = 255,
    later: npt.NDArray[Any] | None = None,
) -> None:
    """Image, label, prediction and errors (in the colour of what was predicted), as a PNG.

    Args:
        image: (H, W) grey or (H, W, 3), any dtype; each band is stretched between its 2nd and 98th percentile.
        label: int (H, W).
        prediction: int (H, W), 255 without data.
        classes: class names, for the legend.
        path: path of the picture.
        ignore_index: label value of unlabelled pixels, shown white.
        later: the image of the last date of a stack, shown beside that of the first.
    """
    height, width = label.shape
    unlabelled, missing = label == ignore_index, prediction == NODATA
    # On a map of errors the quiet colour of class 0 would not be seen; the palette's next one stands for it.
    standing_out = colour(len(classes))
    difference = errors(label, prediction, len(classes), unlabelled, missing)
    images = [("Image", image)] if later is None else [("First date", image), ("Last date", later)]
    shown: tuple[tuple[str, npt.NDArray[Any]], ...] = (
        *((title, stretch(one)) for title, one in images),
        ("Label", coloured(label, len(classes), unlabelled)),
        ("Prediction", coloured(prediction, len(classes), missing)),
        ("Errors", difference),
    )
    figure, axes = _panels(len(shown), height, width)
    for axis, (title, picture) in zip(axes, shown, strict=True):
        axis.imshow(picture, cmap="gray" if picture.ndim == 2 else None, interpolation="nearest")
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    named = [(name, colour(number)) for number, name in enumerate(classes[:_MOST_CLASSES_NAMED])]
    _legend(figure, [*named, (f"{classes[0]} predicted wrongly", standing_out)])
    _save(figure, path)


def value_panel(
    image: npt.NDArray[Any],
    truth: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    name: str,
    path: str | Path,
    *,
    later: npt.NDArray[Any] | None = None,
) -> None:
    """Image, true and predicted values on one colour scale, and their difference, as a PNG.

    Args:
        image: (H, W) grey or (H, W, 3), any dtype.
        truth: float (H, W), NaN where unlabelled, shown white.
        prediction: float (H, W), NaN without data, shown white.
        name: of the quantity.
        path: path of the picture.
        later: the image of the last date of a stack, shown beside that of the first.
    """
    images = [("Image", image)] if later is None else [("First date", image), ("Last date", later)]
    figure, axes = _panels(len(images) + 3, *truth.shape)
    figure.set_figheight(figure.get_figheight() + 0.7)  # for the colour scales
    for axis, (title, picture) in zip(axes, images, strict=False):
        shown = stretch(picture)
        axis.imshow(shown, cmap="gray" if shown.ndim == 2 else None, interpolation="nearest")
        axis.set_title(title, fontsize=9)
    low, high = _value_range(truth, prediction)
    error = prediction.astype(np.float64) - truth
    most = max(abs(bound) for bound in _value_range(error))
    for axis, title, values, (least, greatest), colours in zip(
        axes[len(images) :],
        ("Truth", "Prediction", "Prediction minus truth"),
        (truth, prediction, error),
        ((low, high), (low, high), (-most, most)),
        ("viridis", "viridis", "RdBu_r"),
        strict=True,
    ):
        drawn = axis.imshow(values, cmap=colours, vmin=least, vmax=greatest, interpolation="nearest")
        axis.set_title(title if title != "Truth" else f"Truth: {name}", fontsize=9)
        figure.colorbar(drawn, ax=axis, location="bottom", shrink=0.9).ax.tick_params(labelsize=7)
    for axis in axes:
        axis.axis("off")
        axis.set_anchor("N")
    _save(figure, path)


def value_map_picture(path_of_map: str | Path, name: str, path: str | Path, *, longest: int = 1600) -> None:
    """A map of values with its colour scale, as a PNG; a large map is drawn from its overviews.

    Args:
        path_of_map: a GeoTIFF as ``ValueMapWriter`` writes it.
        name: of the quantity.
        path: path of the picture.
        longest: pixels read along the longer side.

    Raises:
        DataError: the map cannot be read.
    """
    values = _read_map(path_of_map, longest, "average")
    height, width = values.shape
    largest = 8.0 / max(height, width)
    figure, axes = _figure(1, 1, width=max(largest * width, 2.5), height=max(largest * height, 0.6) + 0.8)
    low, high = _value_range(values)
    drawn = axes[0].imshow(values, cmap="viridis", vmin=low, vmax=high, interpolation="nearest")
    axes[0].axis("off")
    figure.colorbar(drawn, ax=axes[0], location="bottom", shrink=0.8, label=name)
    _save(figure, path)


def class_map_picture(
    path_of_map: str | Path, classes: Sequence[str], path: str | Path, *, longest: int = 1600
) -> None:
    """A class map with its legend, as a PNG; a large map is drawn from its overviews.

    Args:
        path_of_map: a GeoTIFF as ``ClassMapWriter`` writes it.
        classes: class names.
        path: path of the picture.
        longest: pixels read along the longer side.

    Raises:
        DataError: the map cannot be read.
    """
    values = _read_map(path_of_map, longest, "nearest")
    height, width = values.shape
    largest = 8.0 / max(height, width)
    figure, axes = _figure(1, 1, width=max(largest * width, 2.5), height=max(largest * height, 0.6) + 0.3)
    axes[0].imshow(coloured(values, len(classes), values == NODATA), interpolation="nearest")
    axes[0].axis("off")
    _legend(figure, [(name, colour(number)) for number, name in enumerate(classes[:_MOST_CLASSES_NAMED])])
    _save(figure, path)


def change_picture(before: npt.NDArray[Any], after: npt.NDArray[Any], classes: Sequence[str], path: str | Path) -> None:
    """Two class maps, and what changed in the colour of what it became, as a PNG.

    Args:
        before: class numbers (H, W), 255 without data.
        after: the same, later.
        classes: class names.
        path: path of the picture.
    """
    known = (before != NODATA) & (after != NODATA)
    changed = known & (before != after)
    difference = np.full((*after.shape, 3), 255, np.uint8)
    difference[known] = 225
    became = coloured(after, len(classes), after == NODATA)
    difference[changed] = became[changed]
    # The quiet colour of class 0 would not be seen there; the palette's next one stands for it.
    standing_out = colour(len(classes))
    difference[changed & (after == 0)] = standing_out
    figure, axes = _panels(3, *after.shape)
    titles = ("Last map", "This map", f"Changed: {changed.sum() / max(known.sum(), 1):.1%}")
    for axis, title, picture in zip(
        axes, titles, (coloured(before, len(classes), before == NODATA), became, difference), strict=True
    ):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    named = [(name, colour(number)) for number, name in enumerate(classes[:_MOST_CLASSES_NAMED])]
    _legend(figure, [*named, (f"became {classes[0]}", standing_out)])
    _save(figure, path)


def presence_map_picture(
    path_of_map: str | Path, classes: Sequence[str], path: str | Path, *, longest: int = 800
) -> None:
    """Presence of each class, a panel for each, as a PNG; the first ones if there are many.

    Args:
        path_of_map: a GeoTIFF as ``PresenceMapWriter`` writes it.
        classes: class names.
        path: path of the picture.
        longest: pixels read along the longer side.

    Raises:
        DataError: the map cannot be read.
    """
    named = list(classes[:_MOST_CLASSES_NAMED])
    maps = [_read_map(path_of_map, longest, "nearest", band) for band in range(1, len(named) + 1)]
    height, width = maps[0].shape
    columns = min(len(named), 4)
    rows = -(-len(named) // columns)
    side = 3.0 * height / max(height, width) + 0.4
    figure, axes = _figure(rows, columns, width=3.0, height=side)
    for position, axis in enumerate(axes):
        axis.axis("off")
        if position < len(named):
            axis.imshow(coloured(maps[position], 2, maps[position] == NODATA), interpolation="nearest")
            axis.set_title(named[position], fontsize=9)
    _legend(figure, [("absent", colour(0)), ("present", colour(1))])
    _save(figure, path)


def _read_map(path: str | Path, longest: int, resampling: str, band: int = 1) -> npt.NDArray[Any]:
    """A band of a map with at most ``longest`` pixels along its longer side."""
    from rasterio.enums import Resampling

    from ununennium.data.scenes.raster import open_raster

    with open_raster(str(path), "map") as dataset:
        scale = min(1.0, longest / max(dataset.shape))
        shape = tuple(max(1, round(side * scale)) for side in dataset.shape)
        values: npt.NDArray[Any] = dataset.read(band, out_shape=shape, resampling=Resampling[resampling])
    return values


def _value_range(*arrays: npt.NDArray[Any]) -> tuple[float, float]:
    """The 1st and 99th percentile of all that is not NaN, at least a little apart."""
    values = np.concatenate([array[~np.isnan(array)] for array in arrays])
    low, high = np.percentile(values, (1, 99)).tolist() if values.size else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _panels(number: int, height: int, width: int) -> tuple[Any, list[Any]]:
    """A figure of panels that each show ``height`` x ``width`` pixels, beside or above each other as they fit."""
    rows, columns = (1, number) if width < 1.5 * height else (2, -(-number // 2)) if width < 4 * height else (number, 1)
    longest = {1: 6.0, 2: 5.0}.get(rows, 9.0)
    scale = min(longest / height, 4.2 / width) if rows == 1 else longest / width
    figure, axes = _figure(rows, columns, width=max(scale * width, 1.6), height=max(scale * height, 0.6) + 0.3)
    for axis in axes[number:]:
        axis.axis("off")
    return figure, axes[:number]


def _figure(rows: int, columns: int, *, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure of panels of ``width`` x ``height`` inches; pyplot, and whatever display it finds, stay out of it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(np.ravel(figure.subplots(rows, columns)))


def _legend(figure: Any, entries: Sequence[tuple[str, tuple[int, int, int]]]) -> None:
    from matplotlib.patches import Patch

    patches = [
        Patch(facecolor="#{:02x}{:02x}{:02x}".format(*rgb), edgecolor=_INK, linewidth=0.5, label=name)
        for name, rgb in entries
    ]
    longest = max(len(name) for name, _ in entries)
    columns = max(1, int(figure.get_figwidth() / (0.07 * longest + 0.6)))  # about the width of an entry in inches
    figure.legend(
        handles=patches, loc="outside lower center", ncols=min(len(patches), columns), frameon=False, fontsize=8
    )


def _save(figure: Any, path: str | Path) -> None:
    """Write at the finest resolution that a report can embed."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    for dots_per_inch in _RESOLUTIONS:
        figure.savefig(target, dpi=dots_per_inch, facecolor="white")
        if target.stat().st_size <= _MOST_BYTES:
            return


def stretch(image: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Each band between its 2nd and 98th percentile, in [0, 1]; zeros are what readers give where there is no data."""
    bands = np.atleast_3d(image).astype(np.float64)
    stretched = np.zeros_like(bands)
    for band in range(bands.shape[2]):
        values = bands[..., band]
        data = values[np.isfinite(values) & (values != 0)]
        low, high = np.percentile(data, (2, 98)) if data.size else (0.0, 1.0)
        stretched[..., band] = np.clip(np.nan_to_num((values - low) / max(high - low, 1e-12)), 0, 1)
    return stretched if image.ndim == 3 else stretched[..., 0]


def errors(
    label: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    num_classes: int,
    unlabelled: npt.NDArray[np.bool_],
    missing: npt.NDArray[np.bool_],
) -> npt.NDArray[np.uint8]:
    """Errors of a prediction in the colour of the predicted class, uint8 (H, W, 3); class 0 has the next colour.

    Args:
        label: int (H, W).
        prediction: int (H, W).
        num_classes: number of classes.
        unlabelled: bool (H, W), white.
        missing: bool (H, W), white.
    """
    evaluated = ~unlabelled & ~missing
    picture = np.full((*label.shape, 3), 255, np.uint8)
    picture[evaluated] = 225
    wrong = (label != prediction) & evaluated
    for number in range(num_classes):
        picture[wrong & (prediction == number)] = colour(number) if number else colour(num_classes)
    return picture


def coloured(values: npt.NDArray[Any], num_classes: int, missing: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Class numbers as colours, uint8 (H, W, 3); what is missing is white."""
    table = np.array([colour(number) for number in range(num_classes)], np.uint8)
    picture = table[np.where(missing, 0, values)]
    picture[missing] = 255
    return picture
