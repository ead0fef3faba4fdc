"""Who is told what: Prefect's own notification blocks, and the automations that use them.

A settings file names the places, each with an address that is as secret as a password, and what is told there::

    - {name: team, slack: "https://hooks.slack.com/services/T/B/X", on: [failure, promotion, degradation]}
    - {name: pager, webhook: "https://alerts.example.org/hook", on: [failure]}
    - {name: mail, email: "mailtos://user:password@smtp.example.org?to=team@example.org", on: [failure]}

The server sends them, so it is the server that must reach these addresses. E-mail is in Apprise's notation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from prefect.blocks.notifications import CustomWebhookNotificationBlock, MicrosoftTeamsWebhook, SlackWebhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound
from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError, model_validator

SETTING = "UNUNENNIUM_NOTIFY"
"""Environment variable that names the settings file."""
FLOWS = ["retrain", "predict", "evaluate", "watch", "rollback", "resume"]
_NO_BLOCK = "00000000-0000-0000-0000-000000000000"
_RUN = "{{ flow.name }}, run {{ flow_run.name }}"

Told = Literal["failure", "promotion", "degradation"]
_WHAT: dict[str, dict[str, Any]] = {
    "failure": {
        "description": "Tell when a run has failed or crashed.",
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "match_related": {"prefect.resource.role": "flow", "prefect.resource.name": FLOWS},
        "expect": ["prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.Preempted"],
        "subject": f"{_RUN}: {{{{ flow_run.state.name }}}}",
        "body": f"{_RUN}: {{{{ flow_run.state.message }}}}\n{{{{ flow_run | ui_url }}}}\n"
        "A retraining that crashed goes on by itself, three times at most (docs/operations.md).",
    },
    "promotion": {
        "description": "Tell when another model is champion.",
        "match": {"prefect.resource.id": "ununennium.model.*"},
        "expect": ["ununennium.checkpoint.promoted", "ununennium.checkpoint.rolled_back"],
        "subject": "{{ event.resource.name }}: generation {{ event.payload.generation }} is champion",
        "body": "{{ event.event }}: version {{ event.payload.version }}, from run {{ event.payload.run_id }}\n"
        "{{ event.payload.url }}\n{{ event.payload.metrics or event.payload.reason }}",
    },
    "degradation": {
        "description": "Tell when the champion is worse than it was.",
        "match": {"prefect.resource.id": "ununennium.model.*"},
        "expect": ["ununennium.champion.degraded"],
        "subject": "{{ event.resource.name }}: the champion is worse than it was",
        "body": "{{ event.payload.reason }}\n{{ event.payload.record }}\nA retraining follows.",
    },
}


class Place(BaseModel):
    """A place where something is told; with exactly one address."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)  # an address is a secret

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=40)
    on: list[Told] = list(get_args(Told))
    slack: SecretStr | None = None
    teams: SecretStr | None = None
    webhook: SecretStr | None = None
    email: SecretStr | None = None

    @model_validator(mode="after")
    def _one_address(self) -> Place:
        given = [kind for kind in ("slack", "teams", "webhook", "email") if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of slack, teams, webhook and email; given: {', '.join(given) or 'none'}"
            )
        if self.email is not None and not self.email.get_secret_value().startswith(("mailto://", "mailtos://")):
            raise ValueError("email begins with mailto:// or mailtos:// (Apprise's notation)")
        return self

    def block(self) -> SlackWebhook | MicrosoftTeamsWebhook | CustomWebhookNotificationBlock:
        """The block that reaches it."""
        if self.webhook is not None:
            return CustomWebhookNotificationBlock(
                name=self.name,
                url="{{url}}",
                json_data={"subject": "{{subject}}", "body": "{{body}}"},
                secrets={"url": self.webhook.get_secret_value()},
            )
        if self.teams is not None:
            return MicrosoftTeamsWebhook(url=self.teams)
        address = self.slack or self.email
        assert address is not None
        return SlackWebhook(url=address)  # whatever Apprise reaches, it reaches; Prefect has no block for plain SMTP


@dataclass(frozen=True)
class Notifications:
    """What a settings file asks for.

    Attributes:
        places: notification targets.
        source: the file; empty if there is none.
    """

    places: list[Place]
    source: str

    @classmethod
    def load(cls, path: str | None = None) -> Notifications:
        """Read the settings file; ``UNUNENNIUM_NOTIFY`` names it where ``path`` does not.

        Raises:
            ValueError: it cannot be read, or something in it cannot work; no address is part of the message.
        """
        source = path or os.environ.get(SETTING) or ""
        if not source:
            return cls([], "")
        try:
            places = TypeAdapter(list[Place]).validate_python(yaml.safe_load(Path(source).read_text(encoding="utf-8")))
        except OSError as error:
            raise ValueError(f"{source} cannot be read: {error.strerror}") from error
        except yaml.YAMLError:
            raise ValueError(f"{source} is not valid YAML") from None  # its message would show the line
        except ValidationError as error:
            first = error.errors(include_input=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"{source}: {where or 'the file'}: {first['msg']}") from None
        names = [place.name for place in places]
        if len(set(names)) < len(names):
            raise ValueError(f"{source}: two places have one name: {', '.join(sorted(names))}")
        return cls(places, source)


def block_name(place: Place) -> str:
    """Name of the block document of a place."""
    return f"ununennium-{place.name}"


def block_id(client: SyncPrefectClient, place: Place) -> str:
    """Id of the block document of a place; of none, if there is none."""
    slug = type(place.block()).get_block_type_slug()
    try:
        return str(client.read_block_document_by_name(block_name(place), slug).id)
    except ObjectNotFound:
        return _NO_BLOCK


def block_differs(client: SyncPrefectClient, place: Place) -> list[str] | None:
    """How the block document of a place differs, by field, without its values; None if there is none."""
    block = place.block()
    slug = type(block).get_block_type_slug()
    try:
        there = client.read_block_document_by_name(block_name(place), slug, include_secrets=True).data
    except ObjectNotFound:
        return None
    here = _revealed(block.model_dump(mode="python"))
    return [f"  {field}: differs (not shown)" for field in sorted(here) if there.get(field) != here[field]]


def automations(place: Place, block: str) -> Iterator[dict[str, Any]]:
    """The automations that tell a place; ``block`` is the id of its block document."""
    for told in place.on:
        what = _WHAT[told]
        trigger = {key: what[key] for key in ("match", "match_related", "expect") if key in what}
        yield {
            "name": f"notify-{place.name}-{told}",
            "description": what["description"],
            "trigger": {"type": "event", "posture": "Reactive", "threshold": 1, "within": 0, **trigger},
            "actions": [
                {
                    "type": "send-notification",
                    "block_document_id": block,
                    "subject": what["subject"],
                    "body": what["body"],
                }
            ],
        }


def _revealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the server keeps of a block."""
    revealed = {}
    for name, value in values.items():
        if hasattr(value, "get_secret_value"):
            value = value.get_secret_value()
        if not name.startswith("_") and name != "block_type_slug":
            revealed[name] = value
    return revealed
