"""Bring a Prefect server's work pools, automations and notifications to what the files here say.

Run it as often as you like, such as after each upgrade: it says what differs and changes that alone. What the files do
not name is left alone. The server is that of ``PREFECT_API_URL`` or of the profile.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

from infra.notifications import SETTING, Notifications, Place, automations, block_differs, block_id, block_name

HERE = Path(__file__).parent
_SETS = ("after", "expect", "for_each")


@dataclass(frozen=True)
class Change:
    """One thing that is not as the files say.

    Attributes:
        what: its kind and name.
        lines: how it differs; empty if it is not there.
        apply: makes it so.
    """

    what: str
    lines: list[str]
    apply: Callable[[], object]

    def __str__(self) -> str:
        return "\n".join([f"{self.what}: {'differs' if self.lines else 'is missing'}", *self.lines])


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 it is as the files say; 1 no server, or it refuses; 3 a dry run that found differences."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.bootstrap",
        description="Create or update the work pools, automations and notifications of Ununennium on a Prefect server.",
        epilog="Then: prefect deploy --all --prefect-file deployments/prefect.yaml",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what differs, and change nothing")
    parser.add_argument(
        "--silent-after",
        type=int,
        metavar="SECONDS",
        help="when a run without heartbeats has crashed; at least 3 of them",
    )
    parser.add_argument(
        "--notify", metavar="FILE", help=f"whom to tell what, as infra/notifications.py shows (default: ${SETTING})"
    )
    parser.add_argument(
        "--pool",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="a work pool beside those of infra/work-pools, named as the file: infra/kubernetes/gpu-job.json",
    )
    options = parser.parse_args(arguments)
    try:
        notifications = Notifications.load(options.notify)
        with get_client(sync_client=True) as client:
            changes = differences(
                client, silent_after_s=options.silent_after, notifications=notifications, pools=options.pool
            )
            for change in changes:
                print(change)
                if not options.dry_run:
                    change.apply()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (httpx.HTTPError, RuntimeError) as error:
        print(f"error: {error}; is PREFECT_API_URL right, and the server up?", file=sys.stderr)
        return 1
    if not notifications.source:
        print(f"nobody is told of failures and promotions: give --notify FILE, or set {SETTING}", file=sys.stderr)
    done = "would be changed" if options.dry_run else "changed"
    print(f"{len(changes)} thing(s) {done}" if changes else "all is as it should be")
    return 3 if options.dry_run and changes else 0


def differences(
    client: SyncPrefectClient,
    *,
    silent_after_s: int | None = None,
    notifications: Notifications | None = None,
    pools: Sequence[Path] = (),
) -> list[Change]:
    """What on the server is not as the files say.

    Args:
        client: of the server.
        silent_after_s: seconds without a heartbeat after which a run has crashed; as ``automations.yaml`` says if None.
        notifications: automations to create; existing ones are left alone if None.
        pools: files of work pools beside those of ``work-pools``.
    """
    found = [_work_pool(client, file) for file in (*sorted((HERE / "work-pools").glob("*.json")), *pools)]
    described = yaml.safe_load((HERE / "automations.yaml").read_text(encoding="utf-8"))["automations"]
    for automation in described:
        if silent_after_s is not None and automation["trigger"]["posture"] == "Proactive":
            automation["trigger"]["within"] = silent_after_s
        found.append(_automation(client, automation))
    for place in notifications.places if notifications else []:
        found += _notifications(client, place)
    return [change for change in found if change is not None]


def _work_pool(client: SyncPrefectClient, file: Path) -> Change | None:
    name, wanted = file.stem, json.loads(file.read_text(encoding="utf-8"))
    kind = wanted.pop("type")
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        create = WorkPoolCreate(name=name, type=kind, **wanted)
        return Change(f"work pool {name}", [], lambda: client.create_work_pool(create))
    if pool.type != kind:
        raise ValueError(f"work pool {name} is of type {pool.type}, and not {kind}: delete it, or rename {file.name}")
    lines = _differing({key: getattr(pool, key) for key in wanted}, wanted)
    if not lines:
        return None
    return Change(f"work pool {name}", lines, lambda: client.update_work_pool(name, WorkPoolUpdate(**wanted)))


def _notifications(client: SyncPrefectClient, place: Place) -> list[Change | None]:
    """A block and its automations; these name the block by an id that it has once it is there."""
    lines = block_differs(client, place)
    what = f"notification block {block_name(place)}"
    block = None
    if lines is None or lines:
        block = Change(what, lines or [], lambda: place.block().save(block_name(place), overwrite=True))

    def described(name: str) -> Mapping[str, Any]:
        return next(each for each in automations(place, block_id(client, place)) if each["name"] == name)

    names = [str(each["name"]) for each in automations(place, block_id(client, place))]
    return [block, *(_automation(client, described(name), functools.partial(described, name)) for name in names)]


def _automation(
    client: SyncPrefectClient, described: Mapping[str, Any], late: Callable[[], Mapping[str, Any]] | None = None
) -> Change | None:
    """What of an automation differs; ``late`` describes it when it is made, if that takes what does not exist yet."""
    wanted = AutomationCore.model_validate(described)
    what = f"automation {wanted.name}"

    def latest() -> AutomationCore:
        return wanted if late is None else AutomationCore.model_validate(late())

    found = client.read_automations_by_name(wanted.name)
    if not found:
        return Change(what, [], lambda: client.create_automation(latest()))
    if len(found) > 1:
        raise ValueError(f"there are {len(found)} automations named {wanted.name}: delete all but one")
    compared = ("description", "enabled", "trigger", "actions", "actions_on_trigger", "actions_on_resolve")
    there, here = (
        {key: value for key, value in automation.model_dump(mode="json").items() if key in compared}
        for automation in (AutomationCore.model_validate(found[0].model_dump(exclude={"id"})), wanted)
    )
    lines = _differing(_without_ids(there), _without_ids(here))

    def update() -> None:
        client.update_automation(found[0].id, latest())
        (client.resume_automation if wanted.enabled else client.pause_automation)(found[0].id)  # not part of an update

    return Change(what, lines, update) if lines else None


def _differing(there: Any, here: Any, place: str = "") -> list[str]:
    """What differs between the server and the files, a line each."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        lines = []
        for key in sorted(there.keys() | here.keys()):
            lines += _differing(there.get(key), here.get(key), f"{place}.{key}" if place else str(key))
        return lines
    return [] if there == here else [f"  {place}: {json.dumps(there)} -> {json.dumps(here)}"]


def _without_ids(value: Any, name: str = "") -> Any:
    """What the server adds to a trigger is no difference, and neither is the order of a set."""
    if isinstance(value, Mapping):
        return {key: _without_ids(each, key) for key, each in value.items() if key != "id"}
    if isinstance(value, list):
        members = [_without_ids(each) for each in value]
        return sorted(members) if name in _SETS else members
    return value


if __name__ == "__main__":
    sys.exit(main())
