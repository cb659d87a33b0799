"""What operators see: metrics of all workers, the overview, the log and traces; never code or outputs."""

import http.server
import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from tci import metrics, stages
from tci.sessions.figures import quantile
from tci.sessions.session import Verdict
from tests.api.failures import assert_failure
from tests.conftest import ROOT, Service, serving
from tests.sandbox import processes

SECRET = "unmentionable"
"""In code and outputs; never in what operators see."""

DASHBOARD = ROOT / "docker" / "grafana" / "dashboards" / "tci.json"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Receiver(http.server.BaseHTTPRequestHandler):
    """Takes traces as a collector does."""

    bodies: list[bytes]

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(httpx.codes.OK)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class Collector:
    """Where traces are sent, and what came."""

    url: str
    bodies: list[bytes]


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """A collector that takes what is sent to it."""

    class Ours(Receiver):
        bodies: list[bytes] = []  # noqa: RUF012 (of this class, which is new)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ours) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Collector(f"http://127.0.0.1:{server.server_port}", Ours.bodies)
        server.shutdown()


@pytest.fixture(scope="session")
def watched(driver: str, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of two workers with a small limit of output, that sends traces."""
    data_dir = tmp_path_factory.mktemp(f"watched-{driver}") / "data"
    collector.bodies.clear()
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # of this service only: others start beside it
            patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
            patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
            service = stack.enter_context(serving(driver, data_dir, ("--workers", "2"), max_output_bytes=20_000))
        yield service


@pytest.fixture(scope="session")
def operator(watched: Service) -> Iterator[httpx.Client]:
    """A caller with an admin key, on a new connection for each request: any worker may answer."""
    key = watched.tci("keys", "create", "--account", "operator", "--admin").stdout.strip()
    headers = {"Authorization": f"Bearer {key}", "Connection": "close"}
    with httpx.Client(base_url=watched.url, timeout=60, headers=headers) as client:
        yield client


def scrape(client: httpx.Client) -> Samples:
    """Return all samples, as Prometheus's own parser reads them."""
    answer = client.get("/metrics")
    assert answer.status_code == httpx.codes.OK, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = list(text_string_to_metric_families(answer.text))
    assert len({family.name for family in families}) == len(families)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float:
    """Return one sample, which must be there."""
    return samples[name, frozenset(labels.items())]


@contextmanager
def rises(client: httpx.Client, name: str, by: float = 1, **labels: str) -> Iterator[None]:
    """Assert that a sample rises by so much in the block."""
    before = of(scrape(client), name, **labels)
    yield
    assert of(scrape(client), name, **labels) == pytest.approx(before + by)


def test_labels_are_those_that_the_service_has() -> None:
    assert set(metrics.VERDICTS) == {verdict.value for verdict in Verdict}
    assert get_args(stages.Name) == metrics.STAGES


@pytest.mark.parametrize(
    ("verdict", "code", "fields"),
    [
        ("ok", "1", {}),
        ("error", "1 / 0", {}),
        ("timeout", "import time; time.sleep(60)", {"timeout": 0.5}),
        ("output_limit", "print('x' * 100_000)", {}),
        ("kernel_died", "import os; os._exit(3)", {}),
    ],
)
def test_execution_is_counted_by_its_verdict(
    watched: Service, operator: httpx.Client, verdict: str, code: str, fields: dict[str, Any]
) -> None:
    before = scrape(operator)
    assert watched.run(code, **fields)["execution"]["verdict"] == verdict
    after = scrape(operator)
    ended = {
        name: of(after, "tci_executions_ended_total", verdict=name)
        - of(before, "tci_executions_ended_total", verdict=name)
        for name in metrics.VERDICTS
    }
    assert ended == {name: float(name == verdict) for name in metrics.VERDICTS}
    cut = of(after, "tci_outputs_cut_total") - of(before, "tci_outputs_cut_total")
    assert cut == (verdict == "output_limit")


def test_each_stage_of_an_execution_is_timed(watched: Service, operator: httpx.Client) -> None:
    before = scrape(operator)
    session_id = watched.run("1")["session_id"]
    watched.run("import time; time.sleep(0.3)", session_id)
    after = scrape(operator)

    def rise(name: str, stage: str) -> float:
        return of(after, name, stage=stage) - of(before, name, stage=stage)

    counts = {stage: rise("tci_stages_took_seconds_count", stage) for stage in metrics.STAGES}
    assert counts == {"open": 1, "turn": 2, "run": 2, "count": 2, "whole": 2}
    seconds = {stage: rise("tci_stages_took_seconds_sum", stage) for stage in metrics.STAGES}
    assert seconds["whole"] >= seconds["run"] >= 0.3
    assert seconds["whole"] >= seconds["open"] > 0


def test_launch_is_counted_and_the_session_is_live_and_billed(watched: Service, operator: httpx.Client) -> None:
    before = scrape(operator)
    launched = {"driver": watched.driver, "outcome": "ok"}
    with (
        rises(operator, "tci_sandboxes_launched_seconds_count", **launched),
        rises(operator, "tci_sessions_live"),
    ):
        watched.run("1")
    of_month = [("tci_ledger_billed_sessions", 1), ("tci_ledger_billed_usd", 0.03)]

    def is_billed() -> bool:  # bills are read every few seconds
        now = scrape(operator)
        return all(of(now, name) == pytest.approx(of(before, name) + rise) for name, rise in of_month)

    assert processes.eventually(is_billed, 10)
    assert of(before, "tci_stores_up", store="database") == of(before, "tci_stores_up", store="redis") == 1


def test_request_over_a_quota_is_counted_by_the_quota(watched: Service, operator: httpx.Client) -> None:
    key = watched.tci("keys", "create", "--account", "hasty", "--executions-per-minute", "1").stdout.strip()
    body, headers = {"code": "", "session_id": "ses_nowhere"}, {"Authorization": f"Bearer {key}"}
    with (
        rises(operator, "tci_quotas_refused_total", quota="executions_per_minute", by=3),
        rises(operator, "tci_executions_refused_total", code="rate_limited", by=3),
        rises(operator, "tci_failures_answered_total", code="rate_limited", by=3),
        rises(operator, "tci_executions_refused_total", code="session_not_found", by=1),
    ):
        codes = [watched.post(body, headers=headers).status_code for _ in range(4)]
    assert codes == [404, 429, 429, 429]  # unless a minute begins between two of them


def test_way_out_that_the_proxy_refuses_is_counted(watched: Service, operator: httpx.Client) -> None:
    code = "import requests; print(requests.get('http://169.254.169.254/').status_code)"
    with rises(operator, "tci_connections_refused_total", policy="packages"):
        assert watched.stdout(code) == "403\n"


def workers_of(service: Service) -> list[int]:
    """Return the process ids of a service's workers."""
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children")
    return [int(pid) for pid in children.read_text().split()]


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Have a process do nothing while the block lasts."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_scrape_of_any_worker_has_what_all_have_counted_even_a_killed_one(
    watched: Service, operator: httpx.Client
) -> None:
    headers = {"Connection": "close"}
    first, second = workers_of(watched)
    with rises(operator, "tci_executions_ended_total", verdict="ok", by=2):
        for other in (first, second):
            with stopped(other):
                assert watched.post({"code": "1"}, headers=headers).status_code == httpx.codes.OK
        for other in (first, second):
            with stopped(other):
                seen = of(scrape(operator), "tci_executions_ended_total", verdict="ok")
    os.kill(first, signal.SIGKILL)
    assert processes.eventually(lambda: len(set(workers_of(watched)) - {first}) == 2, 20)
    assert of(scrape(operator), "tci_executions_ended_total", verdict="ok") == seen
    [new] = set(workers_of(watched)) - {first, second}
    with stopped(second), rises(operator, "tci_executions_ended_total", verdict="ok"):
        assert watched.post({"code": "1"}, headers=headers, timeout=60).status_code == httpx.codes.OK
    assert new in workers_of(watched)


