"""Checks that no module imports itself through others; imports inside functions count too.

Run as ``python -m tools.ci.check_cycles``; exits with 1 and one line a cycle.
"""

from __future__ import annotations

import sys

import grimp

PACKAGES = ("compiler", "schedules", "targets", "tools")


def cycles(graph: grimp.ImportGraph) -> list[tuple[str, ...]]:
    """For each import that is part of a cycle the shortest one through it, each cycle once.

    import-linter's own contract compares a package's children only, and so does not see a
    module that imports its own package, whose ``__init__`` imports it.
    """
    found = set()
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            if ring := graph.find_shortest_chain(importer=imported, imported=importer):
                first = ring.index(min(ring))
                found.add((*ring[first:], *ring[:first]))
    return sorted(found)


def describe(graph: grimp.ImportGraph, ring: tuple[str, ...]) -> str:
    """The cycle in one line, with the line of each import."""
    text = ring[0]
    for importer, imported in zip(ring, (*ring[1:], ring[0]), strict=True):
        details = graph.get_import_details(importer=importer, imported=imported)
        text += f" (line {min(d['line_number'] for d in details)}) -> {imported}"
    return text


def main(packages: tuple[str, ...] = PACKAGES) -> int:
    graph = grimp.build_graph(*packages, cache_dir=None)
    found = cycles(graph)
    for ring in found:
        print(f"import cycle: {describe(graph, ring)}")
    print(f"import cycles: {len(found)} in {len(graph.modules)} modules")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
