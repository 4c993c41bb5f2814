"""What steps ask for with @pypi and its kin, as it is told to `causey`."""

from __future__ import annotations

import worker as peer


def asked(flow_file, body):
    answer = peer.describe(flow_file(body, head="from causey import *"))
    assert "problem" not in answer, answer
    return answer.get("environments")


def test_a_flow_that_asks_for_nothing_says_nothing(flow_file):
    body = """
        class Flow(FlowSpec):
            @step
            def start(self):
                self.next(self.end)

            @step
            def end(self):
                pass
        """
    assert asked(flow_file, body) is None


def test_a_step_adds_to_what_the_flow_asks_for_and_may_want_nothing(flow_file):
    body = """
        @pypi_base(packages={"pandas": "2.2.3", "numpy": ""}, python="3.12")
        class Flow(FlowSpec):
            @step
            def start(self):
                self.next(self.fit)

            @pypi(packages={"pandas": ">=2,<3", "tool": "@ git+file:///tool"}, python=">=3.11")
            @step
            def fit(self):
                self.next(self.end)

            @pypi(disabled=True)
            @step
            def end(self):
                pass
        """
    assert asked(flow_file, body) == {
        "steps": {
            "start": {"requirements": ["numpy", "pandas==2.2.3"], "python": "3.12"},
            "fit": {"requirements": ["numpy", "pandas>=2,<3", "tool @ git+file:///tool"], "python": ">=3.11"},
        },
        "bare": ["end"],
    }


def test_conda_is_taken_for_pypi_with_a_warning(flow_file):
    body = """
        class Flow(FlowSpec):
            @conda(libraries={"conda-forge::scikit-learn": "1.7"}, packages={"numpy": None})
            @step
            def start(self):
                self.next(self.end)

            @step
            def end(self):
                pass
        """
    assert asked(flow_file, body) == {
        "steps": {"start": {"requirements": ["scikit-learn==1.7", "numpy"]}},
        "warnings": [
            "@conda of step 'start': packages are installed from the Python package index, as @pypi does",
        ],
    }


def test_what_no_index_can_have_is_refused_by_line(flow_file):
    body = """
        @pypi_base(python="cheese")
        class Flow(FlowSpec):
            @pypi(packages={"pandas; import os": "1"})
            @step
            def start(self):
                self.next(self.end)

            @pypi(packages=["pandas"])
            @step
            def end(self):
                pass
        """
    answer = peer.describe(flow_file(body, head="from causey import *"))
    assert [(problem["line"], problem["message"]) for problem in answer["problems"]] == [
        (None, "@pypi_base of flow 'Flow': python='cheese' is no version of Python such as '3.12' or '>=3.11,<3.14'"),
        (4, "@pypi of step 'start': 'pandas; import os' is no name of a package"),
        (9, "@pypi of step 'end': packages=['pandas'] is no dict"),
    ]
