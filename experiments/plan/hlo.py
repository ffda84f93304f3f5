"""What an optimised program says of itself: the collectives in it, and how often they run.

The text of a compiled module holds one instruction a line, in computations that others call. A
loop's body counts as often as the compiler knows that it runs ("known_trip_count"), else once.
"""

import collections
import dataclasses
import math
import re

_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute"
_OP = re.compile(rf"= (?P<shape>.+?) (?P<kind>{_KINDS})(?P<start>-start)?\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+?(\d+)\w*)\[([\d,]*)\]")
_HEAD = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) .*\{$")
_CALLED = re.compile(r"\b(?:body|condition|calls|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of exchange between devices.

    Attributes:
        kind: as "all-reduce".
        group: devices that take part together.
        size: bytes of the whole array: of the sum, of what was gathered, of what is scattered.
        count: how often it runs.
    """

    kind: str
    group: int
    size: int
    count: int

    @property
    def sent(self) -> float:
        """Bytes that each device sends in a ring, all runs together.

        An all-reduce passes (n - 1) / n of the array twice, the others once; a permutation sends
        what it has.
        """
        if self.kind == "collective-permute":
            return float(self.count * self.size)
        turns = 2 if self.kind == "all-reduce" else 1
        return self.count * turns * self.size * (self.group - 1) / self.group


def read_collectives(text: str, devices: int) -> list[Collective]:
    """List the collectives of an optimised module, equal ones together, the largest first.

    Args:
        text: of `compiled.as_text()`.
        devices: that take part where a collective names no groups.
    """
    bodies, entry = _computations(text)
    found: collections.Counter[tuple[str, int, int]] = collections.Counter()
    for name, runs in _runs(bodies, entry).items():
        for line in bodies[name]:
            if match := _OP.search(line):
                found[_describe(match, line, devices)] += runs
    listed = [Collective(*key, count) for key, count in found.items() if key[1] > 1]
    return sorted(listed, key=lambda one: -one.sent)


def _describe(match: re.Match[str], line: str, devices: int) -> tuple[str, int, int]:
    kind, group = match["kind"], _group(line, devices)
    sizes = [_bytes(*array) for array in _ARRAY.findall(match["shape"])]
    if match["start"] and kind in ("all-gather", "collective-permute"):
        # What goes in is listed before what comes out, and then what is only waited with.
        arrays = [size for size in sizes if size > 4]
        sizes = arrays[len(arrays) // 2 :]
    whole = sum(sizes) * (group if kind == "reduce-scatter" else 1)
    return kind, 2 if kind == "collective-permute" else group, whole


def _bytes(kind: str, bits: str, shape: str) -> int:
    count = math.prod(int(side) for side in shape.split(",") if side)
    return math.ceil(count * (8 if kind == "pred" else int(bits)) / 8)


def _group(line: str, devices: int) -> int:
    if match := _IOTA.search(line):
        return int(match[2])
    if match := _LISTED.search(line):
        return len(match[1].split(","))
    return devices


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Return the lines of each computation, and which one is the program."""
    bodies: dict[str, list[str]] = {}
    entry, name = "", ""
    for line in text.splitlines():
        if (match := _HEAD.match(line)) and not line.startswith("HloModule"):
            name = match["name"]
            bodies[name] = []
            entry = name if match["entry"] else entry
        elif name:
            bodies[name].append(line)
    return bodies, entry


def _runs(bodies: dict[str, list[str]], entry: str) -> dict[str, int]:
    """Return how often each computation runs; those that nothing calls do not."""
    runs: collections.Counter[str] = collections.Counter()

    def visit(name: str, times: int) -> None:
        runs[name] += times
        for line in bodies.get(name, ()):
            trips = _TRIPS.search(line)
            inner = times * (int(trips[1]) if trips else 1)
            called = _CALLED.findall(line)
            for branches in _BRANCHES.findall(line):
                called += [branch.strip(" %") for branch in branches.split(",")]
            for one in called:
                if one in bodies:
                    visit(one, inner)

    visit(entry, 1)
    return {name: times for name, times in runs.items() if name in bodies}
