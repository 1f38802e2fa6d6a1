"""What runs and services tell Prometheus, through Ray's own metrics (each appears there as ray_<name>).

cluster/components/monitoring/grafana.json draws them; a test keeps the two together.
"""

from __future__ import annotations

from functools import cache
from typing import Any

METRICS = {
    "ft2ray_groups_total": ("Counter", "Prompt groups committed", ("round",)),
    "ft2ray_refused_total": ("Counter", "Groups given up because their media cannot be read", ()),
    "ft2ray_candidates_unscored_total": ("Counter", "Candidates that the critic could not score", ()),
    "ft2ray_group_seconds": ("Histogram", "Seconds to generate one prompt group", ()),
    "ft2ray_staleness_rounds": ("Gauge", "Rounds between a group and the policy that generated it", ()),
    "ft2ray_train_step": ("Gauge", "Training step reached", ()),
    "ft2ray_train_loss": ("Gauge", "Loss of the last update", ("adapter",)),
    "ft2ray_train_accuracy": ("Gauge", "Share of pairs that the policy orders rightly", ("adapter",)),
    "ft2ray_deaths_total": ("Counter", "Processes of the run that died", ("pool", "why")),
    "ft2ray_serving_deaths_total": ("Counter", "Replicas that died, by each front", ("of", "why")),
    "ft2ray_train_groups": ("Gauge", "Prompt groups that the training draws from", ()),
}
SECONDS = [1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 900.0]


@cache
def metric(name: str) -> Any:
    """A metric of the table; each process makes its own once."""
    import ray.util.metrics

    kind, description, tags = METRICS[name]
    bounds = {"boundaries": SECONDS} if kind == "Histogram" else {}
    return getattr(ray.util.metrics, kind)(name, description=description, tag_keys=tags, **bounds)
