"""Runs a flow file under the real Metaflow and prints its artifacts per task, in the shape of `causey._dump`.

    python tests/oracle.py FLOW_FILE [run arguments …]
    python tests/oracle.py FLOW_FILE --mended FLOW_FILE

With `--mended` the run must fail, and is resumed with the flow in the other file.

Needs a Python with `metaflow` installed, without Causey's shim on its path. The data goes to a temporary folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

LONGEST_TEXT = 1000


def shown(value):
    if hasattr(value, "stacktrace") and hasattr(value, "exception"):
        return f"{value.type.rpartition('.')[2]}: {value.exception}"
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return f"<{len(value)} characters>"
    return value if is_plain(value) else repr(value)


def is_plain(value):
    if isinstance(value, dict):
        return all(type(key) is str and is_plain(item) for key, item in value.items())
    if type(value) is list:
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def artifacts(run_file, flow_name):
    from metaflow import Flow, namespace

    namespace(None)
    with open(run_file) as file:
        run = Flow(flow_name)[file.read().strip()]
    found = {}
    for step in run:
        for task in step:
            path = ".".join(str(frame.index) for frame in task["_foreach_stack"].data) or "0"
            visit = ([0] + task["_iteration_stack"].data)[-1]
            if visit:
                path += f"~{visit}"
            # A caught failure counts as unsuccessful there, but its artifacts are the task's result.
            if task["_task_ok"].data:
                found[f"{step.id}/{path}"] = {
                    artifact.id: shown(artifact.data)
                    for artifact in task
                    if artifact.id != "name" and artifact.id[0] != "_"
                }
    return found


def main():
    flow_file, arguments = os.path.abspath(sys.argv[1]), sys.argv[2:]
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(
            METAFLOW_DATASTORE_SYSROOT_LOCAL=folder, METAFLOW_DEFAULT_METADATA="local", METAFLOW_USER="ann"
        )
        # The members of a gang are started with the `python` of PATH.
        os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
        run_file = os.path.join(folder, "run")
        run = lambda *words: subprocess.run(  # noqa: E731
            [sys.executable, flow_file, "--quiet", "--no-pylint", *words, "--run-id-file", run_file],
            stdout=sys.stderr,
        )
        if "--mended" in arguments:
            assert run("run").returncode, "the run did not fail"
            flow_file = os.path.abspath(arguments[1])
            with open(run_file) as file:
                earlier = file.read().strip()
            finished = run("resume", "--origin-run-id", earlier)
        else:
            finished = run("run", *arguments)
        if finished.returncode:
            print(json.dumps({"failed": True}))
            return
        sys.path.insert(0, os.path.dirname(flow_file))
        import importlib.util

        spec = importlib.util.spec_from_file_location("__flow__", flow_file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        # The run pickled classes of the flow file as members of __main__.
        for name, member in vars(module).items():
            if isinstance(member, type):
                setattr(sys.modules["__main__"], name, member)
        from metaflow import FlowSpec

        flow_name = next(
            name
            for name, member in reversed(list(vars(module).items()))
            if isinstance(member, type) and issubclass(member, FlowSpec) and member is not FlowSpec
        )
        print(json.dumps(artifacts(run_file, flow_name), indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
