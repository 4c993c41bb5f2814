"""`python -m causey._describe FILE`: checks a flow and prints its definition and package files as JSON."""

from __future__ import annotations

import sys

from causey._problem import FlowProblem

USAGE_STATUS = 2


def describe(path: str, more_suffixes: tuple[str, ...] = ()) -> dict[str, object]:
    from causey._definition import definition
    from causey._flowfile import load_flow
    from causey._package import package_files

    try:
        flow = load_flow(path)
        made, environments = definition(flow, path)
        answer: dict[str, object] = {"definition": made, "files": package_files(path, more_suffixes)}
        return {**answer, **({"environments": environments} if environments else {})}
    except FlowProblem as found:
        problems = [problem.fields() for problem in found.problems]
        answer = {"problem": problems[0]}
        if len(problems) > 1:
            answer["problems"] = problems
        return answer


def main(arguments: list[str]) -> int:
    suffixes: tuple[str, ...] = ()
    if len(arguments) == 3 and arguments[1] == "--package-suffixes":
        suffixes = tuple(suffix for suffix in arguments[2].split(",") if suffix)
    elif len(arguments) != 1:
        print("usage: python -m causey._describe FILE [--package-suffixes .csv,.yaml]", file=sys.stderr)
        return USAGE_STATUS
    # What the flow file prints while it is imported must not get into the answer.
    answer_file, sys.stdout = sys.stdout, sys.stderr
    answer = describe(arguments[0], suffixes)
    from json import dumps

    answer_file.write(f"{dumps(answer)}\n")
    answer_file.flush()
    return USAGE_STATUS if "problem" in answer else 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    # The flow file's modules would only be torn down one by one.
    from os import _exit

    _exit(status)
