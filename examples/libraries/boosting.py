"""LightGBM on a table of its own, in an environment that the steps bring along: three seeds at a time, the best one counts."""

from causey import FlowSpec, pypi_base, step


@pypi_base(packages={"lightgbm": ">=4", "numpy": ">=2"})
class Boosting(FlowSpec):
    @step
    def start(self):
        self.seeds = [1, 2, 3]
        self.next(self.fit, foreach="seeds")

    @step
    def fit(self):
        import lightgbm
        import numpy

        values = numpy.random.default_rng(self.input).normal(size=(500, 4))
        target = values[:, 0] * 2 - values[:, 1]
        model = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(values, target), num_boost_round=20)
        self.error = float(numpy.abs(model.predict(values) - target).mean())
        self.model = model.model_to_string()
        self.next(self.choose)

    @step
    def choose(self, inputs):
        best = min(inputs, key=lambda each: each.error)
        self.error, self.model = best.error, best.model
        self.next(self.end)

    @step
    def end(self):
        assert self.error < 1
        print(f"best of three: error {self.error:.3f}, {self.model.count('Tree=')} trees")


if __name__ == "__main__":
    Boosting()
