"""What flows and the work pool are called on a Prefect server."""

POOL = "bgm"

HEARTBEAT_S = 30
"""PREFECT_FLOWS_HEARTBEAT_FREQUENCY of the flow runs: the most often that Prefect can."""

PROCESS_EPISODE = "process-episode"
NIGHTLY = "nightly"
STORE_CHECK = "store-check"
RETENTION = "retention"
REPORT = "report"
TAKE_UP = "take-up"

FLOWS = (NIGHTLY, STORE_CHECK, RETENTION, REPORT, TAKE_UP, PROCESS_EPISODE)
"""Each has one deployment of the same name."""
