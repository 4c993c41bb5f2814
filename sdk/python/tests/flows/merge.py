from metaflow import FlowSpec, step
from metaflow.exception import (
    MetaflowException,
    MissingInMergeArtifactsException,
    UnhandledInMergeArtifactsException,
)


class Merge(FlowSpec):
    """include, exclude, conflicts and missing names of merge_artifacts."""

    @step
    def start(self):
        self.same = "same"
        self.differs = 0
        self.next(self.a, self.b)

    @step
    def a(self):
        try:
            self.merge_artifacts([])
            self.refused = False
        except MetaflowException:
            self.refused = True
        self.differs = 1
        self.only_a = "a"
        self.set_equal = [1, 2]
        self.next(self.join)

    @step
    def b(self):
        self.refused = True
        self.differs = 2
        self.only_b = "b"
        self.set_equal = [1, 2]
        self.next(self.join)

    @step
    def join(self, inputs):
        try:
            self.merge_artifacts(inputs)
        except UnhandledInMergeArtifactsException as problem:
            self.conflicts = sorted(problem.artifact_names)
        try:
            self.merge_artifacts(inputs, include=["same", "absent"])
        except MissingInMergeArtifactsException as problem:
            self.missing = problem.artifact_names
        try:
            self.merge_artifacts(inputs, include=["same"], exclude=["differs"])
        except MetaflowException as problem:
            self.exclusive = type(problem).__name__[-9:]
        self.before = hasattr(self, "same")
        self.merge_artifacts(inputs, include=["same", "only_a"])
        self.next(self.split)

    @step
    def split(self):
        self.next(self.again_a, self.again_b)

    @step
    def again_a(self):
        self.differs = 3
        self.next(self.exclude)

    @step
    def again_b(self):
        self.differs = 4
        self.next(self.exclude)

    @step
    def exclude(self, inputs):
        self.merge_artifacts(inputs, exclude=["differs", "missing"])
        self.next(self.end)

    @step
    def end(self):
        self.left = [hasattr(self, name) for name in ("same", "differs", "missing", "only_a", "only_b")]


if __name__ == "__main__":
    Merge()
