"""Traces by OpenTelemetry, where the standard OTEL_ variables name a receiver and `tci[otel]` is installed.

A span says how long something took and of which request and session it is; never code, outputs, or an error's text.
"""

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import structlog

log = structlog.get_logger()

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

_tracer: Any = None
"""None: nothing is traced, and nothing of OpenTelemetry is loaded."""


def is_asked_for() -> bool:
    """Whether the environment names a receiver, and does not switch tracing off."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp").lower() != "otlp":
        return False
    return any(os.environ.get(name) for name in ENDPOINTS)


@contextmanager
def open_tracing() -> Iterator[None]:
    """Trace for as long as the block lasts, if that is asked for."""
    global _tracer  # noqa: PLW0603 (as OpenTelemetry has it: spans are begun where no object is at hand)
    provider = _provider() if is_asked_for() else None
    if provider is None:
        yield
        return
    _tracer = provider.get_tracer("tci")
    try:
        yield
    finally:
        _tracer = None
        provider.shutdown()  # sends what waits


def _provider() -> Any:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        log.warning("Traces are asked for and not sent: install 'tci[otel]'")
        return None
    has_name = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(resource=Resource.create({} if has_name else {"service.name": "tci"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def span(name: str, headers: Mapping[str, str] | None = None) -> AbstractContextManager[Any] | None:
    """Return a span to enter, below the one that is current, or that a request's headers name; None: no tracing."""
    return None if _tracer is None else _span(name, headers)


@contextmanager
def _span(name: str, headers: Mapping[str, str] | None) -> Iterator[Any]:
    from opentelemetry import context, propagate, trace  # noqa: PLC0415 (loaded already, where anything is traced)

    # From nothing: a pipelined request begins in the task, and so below the span, of the one before it.
    outer = None if headers is None else propagate.extract(headers, context.Context())
    kind = trace.SpanKind.INTERNAL if headers is None else trace.SpanKind.SERVER
    with _tracer.start_as_current_span(
        name, context=outer, kind=kind, record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield current
        except BaseException as error:
            # The text of an error may quote what the caller sent.
            current.set_attribute("error.type", str(getattr(error, "code", type(error).__name__)))
            if not isinstance(error, asyncio.CancelledError):
                current.set_status(trace.StatusCode.ERROR)
            raise


def annotate(**attributes: object) -> None:
    """Say more of the span that is current."""
    if _tracer is not None:
        from opentelemetry import trace  # noqa: PLC0415

        current = trace.get_current_span()
        for name, value in attributes.items():
            current.set_attribute(f"tci.{name}", str(value))
