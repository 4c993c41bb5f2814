import sys

from metaflow import FlowSpec, catch, current, retry, step


class Catching(FlowSpec):
    """@retry and @catch, alone and together."""

    @retry(times=2, minutes_between_retries=0)
    @step
    def start(self):
        self.tried = current.retry_count
        if current.retry_count < 2:
            raise ValueError("not yet")
        self.next(self.caught)

    @catch(var="problem", print_exception=False)
    @step
    def caught(self):
        self.before = "kept"
        self.tried += 1
        self.impossible = 1 / 0
        self.after = "never"
        self.next(self.fine)

    @catch(var="no_problem")
    @step
    def fine(self):
        self.is_problem = bool(self.problem)
        self.next(self.both)

    @catch(var="both_problem")
    @retry(times=1, minutes_between_retries=0)
    @step
    def both(self):
        self.attempts = current.retry_count
        raise KeyError("k")
        self.next(self.anonymous)

    @catch
    @step
    def anonymous(self):
        self.next_name = "x"
        raise RuntimeError("nobody looks")
        self.next(self.fan)

    @step
    def fan(self):
        self.items = [1, 0, 2]
        self.next(self.divide, foreach="items")

    @catch(var="division", print_exception=False)
    @step
    def divide(self):
        self.result = 10 // self.input
        self.next(self.join)

    @step
    def join(self, inputs):
        self.failed = [bool(each.division) for each in inputs]
        self.results = [getattr(each, "result", None) for each in inputs]
        self.merge_artifacts(inputs, exclude=["division", "result", "_catch_exception"])
        self.next(self.end)

    @step
    def end(self):
        print(sys.version_info.major)


if __name__ == "__main__":
    Catching()
