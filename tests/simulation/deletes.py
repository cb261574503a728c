"""A plan of many deletes: half of the keys are deleted while one home of them is down, and another node, down
as well, keeps hints with older values for it. Both come back, and some of the keys are written again.
"""

from __future__ import annotations

from kvstore.simulation.plan import Action, Fault, Machine, Plan

HOME, STAND_IN = "n1", "n4"
CLIENTS = 10
PER_S = 100.0  # operations of all clients together
SETTLE_S = 45.0  # after the last one is back: for hints, comparisons, and two rounds of a proof


class _Script:
    """Actions one after the other, those of one key by one client: it has the tokens."""

    def __init__(self) -> None:
        self.now_s = 4.0
        self._number = 0
        self._of: list[list[Action]] = [[] for _ in range(CLIENTS)]

    def all(self, kinds: tuple[str, ...], keys: range) -> None:
        for key in keys:
            for kind in kinds:
                action = Action(self._number, round(self.now_s, 3), kind, f"k{key}", self._number % 5)
                self._of[key % CLIENTS].append(action)
                self._number += 1
                self.now_s += 1 / PER_S

    @property
    def clients(self) -> tuple[tuple[Action, ...], ...]:
        return tuple(map(tuple, self._of))


def plan_of_deletes(keys: int, *, home_first: bool, seed: int = 0) -> Plan:
    """`home_first`: who comes back first, the home or the node with hints for it."""
    script = _Script()
    half, tenth, twentieth = keys // 2, keys // 10, keys // 20
    script.all(("put",), range(keys))
    home_down_s = script.now_s + 1.0
    script.now_s += 2.0
    script.all(("put",), range(half))  # hints of these for the home
    stand_in_down_s = script.now_s + 1.0
    script.now_s += 2.0
    script.all(("get", "delete"), range(half))
    first_back_s = script.now_s + 2.0
    script.now_s = first_back_s + 8.0
    script.all(("get", "put"), range(twentieth))
    last_back_s = script.now_s + 10.0
    script.now_s = last_back_s + 1.0
    script.all(("get", "put"), range(twentieth, tenth))
    home_back_s, stand_in_back_s = first_back_s, last_back_s
    if not home_first:
        home_back_s, stand_in_back_s = stand_in_back_s, home_back_s
    return Plan(
        seed,
        script.now_s + SETTLE_S,
        tuple(Machine(f"n{i}", f"z{i % 3}") for i in range(1, 6)),
        faults=(
            Fault("crash", home_down_s, home_back_s - home_down_s, (HOME,)),
            Fault("crash", stand_in_down_s, stand_in_back_s - stand_in_down_s, (STAND_IN,)),
        ),
        clients=script.clients,
    )