def test_overview_tells_what_the_metrics_tell(watched: Service, operator: httpx.Client) -> None:
    watched.run("1")
    answer = operator.get("/v1/tci/overview").json()
    counted = scrape(operator)
    data = answer["data"]
    assert answer["errors"] is None
    assert list(data) == ["now", "sessions", "pool", "executions", "latency_ms", "spend", "refusals"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", data["now"])
    assert data["sessions"]["live"] == of(counted, "tci_sessions_live") > 0
    assert data["sessions"]["capacity"] == of(counted, "tci_sessions_capacity")
    assert set(data["pool"]) == {"level", "target", "hits", "misses", "filled", "failed"}
    assert data["pool"]["level"] == 0
    for verdict in metrics.VERDICTS:
        assert data["executions"]["total"][verdict] == of(counted, "tci_executions_ended_total", verdict=verdict)
    assert data["executions"]["failed"] == 0
    assert 0 < data["latency_ms"]["p50"] <= data["latency_ms"]["p95"] <= data["latency_ms"]["p99"]
    assert [one["account"] for one in data["spend"]] == ["default"]
    assert re.fullmatch(r"\d+\.\d\d", data["spend"][0]["amount_usd"])
    assert data["refusals"]["quota"] >= 0 <= data["refusals"]["egress"]


@pytest.mark.parametrize("path", ["/metrics", "/tci/overview"])
def test_ordinary_key_or_none_sees_no_metrics(watched: Service, path: str) -> None:
    assert_failure(watched.client.get(path), 403, "admin_required")
    assert_failure(httpx.get(watched.url + path), 401, "invalid_api_key")


def test_open_metrics_of_one_process_need_no_key(start_service: Any) -> None:
    service = start_service(metrics_open=True, pool_size=1)
    with httpx.Client(base_url=service.url, timeout=60) as stranger:
        assert processes.eventually(lambda: of(scrape(stranger), "tci_pool_ready") == 1, 60)
        with (
            rises(stranger, "tci_pool_claimed_total", result="hit"),
            rises(stranger, "tci_executions_ended_total", verdict="ok"),
        ):
            service.run("1")
        assert of(scrape(stranger), "tci_pool_target") >= 1  # it is more where demand is
        assert of(scrape(stranger), "tci_pool_filled_total", outcome="ok") >= 1
        assert_failure(stranger.get("/tci/overview"), 401, "invalid_api_key")


def test_log_of_an_execution_has_ids_and_never_code_or_outputs(watched: Service) -> None:
    code = f"print('{SECRET}' + '-output'); raise ValueError('{SECRET}')"
    answer = watched.post({"code": code, "files": [{"name": f"{SECRET}.txt", "encoding": "string", "content": SECRET}]})
    assert SECRET in answer.text
    text = watched.log.read_text()
    assert SECRET not in text
    lines = [json.loads(line) for line in text.splitlines()]
    of_request = [line for line in lines if line.get("request_id") == answer.headers["x-request-id"]]
    assert [line["event"] for line in of_request] == ["Opened session", "Executed"]
    line = of_request[-1]
    assert line.pop("duration_ms") >= 0
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "Executed",
        "level": "info",
        "request_id": answer.headers["x-request-id"],
        "account": "default",
        "session_id": answer.json()["data"]["session_id"],
        "verdict": "error",
    }


