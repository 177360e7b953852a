"""Tells a webhook what became of a flow run."""

import logging

import httpx
from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger
from prefect.utilities.urls import url_for

from bgm_pipeline.settings import load_settings

_TIMEOUT_S = 10.0
_TRIES = 3


def post_summary(flow: "Flow[..., object]", flow_run: FlowRun, state: "State[object]") -> None:
    """A hook for the end of a flow run: posts one JSON object to BGM_NIGHT__WEBHOOK_URL.

    It has `text` (what Slack, Mattermost and Teams show), `flow`, `state`, `message` and `url`, the flow run
    in the UI. A webhook that does not answer costs nothing but a warning, which does not repeat the URL: that
    is a secret.
    """
    url = load_settings().night.webhook_url.get_secret_value()
    if not url:
        return
    logging.getLogger("httpx").setLevel(logging.WARNING)  # It would log the URL.
    message = state.message or ""
    ui_url = url_for(flow_run) or ""
    body = {
        "text": f"bgm {flow.name}: {state.name}: {message}\n{ui_url}",
        "flow": flow.name,
        "state": state.name,
        "message": message,
        "url": ui_url,
    }
    logger = flow_run_logger(flow_run, flow)
    for _ in range(_TRIES):
        try:
            response = httpx.post(url, json=body, timeout=_TIMEOUT_S)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            said = type(error).__name__
            continue
        if response.is_success:
            return
        said = f"status {response.status_code}"
    logger.warning("BGM_NIGHT__WEBHOOK_URL was not told: %s", said)
