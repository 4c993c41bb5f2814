"""A gang whose members add up a number each, over plain sockets, and leave marks: `there-INDEX-PID` once they know the sum.

With `hold` they then wait for the file `go`; with `fail` the last member raises in the first try.
"""

import os
import socket
import time
from pathlib import Path

from causey import FlowSpec, Parameter, current, parallel, retry, step

PATIENCE_SECONDS = 60


def poll(what):
    """Waits until `what` gives something."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := what()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return found


def connect(address):
    try:
        return socket.create_connection(address, timeout=PATIENCE_SECONDS)
    except ConnectionRefusedError:
        return None


def all_reduce(number):
    """The sum over all members, by way of the first one."""
    gang = current.parallel
    address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    assert address == (gang.main_ip, gang.main_port) == gang.addresses[0]
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == (str(gang.node_index), str(gang.num_nodes))
    if gang.node_index > 0:
        with poll(lambda: connect(address)) as peer:
            peer.sendall(f"{number}\n".encode())
            return int(peer.makefile().readline())
    with socket.create_server(address) as server:
        server.settimeout(PATIENCE_SECONDS)
        peers = [server.accept()[0] for _ in range(gang.num_nodes - 1)]
    total = number + sum(int(peer.makefile().readline()) for peer in peers)
    for peer in peers:
        peer.sendall(f"{total}\n".encode())
        peer.close()
    return total


class Gang(FlowSpec):
    members = Parameter("members", default=4)
    marks = Parameter("marks", default="")
    hold = Parameter("hold", default=False)
    fail = Parameter("fail", default=False)

    @step
    def start(self):
        self.next(self.train, num_parallel=self.members)

    @retry(times=1, minutes_between_retries=0)
    @parallel(gather_seconds=30)
    @step
    def train(self):
        node = current.parallel.node_index
        self.total = all_reduce((node + 1) ** 2)
        self.place = (node, os.getppid(), current.retry_count)
        if self.marks:
            Path(self.marks, f"there-{node}-{os.getpid()}").touch()
        if self.hold:
            poll(Path(self.marks, "go").exists)
        if self.fail and current.retry_count == 0:
            if node == current.parallel.num_nodes - 1:
                raise ConnectionError("lost the others")
            poll(lambda: None)
        self.next(self.join)

    @step
    def join(self, inputs):
        assert [each.place[0] for each in inputs] == list(range(self.members))
        self.totals = [each.total for each in inputs]
        self.hosts = len({each.place[1] for each in inputs})
        self.retries = [each.place[2] for each in inputs]
        self.next(self.end)

    @step
    def end(self):
        print(f"totals={self.totals} hosts={self.hosts} retries={self.retries}")


if __name__ == "__main__":
    Gang()
