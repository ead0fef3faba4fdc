"""The best and the worst chips of the holdout, and maps of the folds and of the score, as small pictures.

``pictures/chips.json`` says what they show; the report, which imports neither torch nor matplotlib, places them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ununennium.data.chips.index import ChipIndex
from ununennium.data.scenes.raster import open_raster
from ununennium.data.scenes.scene import Scene
from ununennium.data.splits.splits import FOLDS, HOLDOUT, NONE
from ununennium.errors import DataError
from ununennium.evaluation import pictures
from ununennium.evaluation.chips import SCORES, Chip, Content, choose, content_of, predicted_scenes, score_chips
from ununennium.evaluation.split_picture import FOLD_COLOURS
from ununennium.files import replaced, write_json
from ununennium.prediction.writers import NODATA, colour
from ununennium.tasks import lower_is_better

CHIPS = "chips.json"
_SHOWN = 6  # best, and as many worst
_MOST_SIDE = 256  # pixels of a chip's picture
_MAP_SIDE = 640  # pixels of a map's longer side
_MOST_MAPS = 4
_MOST_READ = 10**9  # pixels of a scene; of a larger one no backdrop is drawn, as all of it had to be decoded
_TINT = 0.55

Picture = npt.NDArray[np.uint8]


def draw_chips(index: ChipIndex, prediction: Path, chip_size: int, folder: Path) -> dict[str, Any]:
    """Draw the best and the worst chips, and the maps, into ``folder``; say in ``chips.json`` what they show.

    Args:
        index: scenes, split and labels.
        prediction: folder of the predicted holdout.
        chip_size: side of a chip in pixels.
        folder: the run's ``pictures``.

    Returns:
        The contents of ``chips.json``.
    """
    chips = score_chips(index, prediction, chip_size)
    score = SCORES[index.task.kind]
    chosen = choose(chips, score.metric, _SHOWN)
    files = {place: file for place, _, file in predicted_scenes(index, prediction)}
    entries = []
    for kind, some in (("worst", chosen.worst), ("best", chosen.best)):
        for number, chip in enumerate(some, 1):
            scene = index.scenes[chip.scene_index]
            content = content_of(index, scene, files[chip.scene_index], chip)
            panels = _panels(index, scene, chip, content)
            entries.append(_entry(kind, number, chip, scene, _saved(panels, folder, f"chips/{kind}-{number}")))
    written = {
        "score": score.words,
        "less_is_better": lower_is_better(score.metric),
        "num_scored": len(chips),
        "num_plain": sum(chip.plain for chip in chips),
        "chip_size": chip_size,
        "legend": _legend(index) if index.task.kind == "classes" else [],
        "chips": entries,
        "maps": _draw_maps(index, chips, files, folder),
        "fold_colours": {name: list(FOLD_COLOURS[fold]) for name, fold in {**FOLDS, "buffer": NONE}.items()},
    }
    write_json(folder / CHIPS, written)
    return written


def _entry(kind: str, number: int, chip: Chip, scene: Scene, files: dict[str, str]) -> dict[str, Any]:
    return {
        "kind": kind,
        "number": number,
        "scene": scene.name,
        "row": chip.row,
        "col": chip.col,
        "height": chip.height,
        "width": chip.width,
        "score": chip.score,
        "words": chip.words,
        "files": files,
    }


def _legend(index: ChipIndex) -> list[dict[str, Any]]:
    named = [{"name": name, "colour": list(colour(number))} for number, name in enumerate(index.classes)]
    return [*named, {"name": f"{index.classes[0]} predicted wrongly", "colour": list(colour(len(index.classes)))}]


def _panels(index: ChipIndex, scene: Scene, chip: Chip, content: Content) -> dict[str, Picture]:
    """Title to picture: image, label, prediction and error, or of a patch its image alone."""
    panels = view_of(index, scene, chip.row, chip.col, chip.height, chip.width)
    if index.task.is_patchwise:
        return panels
    if not index.task.has_classes:
        return panels | value_panels(content.truth, content.predicted)
    return panels | class_panels(content.truth, content.predicted, len(index.classes), index.ignore_index)


def view_of(index: ChipIndex, scene: Scene, row: int, col: int, height: int, width: int) -> dict[str, Picture]:
    """A window of a scene as a person sees it: its image, or the first and the last date of a stack."""
    image, _ = index.reader(scene).read(row, col, height, width)
    dates = image.reshape(scene.num_dates, -1, *image.shape[1:])
    titles = ["Image"] if len(dates) == 1 else ["First date", "Last date"]
    return {title: rendered(date) for title, date in zip(titles, (dates[0], dates[-1]), strict=False)}


def rendered(bands: npt.NDArray[Any]) -> Picture:
    """Bands (B, H, W) as grey, or, of three and more, the third, second and first as red, green and blue."""
    shown = np.moveaxis(bands[[2, 1, 0]], 0, -1) if len(bands) >= 3 else bands[0]
    picture = (255 * pictures.stretch(shown)).round().astype(np.uint8)
    return picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, -1)


def class_panels(
    label: npt.NDArray[Any], prediction: npt.NDArray[Any], num_classes: int, ignore_index: int
) -> dict[str, Picture]:
    """Label, prediction and error of a chip, uint8 (H, W, 3) each; white is unlabelled or without data."""
    unlabelled, missing = label == ignore_index, prediction == NODATA
    return {
        "Label": pictures.coloured(label, num_classes, unlabelled),
        "Prediction": pictures.coloured(prediction, num_classes, missing),
        "Error": pictures.errors(label, prediction, num_classes, unlabelled, missing),
    }


def value_panels(truth: npt.NDArray[Any], prediction: npt.NDArray[Any]) -> dict[str, Picture]:
    """Truth and prediction on one scale, and their difference from blue (too low) to red; white is no value."""
    from matplotlib import colormaps

    both = np.concatenate([truth[~np.isnan(truth)], prediction[~np.isnan(prediction)]])
    low, high = (float(both.min()), float(both.max())) if both.size else (0.0, 1.0)
    error = prediction.astype(np.float64) - truth
    most = float(np.nanmax(np.abs(error))) if np.isfinite(error).any() else 1.0

    def shown(values: npt.NDArray[Any], least: float, greatest: float, colours: str) -> Picture:
        share = (values - least) / max(greatest - least, 1e-12)
        rgb = (255 * colormaps[colours](np.nan_to_num(share))[..., :3]).round().astype(np.uint8)
        rgb[np.isnan(values)] = 255
        return np.asarray(rgb, np.uint8)

    return {
        "Label": shown(truth, low, high, "viridis"),
        "Prediction": shown(prediction, low, high, "viridis"),
        "Error": shown(error, -most, most, "RdBu_r"),
    }


def side_by_side(panels: Sequence[Picture], gap: int = 4) -> Picture:
    """Panels of one size beside each other, with white between them; large ones thinned out, small ones enlarged."""
    side = max(panels[0].shape[:2])
    step, times = -(-side // _MOST_SIDE), max(1, _MOST_SIDE // side)
    sized = [panel[::step, ::step].repeat(times, 0).repeat(times, 1) for panel in panels]
    white = np.full((len(sized[0]), gap, 3), 255, np.uint8)
    return np.concatenate([part for panel in sized for part in (panel, white)][:-1], 1)


def save_png(picture: npt.NDArray[Any], path: Path) -> None:
    """Write uint8 (H, W, 3) or (H, W, 4) as a PNG, whole or not at all."""
    from PIL import Image

    with replaced(path) as part:
        Image.fromarray(picture).save(part, format="PNG", optimize=True)


def _saved(panels: dict[str, Picture], folder: Path, stem: str) -> dict[str, str]:
    """Write panels, thinned out where they are large; title to the file's place under ``folder``."""
    places = {}
    for title, picture in panels.items():
        step = -(-max(picture.shape[:2]) // _MOST_SIDE)
        place = f"{stem}-{title.lower().replace(' ', '-')}.png"
        save_png(np.ascontiguousarray(picture[::step, ::step]), folder / place)
        places[title] = place
    return places


def _draw_maps(index: ChipIndex, chips: list[Chip], files: dict[int, Path], folder: Path) -> list[dict[str, Any]]:
    """Maps of the first scenes that have a holdout: folds, and the score of each chip."""
    drawn: list[dict[str, Any]] = []
    for place in list(files)[:_MOST_MAPS]:
        scene = index.scenes[place]
        step = -(-max(scene.height, scene.width) // _MAP_SIDE)
        grey, folds = _backdrop(scene, step), _folds(index, scene, step)
        table = np.array([FOLD_COLOURS[fold] for fold in range(4)], np.float64)
        tinted = (1 - _TINT) * grey[..., None] + _TINT * table[folds]
        its_chips = [chip for chip in chips if chip.scene_index == place]
        stem = f"maps/{len(drawn) + 1}"
        save_png(tinted.round().astype(np.uint8), folder / f"{stem}-folds.png")
        entry = {"scene": scene.name, "height": scene.height, "width": scene.width, "folds": f"{stem}-folds.png"}
        if its_chips:
            save_png(
                _score_map(grey, folds, its_chips, step, SCORES[index.task.kind].metric), folder / f"{stem}-score.png"
            )
            entry |= {"score": f"{stem}-score.png", **_range(its_chips)}
        drawn.append(entry)
    return drawn


def _range(chips: list[Chip]) -> dict[str, float]:
    scores = [chip.score for chip in chips]
    return {"lowest": min(scores), "highest": max(scores), "num_chips": len(chips)}


def _score_map(grey: npt.NDArray[Any], folds: Picture, chips: list[Chip], step: int, metric: str) -> Picture:
    """The holdout tinted by the score of its chips, from dark purple (bad) to yellow (good)."""
    from matplotlib import colormaps

    score = np.full(grey.shape, np.nan)
    for chip in chips:
        rows = slice(chip.row // step, -(-(chip.row + chip.height) // step))
        score[rows, chip.col // step : -(-(chip.col + chip.width) // step)] = chip.score
    score[folds != HOLDOUT] = np.nan
    falls = lower_is_better(metric)
    low, high = (0.0, max(chip.score for chip in chips) or 1.0) if falls else (0.0, 1.0)
    share = (score - low) / (high - low)
    tint = 255 * colormaps["viridis_r" if falls else "viridis"](np.nan_to_num(share))[..., :3]
    quiet = 0.5 * grey[..., None] + 100.0  # what is not judged stands back
    shown = np.where(np.isnan(score)[..., None], quiet, (1 - _TINT) * grey[..., None] + _TINT * tint)
    return np.asarray(shown.round().clip(0, 255), np.uint8)


def _folds(index: ChipIndex, scene: Scene, step: int) -> Picture:
    rows = range(0, scene.height, step)
    return np.stack([index.split.folds(scene, row, 0, 1, scene.width)[0, ::step] for row in rows])


def _backdrop(scene: Scene, step: int) -> npt.NDArray[np.float64]:
    """The image of the last date in grey, 0 to 255, every ``step``-th pixel of it; plain where it cannot be had."""
    shape = -(-scene.height // step), -(-scene.width // step)
    plain = np.full(shape, 190.0)
    if scene.height * scene.width > _MOST_READ:
        return plain
    try:
        with open_raster(scene.images[-1], f"image of scene {scene.name!r}") as dataset:
            bands = dataset.read(list(range(1, min(dataset.count, 3) + 1)), out_shape=(min(dataset.count, 3), *shape))
    except (DataError, OSError):
        return plain
    return 255.0 * np.asarray(pictures.stretch(bands.astype(np.float64).mean(0)), np.float64)
