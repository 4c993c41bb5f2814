"""A flow whose steps have secrets and tell them wherever they can."""

import os
import subprocess
import sys

from causey import FlowSpec, Parameter, current, environment, secrets, step

AT_IMPORT = os.environ.get("COLOUR", "")


class Secretive(FlowSpec):
    fail = Parameter("fail", default=False)

    @environment(vars={"COLOUR": "green", "PYTHONPATH": "/nowhere"})
    @secrets(sources=["env:TOKEN", "KEY=command:vault/db"])
    @step
    def start(self):
        token, key = os.environ["TOKEN"], os.environ["KEY"]
        print(f"at import {AT_IMPORT} now {os.environ['COLOUR']}")
        print("token", token, "of", len(token))
        sys.stderr.write(token[:5])
        sys.stderr.flush()
        subprocess.run(["true"], check=True)
        sys.stderr.write(token[5:] + "\n")
        subprocess.run(["sh", "-c", 'echo "child $KEY"'], check=True)
        current.set_status("phase", f"with {key}")
        if self.fail:
            raise ValueError(f"cannot log in as {token}")
        self.next(self.end)

    @step
    def end(self):
        print("later", AT_IMPORT == "", "TOKEN" in os.environ, "COLOUR" in os.environ)


if __name__ == "__main__":
    Secretive()