def spans_in(bodies: list[bytes], trace_id: str) -> dict[str, dict[str, Any]]:
    """Return the spans of a trace by name."""
    found = {}
    for body in bodies:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            assert {"tci"} == {
                one.value.string_value for one in resource.resource.attributes if one.key == "service.name"
            }
            for scope in resource.scope_spans:
                for span in scope.spans:
                    if span.trace_id.hex() == trace_id:
                        found[span.name] = MessageToDict(span) | {
                            "id": span.span_id.hex(),
                            "parent": span.parent_span_id.hex(),
                            "about": {one.key: one.value.string_value for one in span.attributes},
                        }
    return found


def test_execution_is_a_trace_below_its_callers(watched: Service, collector: Collector) -> None:
    trace_id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    headers = {"traceparent": f"00-{trace_id}-{parent}-01"}
    answer = watched.post({"code": f"print('{SECRET}'); 1 / 0"}, headers=headers)
    stages_of_it = {"open", "turn", "run", "count", "whole"}
    assert processes.eventually(lambda: spans_in(collector.bodies, trace_id).keys() >= {"request", *stages_of_it}, 20)
    spans = spans_in(collector.bodies, trace_id)
    assert spans.keys() == {"request", *stages_of_it}
    request, whole = spans["request"], spans["whole"]
    assert request["parent"] == parent
    assert whole["parent"] == request["id"]
    assert {spans[stage]["parent"] for stage in ("open", "turn", "run")} == {whole["id"]}
    assert request["about"]["http.route"] == "/tci/execute"
    assert request["about"]["tci.request_id"] == answer.headers["x-request-id"]
    assert request["about"]["tci.account"] == "default"
    assert whole["about"]["tci.session_id"] == answer.json()["data"]["session_id"]
    assert not [body for body in collector.bodies if SECRET.encode() in body]


def test_every_query_of_the_dashboard_names_a_metric_and_labels_that_are_there(operator: httpx.Client) -> None:
    labels: dict[str, set[str]] = {}
    for name, pairs in scrape(operator):
        labels.setdefault(name, set()).update(label for label, _ in pairs)
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(queries) > 20
    for query in queries:
        named = re.findall(r"\btci_\w+", query)
        assert len(named) == 1, query
        grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(",")}
        grouped |= set(re.findall(r"(\w+)=", query))
        assert grouped <= labels[named[0]], query
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for query in queries for name in re.findall(r"\btci_\w+", query)}
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in labels} == shown, "a metric that nobody sees"


@pytest.mark.parametrize(
    ("buckets", "share", "expected"),
    [
        ([], 0.5, None),
        ([(0.1, 0.0), (float("inf"), 0.0)], 0.5, None),
        ([(0.1, 10.0), (float("inf"), 10.0)], 0.5, 0.05),
        ([(0.1, 0.0), (0.3, 10.0), (float("inf"), 10.0)], 0.5, 0.2),
        ([(0.1, 50.0), (0.3, 100.0), (float("inf"), 100.0)], 0.95, 0.28),
        ([(0.1, 0.0), (0.3, 0.0), (float("inf"), 4.0)], 0.99, 0.3),
    ],
)
def test_quantile_of_buckets_is_prometheus_own(
    buckets: list[tuple[float, float]], share: float, expected: float | None
) -> None:
    found = quantile(buckets, share)
    assert found is expected if expected is None else found == pytest.approx(expected)
