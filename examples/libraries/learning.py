"""pandas and scikit-learn in an environment that the steps bring along, two jobs inside a forked step."""

from causey import FlowSpec, pypi_base, resources, step


@pypi_base(packages={"pandas": ">=2.3", "scikit-learn": ">=1.7"})
class Learning(FlowSpec):
    @step
    def start(self):
        import pandas
        from sklearn.datasets import load_iris

        table = load_iris(as_frame=True).frame
        assert isinstance(table, pandas.DataFrame)
        self.table = table
        self.next(self.fit)

    @resources(cpu=2)
    @step
    def fit(self):
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.model_selection import cross_val_score

        values, kinds = self.table.drop(columns="target"), self.table["target"]
        forest = RandomForestClassifier(n_estimators=20, n_jobs=2, random_state=0)
        self.score = float(cross_val_score(forest, values, kinds, cv=3).mean())
        self.next(self.end)

    @step
    def end(self):
        assert self.score > 0.9
        print(f"right about {self.score:.0%} of the flowers")


if __name__ == "__main__":
    Learning()
