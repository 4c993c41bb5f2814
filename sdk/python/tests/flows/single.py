from metaflow import FlowSpec, current, step


class Single(FlowSpec):
    """One step is start and end at once."""

    @step
    def only(self):
        self.where = [current.flow_name, current.step_name, current.is_running_flow, current.retry_count]
        self.user = current.username
        self.tagless = "tags" in current
        self.absent = current.get("absent", "default")


if __name__ == "__main__":
    Single()
