"""A gang as its members see it: `current.parallel`, and the variables by which torch.distributed and the like find each other."""

from __future__ import annotations

from collections import namedtuple
from contextlib import contextmanager

from causey._environment import variables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from causey._channel import Message


class Parallel(namedtuple("Parallel", ("main_ip", "num_nodes", "node_index", "control_task_id"))):
    """Metaflow's four fields, and the addresses of all members."""

    addresses: list[tuple[str, int]]

    @property
    def main_port(self) -> int:
        """A port that was free on the host of node 0 when the gang formed, for the members to meet at."""
        return self.addresses[0][1]


def parallel(message: Message) -> Parallel:
    gang, path = message["gang"], message["path"]
    addresses = [(member["ip"], member["port"]) for member in gang["members"]]
    control = ".".join(map(str, [*path[:-1], 0]))
    found = Parallel(addresses[0][0], len(addresses), gang["index"], control)
    found.addresses = addresses
    return found


@contextmanager
def gang_environment(message: Message) -> Iterator[None]:
    """Sets the variables while the step runs."""
    gang = parallel(message)
    values = {
        "MASTER_ADDR": gang.main_ip,
        "MASTER_PORT": gang.main_port,
        "RANK": gang.node_index,
        "WORLD_SIZE": gang.num_nodes,
        "MF_PARALLEL_MAIN_IP": gang.main_ip,
        "MF_PARALLEL_NUM_NODES": gang.num_nodes,
        "MF_PARALLEL_NODE_INDEX": gang.node_index,
        "MF_PARALLEL_CONTROL_TASK_ID": gang.control_task_id,
    }
    with variables(values):
        yield
