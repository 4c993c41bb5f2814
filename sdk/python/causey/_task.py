"""What stands behind a flow instance while its step runs: inherited artifacts, parameters, the place in foreach nests.

A flow instance outside a run has none. The inputs of a join are flow instances with a task of their own.
"""

from __future__ import annotations

from causey._errors import CauseyException

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from causey._flow import FlowSpec
    from causey._objects import Artifact
    from causey._parameter import Parameter

# Values of these types cannot change, so a loaded one may be shared and need not be stored again.
IMMUTABLE = (int, float, str, bool, bytes, type(None))
ITEMS_PER_CHUNK = 1000
ITEMS_PREFIX = "_items_"
MODEL_PREFIX = "_model_"
# One [variable, hash of its value at the split] per foreach level, outermost first, written where a foreach starts; GANG_LEVEL
# for a gang.
SPLIT_STACK = "_split_stack"
GANG_LEVEL = ["", ""]
# Most members of a gang.
GANG_MEMBERS_MAX = 500


def is_internal(name: str) -> bool:
    """Artifacts of the SDK itself; names that only begin with an underscore belong to the user, as in Metaflow."""
    return name.startswith((ITEMS_PREFIX, MODEL_PREFIX)) or name == SPLIT_STACK


class Task:
    __slots__ = (
        "_parameters",
        "_stack_entries",
        "_stack_values",
        "artifacts",
        "constants",
        "is_join",
        "loaded",
        "path",
        "raw_parameters",
        "splits",
        "step",
        "transition",
    )

    def __init__(
        self,
        step: str,
        path: list[int],
        splits: list[int],
        artifacts: dict[str, Artifact],
        raw_parameters: dict[str, Any],
        constants: frozenset[str],
        is_join: bool = False,
    ) -> None:
        self.step = step
        self.path = path
        self.splits = splits
        self.artifacts = artifacts
        self.raw_parameters = raw_parameters
        self.constants = constants
        self.is_join = is_join
        self.loaded: dict[str, Any] = {}
        self.transition: Transition | None = None
        self._parameters: dict[str, Any] = {}
        self._stack_entries: list[list[str]] | None = None
        self._stack_values: dict[int, Any] = {}

    def load(self, name: str) -> Any:
        """Raises KeyError when no parent left this artifact."""
        artifact = self.artifacts[name]
        if artifact.encoding == "rds":
            from causey._typed import only_r_reads

            raise only_r_reads(name, artifact)
        value = self.loaded[name] = artifact.load()
        return value

    def parameter(self, parameter: Parameter) -> Any:
        values = self._parameters
        if parameter.name not in values:
            values[parameter.name] = parameter.convert(self.raw_parameters.get(parameter.name))
        return values[parameter.name]

    def split_variables(self) -> list[list[str]]:
        """The enclosing foreach levels. A parent's list may be deeper, when this task joined its innermost level."""
        if self._stack_entries is None:
            self._stack_entries = self.artifacts[SPLIT_STACK].load() if SPLIT_STACK in self.artifacts else []
        return self._stack_entries[: len(self.path)]

    def is_gang_level(self, level: int) -> bool:
        return self.split_variables()[level : level + 1] == [GANG_LEVEL]

    def split_value(self, flow: FlowSpec, level: int) -> Any:
        """The item of this task at a foreach level; None where the variable was not merged into a join."""
        if level not in self._stack_values:
            self._stack_values[level] = self._find_split_value(flow, level)
        return self._stack_values[level]

    def _find_split_value(self, flow: FlowSpec, level: int) -> Any:
        variables = self.split_variables()
        if level >= len(variables):
            return None
        variable, hash_at_split = variables[level]
        index = self.path[level]
        if not variable:
            return index
        if variable not in flow.__dict__:
            artifact = self.artifacts.get(variable)
            chunk = self.artifacts.get(f"{ITEMS_PREFIX}{index // ITEMS_PER_CHUNK}")
            # The chunks are those of the latest split above, which is this level only if nothing deeper was joined.
            latest = level == len(self._stack_entries or ()) - 1
            if artifact and chunk and latest and artifact.hash == hash_at_split:
                return _chunk_items(chunk)[index % ITEMS_PER_CHUNK]
        try:
            values = getattr(flow, variable)
        except AttributeError:
            return None
        try:
            return values[index]
        except TypeError:
            from itertools import islice

            return next(islice(values, index, index + 1))

    def refuse_constant(self, name: str) -> None:
        if name in self.constants:
            raise AttributeError(
                f"class variable '{name}' is read-only: parameters and class variables cannot be changed in steps"
            )


# The latest chunk by its hash, for runners that work through many items of one foreach.
_kept_chunk: tuple[str, list[Any]] = ("", [])


def _chunk_items(chunk: Artifact) -> list[Any]:
    global _kept_chunk
    kept_hash, items = _kept_chunk
    if kept_hash != chunk.hash:
        items = chunk.load()
        # An item that can change must be fresh in every attempt, so only plain ones are kept.
        if all(type(item) in IMMUTABLE for item in items):
            _kept_chunk = (chunk.hash, items)
    return items


class Transition:
    """What a step asked for with self.next."""

    __slots__ = ("items", "next", "size", "variable")

    def __init__(
        self,
        next: list[str],
        variable: str | None = None,
        items: list[Any] | None = None,
        size: int | None = None,
    ) -> None:
        self.next = next
        self.variable = variable
        self.items = items
        # Members of a gang.
        self.size = size

    @property
    def count(self) -> int | None:
        """How many tasks of the next step there will be, where an index tells them apart."""
        return self.size if self.items is None else len(self.items)


def require_task(flow: FlowSpec, what: str) -> Task:
    task = flow._causey
    if task is None:
        raise CauseyException(f"{what} works only inside a running step")
    return task
