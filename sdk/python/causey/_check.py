"""The graph's rules: names, transitions, reachability, balance of splits and joins. Metaflow's checks, with hints."""

from __future__ import annotations

import re

from causey._problem import GRAPH, Problem
from causey._suggest import did_you_mean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from causey._graph import Node

    Graph = dict[str, Node]

_RESERVED = ("name", "next", "input", "index", "cmd")


class Ends:
    """Entry and exit of a graph; None where it has no single one."""

    def __init__(self, graph: Graph) -> None:
        alone = next(iter(graph)) if len(graph) == 1 else None
        self.start = alone or self._single(graph, [node.name for node in graph.values() if node.marks.start], "start")
        self.end = alone or self._single(graph, [node.name for node in graph.values() if node.marks.end], "end")

    @staticmethod
    def _single(graph: Graph, marked: list[str], usual: str) -> str | None:
        if not marked:
            return usual if usual in graph else None
        return marked[0] if len(marked) == 1 else None


def check_graph(flow: str, file: str, graph: Graph) -> list[Problem]:
    """All problems of one kind together, then no further: a wrong name makes later findings meaningless."""
    ends = Ends(graph)
    if not graph:
        return [Problem(GRAPH, f"flow '{flow}' has no steps", file, hint="mark its methods with @step")]
    for rule in (_names, _ends, _arguments, _transitions, _unknown_targets, _loops, _orphans, _gangs, _balance, _straight_to_a_join):
        problems = list(rule(graph, ends))
        if problems:
            for problem in problems:
                problem.file = problem.file or file
            return problems
    return []


def _problem(node: Node, message: str, hint: str | None = None, line: int | None = None) -> Problem:
    return Problem(GRAPH, message, node.file, line or node.line, node.name, hint)


def _names(graph: Graph, ends: Ends) -> Iterator[Problem]:
    for node in graph.values():
        if node.name in _RESERVED:
            yield _problem(node, f"step name '{node.name}' is reserved", "choose another name")
        elif re.search("[^a-z0-9_]", node.name) or node.name.startswith("_"):
            yield _problem(
                node,
                f"step name '{node.name}' is not allowed",
                "use lower-case letters, digits and underscores, and no underscore in front",
            )
        elif len(node.name) > 64:
            yield _problem(node, f"step name '{node.name}' is too long", "use at most 64 characters")


def _ends(graph: Graph, ends: Ends) -> Iterator[Problem]:
    for what, name, marked in (
        ("start", ends.start, [node for node in graph.values() if node.marks.start]),
        ("end", ends.end, [node for node in graph.values() if node.marks.end]),
    ):
        if name is None:
            message = f"the flow has {len(marked)} steps marked as {what}" if marked else f"the flow has no {what} step"
            hint = did_you_mean(what, graph) or f"name a step '{what}' or use @step({what}=True) on exactly one step"
            yield Problem(GRAPH, message, hint=hint)
        elif name != what and what in graph and len(graph) > 1:
            yield _problem(
                graph[what],
                f"the flow has a step '{what}' and a step '{name}' marked as {what}",
                f"rename '{what}' or remove {what}=True",
            )
    if ends.end is not None and graph[ends.end].transition is not None:
        end = graph[ends.end]
        line = end.transition.line if end.transition else None
        yield _problem(
            end, f"the end step '{end.name}' must not go on to another step", "remove its self.next(…)", line
        )
    elif ends.end is not None and graph[ends.end].is_join:
        yield _problem(
            graph[ends.end],
            f"the end step '{ends.end}' must not be a join",
            "add a join step (self, inputs) before it",
        )


def _arguments(graph: Graph, ends: Ends) -> Iterator[Problem]:
    for node in graph.values():
        if node.arguments == 0:
            yield _problem(node, f"step '{node.name}' lacks the argument 'self'", f"write def {node.name}(self):")
        elif node.arguments > 2:
            yield _problem(
                node,
                f"step '{node.name}' has too many arguments",
                "a step takes (self), a join takes (self, inputs)",
            )
        elif node.is_join and (node.splits or node.switches):
            yield _problem(
                node,
                f"step '{node.name}' is a join and a {'switch' if node.switches else 'split'} at once",
                f"let the join go to a step of its own, and {'switch' if node.switches else 'split'} there",
            )


