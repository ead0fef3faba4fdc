"""Batches and model outputs of other libraries, read by the names that these use.

Batches: ``(image, target)``, ``(image, target, valid)``, or a mapping with one key for each part, as TorchGeo
(``image``, ``mask`` or ``label``) and transformers (``pixel_values``, ``labels``) give them. Outputs: tensors;
mappings with ``logits`` or ``out`` (torchvision, transformers); objects with ``.logits`` or ``.output`` (transformers,
terratorch); tuples, whose first part is the prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ununennium.errors import DataError
from ununennium.training.precision import as_float32

IMAGE_KEYS = ("image", "pixel_values", "x")
"""Keys of the image, of which the first is ours and wins."""
TARGET_KEYS = ("target", "mask", "label", "labels", "y")
"""Keys of the target, of which the first is ours and wins."""
OUTPUT_NAMES = ("logits", "out", "output")
"""Keys and attributes of the prediction in an output that is no tensor, in this order."""


def unpack(batch: Any) -> tuple[Any, Any, Any]:
    """Split a batch into image, target and valid mask or weight (None if it has none).

    Raises:
        DataError: it is neither a sequence of two or three parts nor a mapping with one image and one target.
    """
    if isinstance(batch, (tuple, list)):
        if len(batch) == 2:
            return batch[0], batch[1], None
        if len(batch) == 3:
            return batch[0], batch[1], batch[2]
        raise DataError(f"a batch has {len(batch)} parts; give (image, target) or (image, target, valid)")
    if isinstance(batch, Mapping):
        image, target = _found(batch, IMAGE_KEYS, "image"), _found(batch, TARGET_KEYS, "target")
        return batch[image], batch[target], batch.get("valid")
    raise DataError(
        f"a batch is a {type(batch).__name__}; give (image, target), (image, target, valid), or a mapping with "
        "'image', 'target' and perhaps 'valid'"
    )


def prediction_of(output: Any) -> Any:
    """The tensor of predictions in a model's output, in float32; ``output`` itself if it holds none that is known.

    Args:
        output: output of the model: a tensor, a mapping, an object with attributes, or a tuple.
    """
    if isinstance(output, Tensor):
        return as_float32(output)
    if isinstance(output, Mapping):
        found = next((output[name] for name in OUTPUT_NAMES if isinstance(output.get(name), Tensor)), None)
    elif isinstance(output, tuple | list):
        found = output[0] if output and isinstance(output[0], Tensor) else None
    else:
        parts = (getattr(output, name, None) for name in OUTPUT_NAMES)
        found = next((part for part in parts if isinstance(part, Tensor)), None)
    return output if found is None else as_float32(found)


def _found(batch: Mapping[Any, Any], keys: Sequence[str], part: str) -> str:
    """The key of one part of a batch; ours wins over those of other libraries, of which there may be one."""
    there = [key for key in keys if key in batch]
    if keys[0] in there or len(there) == 1:
        return there[0]
    names = sorted(map(str, batch))
    if not there:
        others = ", ".join(map(repr, keys[1:]))
        raise DataError(f"a batch has the keys {names}; it needs {keys[0]!r} (or one of {others}) for its {part}")
    raise DataError(
        f"a batch has the keys {names}, of which {' and '.join(map(repr, there))} may be its {part}; call that "
        f"{keys[0]!r}, or give (image, target)"
    )
