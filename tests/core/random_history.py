"""Random histories of one key: what happens to the copies of causality.py, drawn from one seed."""

from __future__ import annotations

from random import Random

from tests.core.causality import Rules, Token, Violation, World

STEPS = {  # and how often each comes, of 100
    "get": 14,
    "put": 27,
    "retry": 6,
    "stand in": 6,
    "deliver": 20,
    "lose": 2,
    "repair": 5,
    "snapshot": 5,
    "roll back": 6,
    "wipe": 1,
    "unreadable": 2,
    "write another key": 3,
    "delete everywhere": 3,
}


def random_history(chance: Random, rules: Rules) -> World:
    """5 to 40 random steps, then a full exchange. Raises Violation."""
    world = World(rules, copies=chance.choice((2, 3, 3, 4)))
    homes = range(len(world.copies))
    for step in chance.choices(list(STEPS), list(STEPS.values()), k=chance.randint(5, 40)):
        at = chance.choice(homes)
        match step:
            case "get":
                world.get(chance.sample(homes, chance.randint(1, len(homes))))
            case "put":
                _random_put(chance, world, at)
            case "retry" if world.puts:
                world.retry(chance.choice(world.puts), at)
            case "stand in":
                world.stand_in(chance.choice(world.tokens), at)
            case "deliver" if world.messages:
                world.deliver(chance.randrange(len(world.messages)), again=chance.random() < 0.3)
            case "lose" if world.messages:
                world.lose(chance.randrange(len(world.messages)))
            case "repair":
                world.send(at, (at + 1) % len(homes))
            case "snapshot":
                world.snapshot(at)
            case "roll back" if world.copies[at].snapshots:
                world.roll_back(at, chance.randrange(len(world.copies[at].snapshots)))
            case "wipe":
                world.wipe(at)
            case "unreadable":
                world.unreadable(at)
            case "write another key":
                world.write_other_key(at)
            case "delete everywhere":
                _delete_everywhere(chance, world, at)
    world.settle(chance)
    return world


def _random_put(chance: Random, world: World, at: int) -> None:
    """With what was seen, blindly over what lies there, or blindly beside it; some copies are told."""
    kind = chance.random()
    token = None if kind < 0.25 else Token() if kind < 0.4 else chance.choice(world.tokens)
    world.put(at, token, tombstone=chance.random() < 0.15)
    for target in range(len(world.copies)):
        if target != at and chance.random() < 0.7:
            world.send(at, target)
            if chance.random() < 0.5:
                world.deliver(len(world.messages) - 1, again=chance.random() < 0.3)


def _delete_everywhere(chance: Random, world: World, at: int) -> None:
    """A delete that reaches every copy, and is collected, while older states are on their way."""
    homes = range(len(world.copies))
    for target in homes:
        world.send((target + 1) % len(homes), target)
    world.get(list(homes))
    world.put(at, world.tokens[-1], tombstone=True)
    for target in homes:
        if target != at:
            world.send(at, target)
            world.deliver(len(world.messages) - 1, again=chance.random() < 0.5)
    world.collect()


def violation(seed: int, rules: Rules) -> Violation | None:
    try:
        random_history(Random(seed), rules)
    except Violation as found:
        return found
    return None
