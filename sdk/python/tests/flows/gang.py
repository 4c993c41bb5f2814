import os

from metaflow import FlowSpec, current, parallel, step


class Gang(FlowSpec):
    @step
    def start(self):
        self.members = 3
        self.kept = [1, 2]
        self.next(self.train, num_parallel=self.members)

    @parallel
    @step
    def train(self):
        gang = current.parallel
        self.node, self.nodes, self.ip = gang.node_index, gang.num_nodes, gang.main_ip
        main_ip, nodes, node, control = gang
        self.tuple_agrees = (main_ip, nodes, node) == (self.ip, self.nodes, self.node)
        self.is_control = control == current.task_id
        self.is_parallel = current.is_parallel
        self.seen = [self.input, self.index]
        self.stack = self.foreach_stack()
        names = ["MF_PARALLEL_MAIN_IP", "MF_PARALLEL_NUM_NODES", "MF_PARALLEL_NODE_INDEX"]
        self.environment = [os.environ[name] for name in names]
        self.next(self.join)

    @step
    def join(self, inputs):
        self.order = [each.node for each in inputs]
        self.seen = [each.seen for each in inputs]
        self.merge_artifacts(inputs, include=["members", "nodes", "kept"])
        self.next(self.fan)

    @step
    def fan(self):
        self.items = ["a", "b"]
        self.next(self.work, foreach="items")

    @step
    def work(self):
        self.mine = self.input
        self.next(self.twin, num_parallel=len(self.items))

    @parallel
    @step
    def twin(self):
        self.both = [self.mine, self.input, current.parallel.num_nodes]
        self.next(self.meet)

    @step
    def meet(self, inputs):
        self.both = [each.both for each in inputs]
        self.again = self.input
        self.next(self.gather)

    @step
    def gather(self, inputs):
        self.all = [[each.again, each.both] for each in inputs]
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    Gang()
