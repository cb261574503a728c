"""What users test with: LocalCluster (real nodes), FakeClient (no node at all), pytest fixtures.

Each is loaded with its first use: FakeClient needs nothing but the client, LocalCluster needs the
`server` extra.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvstore.testing.cluster import LocalCluster
    from kvstore.testing.fake import FakeClient

__all__ = ["FakeClient", "LocalCluster"]


def __getattr__(name: str) -> Any:
    if name == "FakeClient":
        from kvstore.testing.fake import FakeClient

        return FakeClient
    if name == "LocalCluster":
        from kvstore.testing.cluster import LocalCluster

        return LocalCluster
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