def _transitions(graph: Graph, ends: Ends) -> Iterator[Problem]:
    for node in graph.values():
        if node.name == ends.end:
            continue
        if node.transition is None:
            if node.other_transitions:
                hint = "self.next(…) must be the last statement of the step, not inside an if, try or loop"
            else:
                hint = "add self.next(…) as its last line"
            yield _problem(node, f"step '{node.name}' does not end with self.next(…)", hint)
        elif node.transition.problem:
            yield _problem(
                node,
                f"step '{node.name}' has a wrong self.next(…): {node.transition.problem}",
                "write self.next(self.a), self.next(self.a, self.b), self.next(self.a, foreach='items'), "
                "self.next(self.a, num_parallel=4) or self.next({'x': self.a, 'y': self.b}, condition='kind')",
                node.transition.line,
            )
        elif node.other_transitions:
            yield _problem(
                node,
                f"step '{node.name}' calls self.next(…) more than once",
                "keep one, as the last statement",
                node.transition.line,
            )


def _unknown_targets(graph: Graph, ends: Ends) -> Iterator[Problem]:
    for node in graph.values():
        for target in node.targets:
            if target not in graph:
                hint = did_you_mean(target, graph) or f"define it: @step def {target}(self)"
                line = node.transition.line if node.transition else None
                yield _problem(node, f"step '{node.name}' goes to an unknown step '{target}'", hint, line)
        repeated = {target for target in node.targets if node.targets.count(target) > 1}
        for target in sorted(repeated):
            yield _problem(node, f"step '{node.name}' goes to '{target}' twice", "name each step once")


def _loops(graph: Graph, ends: Ends) -> Iterator[Problem]:
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> Iterator[Problem]:
        if name in path:
            loop = [*path[path.index(name) :], name]
            node = graph[path[-1]]
            line = node.transition.line if node.transition else None
            hint = "steps must not lead back; only a case of a switch may lead to its own step"
            yield _problem(node, f"the flow has a loop: {' → '.join(loop)}", hint, line)
        elif name not in done:
            done.add(name)
            for target in graph[name].forward_targets:
                yield from visit(target, [*path, name])

    for name in graph:
        yield from visit(name, [])
    if ends.start is not None and graph[ends.start].recurs:
        yield _problem(
            graph[ends.start], f"the first step '{ends.start}' leads back to itself", "put a step before it"
        )


def _orphans(graph: Graph, ends: Ends) -> Iterator[Problem]:
    assert ends.start is not None
    reached, pending = {ends.start}, [ends.start]
    while pending:
        new = [target for target in graph[pending.pop()].targets if target not in reached]
        reached.update(new)
        pending += new
    for node in graph.values():
        if node.name not in reached:
            yield _problem(
                node,
                f"step '{node.name}' cannot be reached from '{ends.start}'",
                f"add self.next(self.{node.name}) to another step or remove it",
            )


def _gangs(graph: Graph, ends: Ends) -> Iterator[Problem]:
    """A step with @parallel is gone to with num_parallel only, and goes on to a join only."""
    for node in graph.values():
        line = node.transition.line if node.transition else None
        for target in node.targets:
            if node.opens_gang and "parallel" not in graph[target].marks.decorators:
                yield _problem(
                    node,
                    f"step '{node.name}' goes to '{target}' with num_parallel, but '{target}' has no @parallel",
                    f"put @parallel on the line above the @step of '{target}'",
                    line,
                )
            elif not node.opens_gang and "parallel" in graph[target].marks.decorators:
                yield _problem(
                    node,
                    f"step '{target}' has @parallel, but step '{node.name}' goes to it without num_parallel",
                    f"write self.next(self.{target}, num_parallel=…) or remove @parallel",
                    line,
                )
        if "parallel" not in node.marks.decorators:
            continue
        if node.name == ends.start:
            yield _problem(
                node,
                f"step '{node.name}' has @parallel, but it is the first step",
                "put a step before it that goes to it with num_parallel",
            )
        elif node.splits or node.switches or node.is_join or not node.targets:
            yield _problem(
                node,
                f"step '{node.name}' has @parallel, so it may only go on to a join",
                "split, switch and join in steps of their own",
                line,
            )
        elif not graph[node.targets[0]].is_join:
            yield _problem(
                node,
                f"step '{node.name}' has @parallel, but '{node.targets[0]}' after it is not a join",
                f"write def {node.targets[0]}(self, inputs):",
                line,
            )


