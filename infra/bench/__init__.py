"""Measurements: medians, each beside a yardstick that was measured in the same run on the same machine."""

from infra.bench.run import run_bench

__all__ = ["run_bench"]
