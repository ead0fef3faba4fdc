"""Pictures of Prefect's pages for docs/images: ``python -m tests.flows.take_pictures_of_ui``.

A server, a worker and a retraining that stops early are real, and end with it. Needs a Chromium of the system's
own: ``CHROMIUM``, or /usr/bin/chromium.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.servers.prefect_server import ROOT, bootstrap, ended, post, prefect_cli, prefect_server, worker_of
from ununennium.config import RunConfig

PICTURES = ROOT / "docs" / "images"
_CHANGES = [
    "early_stopping={monitor: train_loss, patience: 11, min_delta: 1000}",
    "storage=storage",
    "gate.floors={}",
    "gate.first=any",
]
_SIZE = {"width": 1280, "height": 900}
_PATIENCE_MS = 120_000


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkout = folder / "checkout"
        for each in ("deployments", "flows", "infra", "examples"):
            shutil.copytree(ROOT / each, checkout / each)
        ui = {"PREFECT_SERVER_UI_ENABLED": "true", "PREFECT_UI_STATIC_DIRECTORY": str(folder / "ui")}
        with prefect_server(folder, **ui) as environment:
            environment["PREFECT_WORKER_QUERY_SECONDS"] = "1"
            bootstrap(environment, checkout, "--silent-after", "600")
            prefect_cli(environment, checkout, "deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
            with worker_of(environment, checkout):
                run = retrained(environment, checkout)
            look(environment["PREFECT_API_URL"], run)


def retrained(environment: dict[str, str], checkout: Path) -> str:
    """Id of a retraining that stopped early, and was promoted."""
    config = RunConfig.load(ROOT / "examples" / "atlanta" / "run.yaml", _CHANGES)
    parameters = f"config={json.dumps(config.model_dump(mode='json'))}"
    prefect_cli(environment, checkout, "deployment", "run", "retrain/on-demand", "--param", parameters)
    run = ended(environment["PREFECT_API_URL"], "retrain")
    assert run["state_name"] == "EarlyStopped", run["state"]
    return str(run["id"])


def look(api: str, run: str) -> None:
    """Open the pages as a person does, and keep what they show."""
    site = api.removesuffix("/api")
    flow = post(api, "/flows/filter", {"flows": {"name": {"any_": ["retrain"]}}})[0]["id"]
    deployments = post(api, "/deployments/filter", {"flows": {"id": {"any_": [flow]}}})
    deployment = next(each["id"] for each in deployments if each["name"] == "on-demand")
    live = post(api, "/artifacts/filter", {"artifacts": {"key": {"any_": ["atlanta-buildings-live"]}}})[0]["id"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport=_SIZE)
        page.set_default_timeout(_PATIENCE_MS)
        keep(page, f"{site}/deployments/deployment/{deployment}/run", "Name of the model", "ui-form")
        keep(page, f"{site}/runs/flow-run/{run}", "EarlyStopped", "ui-early-stopped")
        keep(page, f"{site}/runs/flow-run/{run}", "EarlyStopped", "ui-artifacts", tab="Artifacts", scroll=700)
        keep(page, f"{site}/artifacts/artifact/{live}", "epoch", "ui-live")
        browser.close()


def keep(page: Page, address: str, shows: str, name: str, *, tab: str | None = None, scroll: int = 0) -> None:
    """Show ``address`` until it says ``shows``, open its ``tab``, go down by ``scroll`` pixels, take a picture."""
    page.goto(address)
    page.get_by_text(shows).first.wait_for()
    if tab is not None:
        page.get_by_text(tab, exact=True).first.click()
    page.mouse.move(_SIZE["width"] / 2, _SIZE["height"] - 100)
    page.mouse.wheel(0, scroll)
    page.wait_for_timeout(3000)  # graphs and lists of the page are drawn
    page.screenshot(path=PICTURES / f"{name}.png")


if __name__ == "__main__":
    main()