def _balance(graph: Graph, ends: Ends) -> Iterator[Problem]:
    """Follows every path with the splits open on it. A join closes the innermost, which all its parents must share."""
    assert ends.start is not None and ends.end is not None
    # Per step: (split, branch of it) for every open split, outermost first.
    opened: dict[str, list[tuple[str, str]]] = {}
    parents: dict[str, list[str]] = {name: [] for name in graph}
    for node in graph.values():
        for target in node.forward_targets:
            parents[target].append(node.name)

    def stack_into(parent: str, target: str) -> list[tuple[str, str]]:
        above = opened[parent]
        return [*above, (parent, target)] if graph[parent].splits else above

    for name in _topological(graph, parents):
        node = graph[name]
        incoming = [stack_into(parent, name) for parent in parents[name]]
        if node.is_join:
            if not incoming or not all(incoming):
                yield _problem(
                    node,
                    f"step '{name}' is a join (it takes inputs) but no split leads to it",
                    "remove the argument inputs, or split before it",
                )
                return
            if len({tuple(stack[:-1]) for stack in incoming}) > 1 or len({stack[-1][0] for stack in incoming}) > 1:
                yield _problem(
                    node,
                    f"step '{name}' joins steps of unrelated splits: {', '.join(parents[name])}",
                    "give every split a join of its own",
                )
                return
            split = graph[incoming[0][-1][0]]
            arrived = {stack[-1][1] for stack in incoming}
            missing = [target for target in split.targets if target not in arrived]
            if missing:
                yield _problem(
                    node,
                    f"step '{name}' joins {len(arrived)} of the {len(split.targets)} branches of '{split.name}'",
                    f"lead {', '.join(missing)} to '{name}' too",
                )
                return
            opened[name] = incoming[0][:-1]
        else:
            # Equal stacks: a switch before them lets one of them run.
            if len({tuple(stack) for stack in incoming}) > 1:
                yield _problem(
                    node,
                    f"step '{name}' follows several steps ({', '.join(parents[name])}) but is not a join",
                    f"write def {name}(self, inputs):",
                )
                return
            opened[name] = incoming[0] if incoming else []
    still_open = opened[ends.end]
    if still_open:
        split = graph[still_open[-1][0]]
        yield _problem(
            graph[ends.end],
            f"the end step '{ends.end}' is reached before the split at '{split.name}' is joined",
            f"add a join step (self, inputs) before '{ends.end}'",
        )
    for node in graph.values():
        if not node.targets and node.name != ends.end:
            yield _problem(node, f"step '{node.name}' leads nowhere", f"let it go to '{ends.end}'")


def _topological(graph: Graph, parents: dict[str, list[str]]) -> list[str]:
    order: list[str] = []
    waiting = {name: len(above) for name, above in parents.items()}
    ready = [name for name, count in waiting.items() if not count]
    while ready:
        name = ready.pop(0)
        order.append(name)
        for target in graph[name].forward_targets:
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    return order


def _straight_to_a_join(graph: Graph, ends: Ends) -> Iterator[Problem]:
    for node in graph.values():
        if node.transition and node.transition.variable is not None and graph[node.targets[0]].is_join:
            yield _problem(
                node,
                f"the foreach of step '{node.name}' leads straight to the join '{node.targets[0]}'",
                "add a step between them",
                node.transition.line,
            )
        elif node.switches:
            for join in (target for target in node.targets if graph[target].is_join):
                yield _problem(
                    node,
                    f"the switch of step '{node.name}' leads straight to the join '{join}'",
                    "put a step between them on that path",
                    node.transition.line if node.transition else None,
                )


def in_order_of_the_graph(graph: Graph) -> list[Node]:
    """The steps from start to end, for people to read."""
    parents: dict[str, list[str]] = {name: [] for name in graph}
    for node in graph.values():
        for target in node.forward_targets:
            parents[target].append(node.name)
    return [graph[name] for name in _topological(graph, parents)]
