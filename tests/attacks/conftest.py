"""What is attacked: the same bench that the tools' own tests use."""

from tests.tools.conftest import bench, first_bench

__all__ = ["bench", "first_bench"]
