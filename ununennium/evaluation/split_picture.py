"""A map of the data: scenes, folds and buffers on the one hand, where the labels are on the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.warp import transform

from ununennium.data.chips.index import ChipIndex
from ununennium.data.scenes.scene import Scene
from ununennium.data.splits.label_counts import CELL
from ununennium.data.splits.splits import FOLDS, HOLDOUT, NONE, TRAIN, VALIDATION

FOLD_COLOURS = {TRAIN: (78, 121, 167), VALIDATION: (242, 167, 27), HOLDOUT: (208, 50, 72), NONE: (225, 225, 225)}
"""Red, green, blue; NONE is the buffer."""

_PIXELS = 520_000  # drawn in a panel, of all scenes together
_MOST_READ = 10**9  # pixels; of more imagery no backdrop is drawn, as it all had to be decoded
_MOST_APART = 6
_SPARSE = 0.01  # share of labelled pixels below which single places are drawn larger
_EVERYWHERE = 0.99
_MOST_PLACES = 4
_SCATTERED = 50  # times the scenes' own area, beyond which they are drawn side by side
_LONGITUDE_LATITUDE = "OGC:CRS84"


class _Look(NamedTuple):
    """A scene at reduced resolution: every ``step``-th pixel of it.

    Attributes:
        scene: scene of the shapes.
        step: rows and columns from one pixel to the next.
        grey: float (h, w) in 0..1, NaN where invalid or not read.
        folds: uint8 (h, w).
        valid: bool (h, w).
        density: float (h, w): share of each cell's valid pixels that is labelled, or of some classes.
    """

    scene: Scene
    step: int
    grey: npt.NDArray[np.float64]
    folds: npt.NDArray[np.uint8]
    valid: npt.NDArray[np.bool_]
    density: npt.NDArray[np.float64]


def split_picture(index: ChipIndex, path: str | Path) -> None:
    """Draw folds and labels of all scenes, as a PNG: on one map if they lie together, else side by side.

    Args:
        index: index to draw.
        path: path of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    with_backdrop = sum(scene.height * scene.width for scene in index.scenes) <= _MOST_READ
    counted, title = _what_is_counted(index)
    looks = [
        _look(index, scene_index, counted, with_backdrop=with_backdrop) for scene_index in range(len(index.scenes))
    ]
    maps = _maps(looks)
    windows = _places(index)
    figure = Figure(figsize=(11, 5.4 * len(maps) + (2.9 if windows else 0) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    heights = [5.4] * len(maps) + ([2.9] if windows else [])
    rows = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    densities = np.concatenate([look.density[look.density > 0] for look in looks] or [np.ones(1)])
    most = float(densities.max()) if densities.size else 1.0
    for row, (crs, its_looks) in zip(rows, maps, strict=False):
        folds_axis, labels_axis = row.subplots(1, 2)
        for look in its_looks:
            _paint(folds_axis, look, _fold_colours(look), crs)
            _paint(labels_axis, look, _backdrop(look), crs)
            drawn = _paint(labels_axis, look, np.ma.masked_equal(look.density, 0), crs, most=most)
            for axis in (folds_axis, labels_axis):
                _outline(axis, look.scene, crs, named=len(its_looks) <= 12)
        _ring_sparse(index, its_looks, crs, (folds_axis, labels_axis))
        for axis, text in ((folds_axis, "Folds"), (labels_axis, title)):
            axis.set_title(text, fontsize=10)
            axis.set_aspect("equal")
            axis.tick_params(labelsize=7)
            axis.ticklabel_format(style="plain", useOffset=False)
            axis.locator_params(nbins=5)
        folds_axis.set_xlabel(_axis_text(crs, its_looks[0].scene), fontsize=8)
        bar = row.colorbar(drawn, ax=labels_axis, shrink=0.7, format=lambda share, _: f"{100 * share:g} %")
        bar.ax.tick_params(labelsize=7)
    if windows:
        for axis, window in zip(rows[-1].subplots(1, len(windows), squeeze=False)[0], windows, strict=True):
            _draw_window(axis, index, *window)
    names = {fold: name for name, fold in FOLDS.items()} | {NONE: "buffer"}
    entries = [Patch(facecolor=_hex(rgb), edgecolor="#333333", label=names[f]) for f, rgb in FOLD_COLOURS.items()]
    figure.legend(handles=entries, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, facecolor="white")


def _what_is_counted(index: ChipIndex) -> tuple[list[int], str]:
    """Classes whose density is drawn: all, but the commonest where everything is labelled; and what that is called."""
    totals = index.survey.counts.sum(0)
    if totals.sum() < _EVERYWHERE * index.survey.valid.sum() or np.count_nonzero(totals) < 2:
        return list(range(len(totals))), "Labelled share of each cell"
    commonest = int(totals.argmax())
    return [
        n for n in range(len(totals)) if n != commonest
    ], f"Share of each cell that is not {index.classes[commonest]}"


def _look(index: ChipIndex, scene_index: int, counted: Sequence[int], *, with_backdrop: bool) -> _Look:
    scene, cells = index.scenes[scene_index], index.survey.of(scene_index)
    step = max(1, round((scene.height * scene.width * len(index.scenes) / _PIXELS) ** 0.5))
    rows, cols = range(0, scene.height, step), np.arange(0, scene.width, step)
    shape = len(rows), len(cols)
    grey, folds = np.full(shape, np.nan), np.zeros(shape, np.uint8)
    density, valid = np.zeros(shape), np.zeros(shape, np.bool_)
    num_cols = -(-scene.width // CELL)
    area = np.maximum(cells.valid, 1)
    its_cell = np.ix_(np.array(rows) // CELL, cols // CELL)
    density[:] = (cells.counts[:, counted].sum(1) / area).reshape(-1, num_cols)[its_cell]
    valid[:] = (cells.valid > 0).reshape(-1, num_cols)[its_cell]
    reader = index.reader(scene)
    for number, row in enumerate(rows):
        folds[number] = index.split.folds(scene, row, 0, 1, scene.width)[0, ::step]
        if with_backdrop:
            image, its_valid = reader.read(row, 0, 1, scene.width)
            valid[number] = its_valid[0, ::step]
            grey[number] = np.where(valid[number], image[:3].mean(0)[0, ::step], np.nan)
    if np.isfinite(grey).any():
        low, high = np.nanpercentile(grey, (2, 98))
        grey = np.clip((grey - low) / max(high - low, 1e-12), 0, 1)
    return _Look(scene, step, grey, folds, valid, density)


def _maps(looks: Sequence[_Look]) -> list[tuple[str | None, list[_Look]]]:
    """Scenes that share a map, and the CRS of the map; None is pixels."""
    placed = [look for look in looks if look.scene.crs is not None]
    apart = [look for look in looks if look.scene.crs is None]
    maps: list[tuple[str | None, list[_Look]]] = []
    if placed:
        crs = placed[0].scene.crs if len({look.scene.crs for look in placed}) == 1 else _LONGITUDE_LATITUDE
        corners = [_to_map(look.scene, _corners(look.scene), crs) for look in placed]
        own = sum(float(np.prod(np.ptp(points, axis=0))) for points in corners)
        if float(np.prod(np.ptp(np.concatenate(corners), axis=0))) <= _SCATTERED * own:
            maps.append((crs, placed))
        else:
            apart = [*placed, *apart]
    return maps + [(look.scene.crs, [look]) for look in apart[:_MOST_APART]]


def _fold_colours(look: _Look) -> npt.NDArray[np.float64]:
    table = np.array([FOLD_COLOURS[fold] for fold in range(4)]) / 255
    colours = table[look.folds]
    backdrop = _backdrop(look)
    shown = 0.62 * colours + 0.38 * backdrop[..., :3]
    return np.dstack((np.where(look.valid[..., None], shown, 1.0), look.valid.astype(np.float64)))


def _backdrop(look: _Look) -> npt.NDArray[np.float64]:
    grey = np.where(look.valid, np.nan_to_num(look.grey, nan=0.6), 1.0)
    return np.dstack((grey, grey, grey, look.valid.astype(np.float64)))


def _paint(axis: Any, look: _Look, picture: Any, crs: str | None, *, most: float = 1.0) -> Any:
    """One scene on a map; what is not along the map's axes is drawn quad by quad."""
    height, width = picture.shape[:2]
    rows = np.minimum(np.arange(height + 1) * look.step, look.scene.height)
    cols = np.minimum(np.arange(width + 1) * look.step, look.scene.width)
    options = {} if picture.ndim == 3 else {"vmin": 0.0, "vmax": most, "cmap": "YlOrRd", "alpha": 0.8}
    if crs == look.scene.crs and (crs is None or not (look.scene.transform[1] or look.scene.transform[3])):
        (left, top), (right, bottom) = _to_map(look.scene, np.array([(0, 0), (cols[-1], rows[-1])]), crs)
        return axis.imshow(picture, extent=(left, right, bottom, top), interpolation="nearest", **options)
    points = _to_map(look.scene, np.stack(np.meshgrid(cols, rows), -1).reshape(-1, 2), crs)
    x, y = (values.reshape(height + 1, width + 1) for values in points.T)
    return axis.pcolormesh(x, y, picture, rasterized=True, **options)


def _outline(axis: Any, scene: Scene, crs: str | None, *, named: bool) -> None:
    points = _to_map(scene, _corners(scene), crs)
    axis.plot(*np.vstack((points, points[:1])).T, color="black", linewidth=0.9)
    axis.margins(0.03)
    if crs is None:
        axis.set(xlim=(-1, scene.width + 1), ylim=(scene.height + 1, -1))
    else:
        axis.autoscale(True)
    if named:
        name = scene.name if len(scene.name) <= 28 else f"{scene.name[:25]}..."
        x, y = points[0]
        axis.annotate(
            name, (x, y), xytext=(3, -3), textcoords="offset points", va="top", fontsize=7,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip


def _ring_sparse(index: ChipIndex, looks: Sequence[_Look], crs: str | None, axes: Sequence[Any]) -> None:
    """A ring around each labelled cell, where there are so few that they would not be seen."""
    for look in looks:
        cells = index.survey.of(index.scenes.index(look.scene))
        labelled = cells.counts.any(1)
        if not labelled.any() or labelled.mean() > _SPARSE:
            continue
        points = _to_map(look.scene, cells.places[labelled][:, [2, 1]] + CELL / 2, crs)
        for axis in axes:
            axis.scatter(*points.T, s=90, facecolors="none", edgecolors="#111111", linewidths=0.9)


def _places(index: ChipIndex) -> list[tuple[int, int, int, int, int]]:
    """Scene, row, column, height and width of the fullest labelled places, where labels are sparse."""
    survey = index.survey
    totals = survey.counts.sum(1)
    if not totals.any() or totals.sum() / max(int(survey.valid.sum()), 1) > _SPARSE:
        return []
    found: list[tuple[int, int, int, int, int]] = []
    seen_classes: set[int] = set()
    for number in np.argsort(-totals, kind="stable").tolist():
        scene_index, row, col = survey.places[number].tolist()
        most = int(survey.counts[number].argmax())
        near = any(
            p == scene_index and abs(row - r) <= 2 * CELL and abs(col - c) <= 2 * CELL for p, r, c, _, _ in found
        )
        if len(found) == _MOST_PLACES or not totals[number]:
            break
        if near or (most in seen_classes and len(seen_classes) < np.count_nonzero(survey.counts.any(0))):
            continue
        seen_classes.add(most)
        scene = index.scenes[scene_index]
        top, left = max(0, row - CELL // 2), max(0, col - CELL // 2)
        found.append((scene_index, top, left, min(2 * CELL, scene.height - top), min(2 * CELL, scene.width - left)))
    return found


def _draw_window(axis: Any, index: ChipIndex, scene_index: int, row: int, col: int, height: int, width: int) -> None:
    """Folds of the labelled pixels of a window, over the image."""
    scene = index.scenes[scene_index]
    window = row, col, height, width
    image, valid = index.reader(scene).read(*window)
    labels, folds = index.labels(scene).read(*window), index.split.folds(scene, *window)
    grey = np.where(valid, image[:3].mean(0), np.nan)
    low, high = np.nanpercentile(grey, (2, 98)) if valid.any() else (0.0, 1.0)
    shown = np.nan_to_num(np.clip((grey - low) / max(high - low, 1e-12), 0, 1), nan=1.0)
    picture = np.dstack((shown, shown, shown))
    labelled = (labels != index.ignore_index) & valid
    table = np.array([FOLD_COLOURS[fold] for fold in range(4)]) / 255
    picture[labelled] = 0.75 * table[folds[labelled]] + 0.25 * picture[labelled]
    axis.imshow(picture, extent=(col, col + width, row + height, row), interpolation="nearest")
    classes = ", ".join(index.classes[number] for number in np.unique(labels[labelled])[:4])
    name = scene.name if len(scene.name) <= 24 else f"...{scene.name[-21:]}"
    axis.set_title(f"{classes}\n{name}", fontsize=7.5)
    axis.tick_params(labelsize=6)
    axis.locator_params(nbins=4)


def _corners(scene: Scene) -> npt.NDArray[np.float64]:
    return np.array([(0, 0), (scene.width, 0), (scene.width, scene.height), (0, scene.height)], np.float64)


def _to_map(scene: Scene, points: npt.NDArray[Any], crs: str | None) -> npt.NDArray[np.float64]:
    """(column, row) of a scene as (x, y) of a map."""
    if crs is None:
        return np.asarray(points, np.float64)
    x, y = scene.affine * (points[:, 0], points[:, 1])
    if crs != scene.crs:
        x, y = transform(rasterio.CRS.from_user_input(scene.crs), rasterio.CRS.from_user_input(crs), x, y)
    return np.column_stack((x, y))


def _axis_text(crs: str | None, scene: Scene) -> str:
    from ununennium.data.scenes.places import crs_text

    if crs is None:
        return f"columns and rows of {scene.name} (no CRS)"
    return "longitude and latitude, °" if crs == _LONGITUDE_LATITUDE else crs_text(crs)


def _hex(rgb: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)
