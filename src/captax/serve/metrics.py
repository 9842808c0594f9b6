"""Counts and times of a server, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PICTURES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counts of one server, in a registry of its own."""

    def __init__(self, depth: Callable[[], int]):
        """`depth` gives the number of pictures in the queue."""
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "captax_requests",
            "Requests that were answered.",
            ["route", "method", "status"],
            registry=registry,
        )
        self.latency = Histogram(
            "captax_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.rejected = Counter(
            "captax_rejected", "Requests refused, by the error's type.", ["type"], registry=registry
        )
        self.dropped = Counter(
            "captax_dropped_pictures",
            "Pictures whose client hung up before the model saw them.",
            registry=registry,
        )
        self.batch = Histogram(
            "captax_batch_pictures", "Pictures in a batch.", buckets=_PICTURES, registry=registry
        )
        self.batch_seconds = Histogram(
            "captax_batch_seconds",
            "Seconds that a batch took.",
            buckets=_SECONDS,
            registry=registry,
        )
        queue = Gauge(
            "captax_queue_pictures",
            "Pictures that are being read, wait or are in the model.",
            registry=registry,
        )
        queue.set_function(depth)

    def batched(self, size: int, seconds: float) -> None:
        """Count a batch and its seconds."""
        self.batch.observe(size)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """All counts, in the text format of Prometheus."""
        return generate_latest(self.registry)
