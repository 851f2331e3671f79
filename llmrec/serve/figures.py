"""Metrics of a server for Prometheus."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from llmrec.serve.service import RecommendationService
from llmrec.serve.shapes import Answer

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Figures:
    """Counters and histograms of one server."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        """Make them; in vLLM's server they join its own."""
        self.registry = registry
        self.requests = Counter(
            "llmrec_requests", "Responses by route and status.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "llmrec_request_seconds",
            "Time of a request by phase.",
            ["phase"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.items = Counter("llmrec_items", "Items given.", ["ranked_by"], registry=registry)
        self.invalid = Counter(
            "llmrec_invalid_items", "Items that a recommender gave and that were no allowed ones.", registry=registry
        )
        self.inside = Gauge(
            "llmrec_requests_inside",
            "Requests that wait or are worked on.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.catalogue = Gauge(
            "llmrec_catalogue_items",
            "Items of the catalogue in use, by its hash.",
            ["hash"],
            registry=registry,
            multiprocess_mode="livemostrecent",
        )

    def answered(self, answers: list[Answer], service: RecommendationService) -> None:
        """Count the answers that a service gave."""
        for answer in answers:
            for phase, milliseconds in answer.timing_ms:
                self.seconds.labels(phase).observe(milliseconds / 1e3)
            self.items.labels(answer.ranked_by).inc(len(answer.items))
        self.invalid.inc(service.take_invalid())

    def serving(self, catalogue: str, items: int) -> None:
        """Set the catalogue in use in place of the last one."""
        self.catalogue.clear()
        self.catalogue.labels(catalogue).set(items)
