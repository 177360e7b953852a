"""A webhook is told what became of a night, and its URL, which is a secret, stands nowhere."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from nights import record

from bgm_pipeline.settings import Settings
from flows.care import report_flow
from flows.nightly import nightly_flow

SECRET = "T0P-s3cret"  # noqa: S105 - of this test


class Webhook(HTTPServer):
    """Takes what is posted to it; fails as often as it is told to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.told: list[dict[str, Any]] = []
        self.failures = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook/{SECRET}"


class Handler(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert SECRET in self.path
        if self.server.failures:
            self.server.failures -= 1
            self.send_response(503)
        else:
            self.server.told.append(json.loads(body))
            self.send_response(200)
        self.end_headers()


@pytest.fixture
def webhook(config: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    with Webhook() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("BGM_NIGHT__WEBHOOK_URL", server.url)
        yield server
        server.shutdown()


def test_night_and_report_are_told_though_the_webhook_stumbles(
    webhook: Webhook, inbox: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record(inbox / "a.wav")
    (inbox / "bad.ts").write_text("not a transport stream")
    webhook.failures = 2
    state = nightly_flow(return_state=True)
    (night,) = webhook.told
    assert (night["flow"], night["state"]) == ("nightly", "Failed")
    assert night["message"] == state.message == "1 failed, 1 new, 00:00:03 of music found"
    assert str(state.state_details.flow_run_id) in night["url"]
    assert night["message"] in night["text"] and night["url"] in night["text"]

    state = report_flow(return_state=True)
    assert state.is_failed(), "so that a bad night is red"
    report = webhook.told[1]
    assert "1 done, 1 failed, 0 running, 0 not begun; 00:00:03 of music found" in report["text"]
    assert f"{inbox / 'bad.ts'}: not a media file" in report["text"]
    assert SECRET not in caplog.text


def test_a_webhook_that_does_not_answer_costs_a_warning(
    webhook: Webhook, inbox: Path, caplog: pytest.LogCaptureFixture
) -> None:
    webhook.failures = 100
    assert nightly_flow(return_state=True).is_completed()
    assert "BGM_NIGHT__WEBHOOK_URL was not told: status 503" in caplog.text
    assert SECRET not in caplog.text
