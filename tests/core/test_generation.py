"""Two processes under one identity, judged against what really happened to the first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.core.generation import TWIN_SILENCE_S, is_proven_twin, is_twin

seconds = st.floats(0.0, 60.0)


def test_a_run_is_no_twin_of_itself() -> None:
    """One process has several connections to a peer."""
    assert not is_twin(b"a", b"a", 0.0)


def test_another_run_is_a_twin_while_the_first_is_heard() -> None:
    assert is_twin(b"b", b"a", TWIN_SILENCE_S)
    assert not is_twin(b"b", b"a", TWIN_SILENCE_S + 0.001)


@given(ended_s=seconds, began_after_s=seconds, asks_s=st.lists(seconds, max_size=20))
def test_a_restart_is_never_proven_a_twin(ended_s: float, began_after_s: float, asks_s: list[float]) -> None:
    """However often it asks: the first run was last heard before the second began."""
    began_s = ended_s + began_after_s
    asks = sorted(began_s + ask_s for ask_s in asks_s)
    refused = [ask_s for ask_s in asks if is_twin(b"b", b"a", ask_s - ended_s)]
    assert not any(is_proven_twin(refused[0], ask_s) for ask_s in refused)


@given(began_s=seconds, pause_s=st.floats(0.05, 1.0))
def test_a_twin_of_a_talking_run_is_proven_within_five_seconds(began_s: float, pause_s: float) -> None:
    asks = [began_s + pause_s * i for i in range(int(5.0 / pause_s) + 1)]
    assert all(is_twin(b"b", b"a", ask_s % 1.0) for ask_s in asks)
    assert any(is_proven_twin(asks[0], ask_s) for ask_s in asks)
