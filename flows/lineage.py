"""Lineage as Prefect's assets: catalogue -> run -> version of the model -> map.

The open-source server keeps the events (``prefect.asset.materialization.succeeded``, with what was used as related
resources) and has no page for them; ``contract.json`` and ``item.json`` hold the same beside the files for good.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from prefect.assets import Asset, AssetProperties, add_asset_metadata, materialize
from prefect.cache_policies import NO_CACHE

from ununennium.evaluation.evaluation import Evaluation
from ununennium.runs.directory import RunDirectory, as_link
from ununennium.runs.records import ChampionSummary, RunSummary

_RESTRICTED = re.compile(r"""[\s\0#?&%"'<>\[\]{}|\\^`]""")
_LONGEST_KEY = 512


def of_run(run: RunDirectory, summary: RunSummary, measured: Evaluation) -> None:
    """The run came of the catalogue, and, if it was promoted, the champion of the run."""
    config = run.config()
    about = {"stop_reason": summary.stop_reason, "verdict": summary.verdict, "holdout": summary.holdout}
    data = {"data_sha256": measured.data_sha256, "split_sha256": measured.split_sha256}
    made(key(run.url), run.run_id, of=[f"ununennium://data/{config.name}"], metadata={**about, **data})
    if summary.verdict == "promoted" and summary.champion is not None:
        of_version(config.name, summary.champion, [key(run.url)])


def of_version(model: str, champion: ChampionSummary, of: Sequence[str] = ()) -> None:
    """A version became champion, made of what has these keys; of nothing new, if it was one before."""
    metadata = {"generation": champion.generation, "version": champion.version, "run_id": champion.run_id}
    made(key(champion.url), f"{model} {champion.version}", of=of, metadata=metadata)


def made(asset: str, name: str, *, of: Sequence[str], metadata: Mapping[str, Any]) -> None:
    """Say that ``asset`` was made of others.

    Args:
        asset: its key.
        name: for people.
        of: keys of what it was made of.
        metadata: further fields to record with it.
    """
    properties = AssetProperties(name=name)

    @materialize(
        Asset(key=asset, properties=properties),
        by="ununennium",
        asset_deps=list(of),
        name="lineage",
        cache_policy=NO_CACHE,
        log_prints=False,
    )
    def lineage() -> None:
        add_asset_metadata(asset, dict(metadata))

    lineage()


def key(url: str) -> str:
    """A URL, or a local path, as the key of an asset."""
    return _RESTRICTED.sub("_", as_link(url))[:_LONGEST_KEY]
