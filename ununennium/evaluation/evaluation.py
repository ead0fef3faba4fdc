"""Evaluation of one model: its part of ``evaluation.json``.

``evaluation.json`` of a run::

    challenger        Evaluation.to_json of the new model
    champion          the same of the champion on the same holdout, or null
    generation        the champion's (0 if there is none), with which a promotion is compared
    version           the champion's version, or null
    champion_error    why the champion could not be measured, or null
    champion_holdout  {"split_sha256": .., "data_sha256": ..} that the champion was judged on when it was promoted
    epoch             of the checkpoint, from 1
    checkpoint        {"manifest": URL, "sha256": ..} of the checkpoint that was measured
    code              {"git_commit": .., "version": ..} that measured both

Files of earlier versions have only ``challenger``, ``champion``, ``generation`` and ``epoch``, and of an Evaluation
only ``classes``, ``confusion``, ``metrics``, ``num_pixels`` and the two hashes; they load, the rest being empty.
Whoever reads the JSON takes what is not there as unknown. NaN is null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ununennium.evaluation.block_sums import BlockSums
from ununennium.evaluation.measures import value_in
from ununennium.files import finite


@dataclass(frozen=True)
class Calibration:
    """Calibration of a model's confidence, the probability of the class that it names.

    Attributes:
        temperature: by which probabilities are tempered, fitted on the validation fold; 1 leaves them.
        ece: expected calibration error with it: mean over pixels of |accuracy - confidence| of their bin.
        raw_ece: the same without it.
        bins: reliability curve with it, a row for each bin of confidence: ``{"lower", "upper", "count", "confidence",
            "accuracy"}``, the last two means over the bin's pixels, NaN in an empty bin.
        raw_bins: the same without it.
        corrected_ece: ``ece`` without its upward bias, see ``ununennium.evaluation.calibration``; NaN with one block.
        raw_corrected_ece: the same of ``raw_ece``.
        ece_interval: 95 % interval of ``ece`` by drawing spatial blocks, without its bias; None with too few of them.
    """

    temperature: float
    ece: float
    raw_ece: float
    bins: list[dict[str, float]]
    raw_bins: list[dict[str, float]]
    corrected_ece: float = float("nan")
    raw_corrected_ece: float = float("nan")
    ece_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class ClassArea:
    """One class's area on the mapped part of the holdout, as mapped and as estimated (Olofsson et al. 2014).

    Standard errors are the sampling error of the labels, with the finite population correction. Intervals treat the
    holdout as a cluster sample of blocks, and speak of the area that blocks were held out of.

    Attributes:
        name: of the class.
        mapped_pixels: pixels that the model maps as this class, labelled or not.
        mapped_share: the same as a share of the mapped area.
        share: estimated share of the class, corrected for the errors that the labels show (their equation 9).
        share_se: its standard error (equation 10).
        mapped_m2: mapped square metres; None without a CRS that measures.
        area_m2: estimated square metres (equation 11); None as well.
        area_se_m2: its standard error (equation 12).
        users_accuracy: share of its map that is right, weighted by area (equation 2), and its standard error.
        users_accuracy_se: from equation 6.
        producers_accuracy: share of the class that the map has (equation 3), and its standard error.
        producers_accuracy_se: from equation 7.
        share_interval: 95 % interval of ``share`` by drawing spatial blocks; None with too few of them.
        users_accuracy_interval: the same of ``users_accuracy``.
        producers_accuracy_interval: the same of ``producers_accuracy``.
    """

    name: str
    mapped_pixels: int
    mapped_share: float
    share: float
    share_se: float
    mapped_m2: float | None
    area_m2: float | None
    area_se_m2: float | None
    users_accuracy: float
    users_accuracy_se: float
    producers_accuracy: float
    producers_accuracy_se: float
    share_interval: tuple[float, float] | None = None
    users_accuracy_interval: tuple[float, float] | None = None
    producers_accuracy_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Areas:
    """Areas of all classes.

    Attributes:
        classes: of each class.
        mapped_pixels: of the whole map of the holdout.
        mapped_m2: the same in square metres; None without a CRS that measures.
        accuracy: share of the map that is right, weighted by area (equation 1).
        accuracy_se: its standard error (equation 5).
        accuracy_interval: its 95 % interval by drawing spatial blocks; None with too few of them.
    """

    classes: list[ClassArea]
    mapped_pixels: int
    mapped_m2: float | None
    accuracy: float
    accuracy_se: float
    accuracy_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Slice:
    """A part of a holdout.

    Attributes:
        by: ``scene``, ``date``, ``block``, or a column of the catalogue such as ``sensor``.
        value: name of the part: a scene's name, a day, ``<scene> rows 64 to 127, columns 0 to 63``, ``sentinel-2a``.
        num_pixels: pixels counted there.
        num_places: spatial blocks that they lie in.
        metrics: as ``Evaluation.metrics``, of these pixels.
    """

    by: str
    value: str
    num_pixels: int
    num_places: int
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of one model on a holdout.

    Attributes:
        classes: class names.
        confusion: labelled pixels (of a classification: patches), rows by label, columns by prediction; empty for a
            regression and for several labels per patch.
        metrics: ``{"IoU": {"mean": .., "<class>": ..}, "F1": {...}, "accuracy": .., "kappa": ..}``, see
            ``ununennium.evaluation.measures``; NaN for a class that is neither labelled nor predicted, which leaves the
            mean. Of a regression ``{"RMSE": .., "MAE": .., "bias": .., "R2": ..}``.
        num_pixels: labelled pixels, or patches, that were counted.
        split_sha256: hash of the split.
        data_sha256: hash of the data.
        holdout_sha256: hash of the pixels that were counted, of their labels and of where they lie: the holdout's
            version, which stays while other places are added to the training data.
        units: sums per spatial block and scene.
        calibration: how far its confidence can be trusted; None where there is none.
        areas: of each class; None where pixels have no class.
        slices: parts of the holdout: every scene, date and attribute, and the worst blocks.
        worst: the worst of them in words.
        left_out: labelled pixels that the model has data for and the one it was compared with has not; not counted.
    """

    classes: list[str]
    confusion: list[list[int]]
    metrics: dict[str, Any]
    num_pixels: int
    split_sha256: str = ""
    data_sha256: str = ""
    holdout_sha256: str = ""
    units: BlockSums | None = None
    calibration: Calibration | None = None
    areas: Areas | None = None
    slices: list[Slice] = field(default_factory=list)
    worst: list[str] = field(default_factory=list)
    left_out: int = 0

    def metric(self, name: str) -> float | None:
        """The value of ``IoU`` (its mean), ``IoU.<class>``, ``accuracy`` ...; None if there is no such metric."""
        return value_in(self.metrics, name)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; a NaN is null."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        parts: dict[str, Any] = {
            name: None if values[name] is None else asdict(values[name]) for name in ("calibration", "areas")
        }
        parts["units"] = None if self.units is None else self.units.to_json()
        parts["slices"] = [asdict(part) for part in self.slices]
        cleaned: dict[str, Any] = finite({**values, **parts})
        return cleaned

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Evaluation:
        """The inverse of ``to_json``; what an earlier version did not write is empty."""
        known = {item.name for item in fields(cls)}
        found = {name: value for name, value in values.items() if name in known}
        found["metrics"] = _none_to_nan(values["metrics"])
        if found.get("units") is not None:
            found["units"] = BlockSums.from_json(found["units"])
        if found.get("calibration") is not None:
            found["calibration"] = _calibration(found["calibration"])
        if found.get("areas") is not None:
            found["areas"] = _areas(found["areas"])
        found["slices"] = [
            Slice(**{**part, "metrics": _none_to_nan(part["metrics"])}) for part in found.get("slices") or []
        ]
        return cls(**found)


@dataclass(frozen=True)
class Baseline:
    """A prediction that takes no training worth the name.

    Attributes:
        name: for a sentence, such as ``the constant prediction 'water'``.
        evaluation: its evaluation on the holdout of the model that it is compared with; metrics and block sums only.
    """

    name: str
    evaluation: Evaluation

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"name": self.name, "evaluation": self.evaluation.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Baseline:
        """The inverse of ``to_json``."""
        return cls(values["name"], Evaluation.from_json(values["evaluation"]))


def _calibration(values: Mapping[str, Any]) -> Calibration:
    return Calibration(**_with_intervals(values))


def _areas(values: Mapping[str, Any]) -> Areas:
    classes = [ClassArea(**_with_intervals(each)) for each in values["classes"]]
    return Areas(**{**_with_intervals(values), "classes": classes})


def _with_intervals(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of a part: null is NaN, but for what may be missing; intervals are tuples."""
    may_be_none = {"mapped_m2", "area_m2", "area_se_m2"}
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name.endswith("_interval"):
            found[name] = None if value is None else tuple(value)
        else:
            found[name] = value if name in may_be_none else _none_to_nan(value)
    return found


def _none_to_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _none_to_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_none_to_nan(item) for item in value]
    return float("nan") if value is None else value
