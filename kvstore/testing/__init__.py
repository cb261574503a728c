"""What users test with: LocalCluster (real nodes), FakeClient (no node at all), pytest fixtures."""

from kvstore.testing.cluster import LocalCluster
from kvstore.testing.fake import FakeClient

__all__ = ["FakeClient", "LocalCluster"]
