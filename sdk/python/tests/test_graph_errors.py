"""Mistakes in flow files are told before anything runs, with file, line, step and a hint."""

from __future__ import annotations

import sys

import pytest
import worker as peer

END = """
        @step
        def end(self):
            pass
"""

WRITE = (
    "write self.next(self.a), self.next(self.a, self.b), self.next(self.a, foreach='items'), "
    "self.next(self.a, num_parallel=4) or self.next({'x': self.a, 'y': self.b}, condition='kind')"
)

SOURCES = "name a place: 'env:NAME', 'file:/PATH' or 'command:NAME/ARGUMENT', each perhaps behind 'VARIABLE='"

CASES = {
    "unknown_step_suggests_a_near_name": (
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                self.next(self.trian)

            @step
            def train(self):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        ["5 start: step 'start' goes to an unknown step 'trian' | did you mean 'train'?"],
    ),
    "missing_next": (
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                self.x = 1

            @step
            def end(self):
                pass
        """,
        ["4 start: step 'start' does not end with self.next(…) | add self.next(…) as its last line"],
    ),
    "next_inside_an_if": (
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                if True:
                    self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            "4 start: step 'start' does not end with self.next(…) | "
            "self.next(…) must be the last statement of the step, not inside an if, try or loop"
        ],
    ),
    "next_twice": (
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                if False:
                    self.next(self.end)
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        ["7 start: step 'start' calls self.next(…) more than once | keep one, as the last statement"],
    ),
    "no_end": (
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                self.next(self.ende)

            @step
            def ende(self):
                pass
        """,
        ["None None: the flow has no end step | did you mean 'ende'?"],
    ),
    "no_start": (
        """
        class Flow(FlowSpec):
            @step
            def begin(self):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        ["None None: the flow has no start step | name a step 'start' or use @step(start=True) on exactly one step"],
    ),
    "loop": (
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                self.next(self.a)

            @step
            def a(self):
                self.next(self.b)

            @step
            def b(self):
                self.next(self.a)

            @step
            def end(self):
                pass
        """,
        ["13 b: the flow has a loop: a → b → a | steps must not lead back; only a case of a switch may lead to its own step"],
    ),
    "orphan": (
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                self.next(self.end)

            @step
            def lonely(self):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            "8 lonely: step 'lonely' cannot be reached from 'start' | "
            "add self.next(self.lonely) to another step or remove it"
        ],
    ),
    "reserved_and_illegal_names": (
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                self.next(self.Work)

            @step
            def Work(self):
                self.next(self.cmd)

            @step
            def cmd(self):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            "8 Work: step name 'Work' is not allowed | "
            "use lower-case letters, digits and underscores, and no underscore in front",
            "12 cmd: step name 'cmd' is reserved | choose another name",
        ],
    ),
    "unjoined_split": (
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                self.items = [1]
                self.next(self.end, foreach="items")

            @step
            def end(self):
                pass
        """,
        [
            "9 end: the end step 'end' is reached before the split at 'start' is joined | "
            "add a join step (self, inputs) before 'end'"
        ],
    ),
    "join_without_a_split": (
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                self.next(self.join)

            @step
            def join(self, inputs):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            "8 join: step 'join' is a join (it takes inputs) but no split leads to it | "
            "remove the argument inputs, or split before it"
        ],
    ),
    "branch_that_is_not_joined": (
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                self.next(self.a, self.b)

            @step
            def a(self):
                self.next(self.join)

            @step
            def b(self):
                self.next(self.end)

            @step
            def join(self, inputs):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        ["16 join: step 'join' joins 1 of the 2 branches of 'start' | lead b to 'join' too"],
    ),
    "several_parents_without_inputs": (
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                self.next(self.a, self.b)

            @step
            def a(self):
                self.next(self.both)

            @step
            def b(self):
                self.next(self.both)

            @step
            def both(self):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        ["16 both: step 'both' follows several steps (a, b) but is not a join | write def both(self, inputs):"],
    ),
    "foreach_straight_into_a_join": (
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                self.items = [1]
                self.next(self.join, foreach="items")

            @step
            def join(self, inputs):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        ["6 start: the foreach of step 'start' leads straight to the join 'join' | add a step between them"],
    ),
    "end_goes_on": (
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                self.next(self.end)

            @step
            def end(self):
                self.next(self.start)
        """,
        ["9 end: the end step 'end' must not go on to another step | remove its self.next(…)"],
    ),
    "arguments": (
        """
        class Flow(FlowSpec):
            @step
            def start(self, a, b):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        ["4 start: step 'start' has too many arguments | a step takes (self), a join takes (self, inputs)"],
    ),
    "switch_with_one_case": (
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                self.next({"a": self.end}, condition="x")

            @step
            def end(self):
                pass
        """,
        ["5 start: step 'start' has a wrong self.next(…): a switch needs at least two cases, this one has 1 | " + WRITE],
    ),
    "switch_without_condition": (
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                self.next({"a": self.a, "b": self.end})

            @step
            def a(self):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            "5 start: step 'start' has a wrong self.next(…): a dictionary of cases needs condition='<artifact>' | "
            + WRITE
        ],
    ),
    "switch_by_a_variable": (
        """
        KEY = "a"

        class Flow(FlowSpec):
            @step
            def start(self):
                self.next({KEY: self.a, "b": self.end}, condition="x")

            @step
            def a(self):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            "7 start: step 'start' has a wrong self.next(…): a case must be a text, a number or a boolean, written out | "
            + WRITE
        ],
    ),
    "switch_to_an_unknown_step": (
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                self.next({"a": self.ent, "b": self.end}, condition="x")

            @step
            def end(self):
                pass
        """,
        ["5 start: step 'start' goes to an unknown step 'ent' | did you mean 'end'?"],
    ),
    "switch_straight_to_a_join": (
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                self.next(self.work, foreach="items")

            @step
            def work(self):
                self.next({"a": self.join, "b": self.more}, condition="x")

            @step
            def more(self):
                self.next(self.join)

            @step
            def join(self, inputs):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            "9 work: the switch of step 'work' leads straight to the join 'join' | put a step between them on that path"
        ],
    ),
    "switch_back_to_an_earlier_step": (
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                self.next(self.a)

            @step
            def a(self):
                self.next(self.b)

            @step
            def b(self):
                self.next({"a": self.a, "b": self.end}, condition="x")

            @step
            def end(self):
                pass
        """,
        [
            "13 b: the flow has a loop: a → b → a | "
            "steps must not lead back; only a case of a switch may lead to its own step"
        ],
    ),
    "switch_of_the_first_step_back_to_itself": (
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                self.next({"a": self.start, "b": self.end}, condition="x")

            @step
            def end(self):
                pass
        """,
        ["4 start: the first step 'start' leads back to itself | put a step before it"],
    ),
    "switch_into_another_branch": (
        """
        class Flow(FlowSpec):
            @step
            def start(self):
                self.next(self.left, self.right)

            @step
            def left(self):
                self.next({"a": self.more, "b": self.right}, condition="x")

            @step
            def more(self):
                self.next(self.join)

            @step
            def right(self):
                self.next(self.join)

            @step
            def join(self, inputs):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            "16 right: step 'right' follows several steps (start, left) but is not a join | "
            "write def right(self, inputs):"
        ],
    ),
    "catch_on_a_switch": (
        """
        class Flow(FlowSpec):
            @catch
            @step
            def start(self):
                self.next({"a": self.a, "b": self.end}, condition="x")

            @step
            def a(self):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            "3 start: step 'start' has @catch and a switch | "
            "let another step switch: after a failure there is no value to choose by"
        ],
    ),
    "recursion_without_one_or_out_of_range": (
        """
        class Flow(FlowSpec):
            @recursion
            @step
            def start(self):
                self.next(self.again)

            @recursion(visits_max=0)
            @step
            def again(self):
                self.next({True: self.again, False: self.end}, condition="x")

            @step
            def end(self):
                pass
        """,
        [
            "3 start: step 'start' has @recursion, but no case of a switch leads back to it | None",
            "8 again: @recursion of step 'again': visits_max=0 is not a whole number between 1 and 100000 | None",
        ],
    ),
    "refused_decorators": (
        """
        from causey import card, checkpoint, project

        @project(name="a")
        class Flow(FlowSpec):
            @checkpoint(load_policy="fresh")
            @step
            def start(self):
                self.next(self.end)

            @card
            @card(id="b")
            @step
            def end(self):
                pass
        """,
        [
            "6 start: step 'start' has @checkpoint, which Causey does not offer yet | "
            "remove it; keep intermediate state in files of your own",
            "12 end: step 'end' has @card, which Causey does not offer yet | "
            "remove it; keep what the card would show as an artifact",
            "4 None: flow 'Flow' has @project, which Causey does not offer yet | "
            "remove it; give the flow class a name of its own",
        ],
    ),
    "surroundings": (
        """
        class Flow(FlowSpec):
            @environment(vars={"A-B": "1"})
            @secrets(sources=["TOKEN", "file:x", "env:CAUSEY_TOKEN", "command:/bin/sh", "A=env:B", "env:A"])
            @step
            def start(self):
                self.next(self.end)

            @environment(vars={"A": "1", "B": 2})
            @secrets(sources=["A=command:vault/db"], role="reader")
            @step
            def end(self):
                pass
        """,
        [
            "3 start: @environment of step 'start': 'A-B' is no name of a variable | write vars={'NAME': 'value'}",
            f"4 start: @secrets of step 'start': 'TOKEN' is no source of a secret | {SOURCES}",
            f"4 start: @secrets of step 'start': 'file:x': the path of a file begins with / | {SOURCES}",
            f"4 start: @secrets of step 'start': 'env:CAUSEY_TOKEN': variable 'CAUSEY_TOKEN' is Causey's own | {SOURCES}",
            f"4 start: @secrets of step 'start': 'command:/bin/sh': a command is named by the worker's operator | {SOURCES}",
            "4 start: @secrets of step 'start': variable 'A' is set twice | give it another name: 'OTHER=…'",
            "10 end: @secrets of step 'end': role='reader' is of no use here | the worker fetches secrets as itself",
            "10 end: @secrets of step 'end': variable 'A' is set twice | give it another name: 'OTHER=…'",
        ],
    ),
    "memoised_steps": (
        """
        class Flow(FlowSpec):
            @memoize(expires="soon", version="")
            @step
            def start(self):
                self.next(self.train, num_parallel=2)

            @memoize(version="1")
            @parallel
            @step
            def train(self):
                self.next(self.join)

            @memoize(expires="7d")
            @catch(var="error")
            @step
            def join(self, inputs):
                self.next(self.end)

            @memoize(expires=-1)
            @step
            def end(self):
                pass
        """,
        [
            "3 start: @memoize of step 'start': version='' names no version | "
            "use a text of up to 128 bytes, as in version='2'",
            "3 start: @memoize of step 'start': expires='soon' is no span of time | "
            "write 90s, 15m, 12h, 7d or 2w, a number of seconds or a timedelta",
            "8 train: step 'train' has @memoize and is the step of a gang | memoise the join behind it",
            "14 join: step 'join' has @memoize and @catch: a caught failure would be taken as its result | "
            "let the step raise, or do not memoise it",
            "20 end: @memoize of step 'end': expires=-1 is not between 0 (excluded) and 365 days | "
            "without it results are taken however old they are",
        ],
    ),
    "times_and_filters_out_of_range": (
        """
        @timeout(hours=-1)
        class Flow(FlowSpec):
            @timeout
            @retry(on=[ValueError, 3])
            @step
            def start(self):
                self.next(self.middle)

            @timeout(seconds="soon")
            @grace(seconds=7200)
            @step
            def middle(self):
                self.next(self.end)

            @retry(times=-1)
            @step
            def end(self):
                pass
        """,
        [
            "5 start: @retry of step 'start': on=3 is no error class | "
            "name classes, as in on=[ConnectionError, 'TimeoutException']",
            "4 start: @timeout of step 'start': 0 seconds are not between 0 (excluded) and 31536000 | "
            "give it seconds=, minutes= or hours=",
            "10 middle: @timeout of step 'middle': seconds='soon' is not a number | "
            "give it seconds=, minutes= or hours=",
            "11 middle: @grace of step 'middle': seconds=7200 is not between 0 and 3600 | None",
            "16 end: @retry of step 'end': times=-1 is not between 0 and 100 | None",
            "None None: @timeout of flow 'Flow': hours=-1 is not 0 or more | give it seconds=, minutes= or hours=",
        ],
    ),
    "gang_without_parallel": (
        """
        class Flow(FlowSpec):
            pass
            @step
            def start(self):
                self.next(self.train, num_parallel=2)

            # nothing
            @step
            def train(self):
                self.next(self.join)

            @step
            def join(self, inputs):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            "6 start: step 'start' goes to 'train' with num_parallel, but 'train' has no @parallel | "
            "put @parallel on the line above the @step of 'train'",
        ],
    ),
    "parallel_without_num_parallel": (
        """
        class Flow(FlowSpec):
            pass
            @step
            def start(self):
                self.next(self.train, )

            @parallel
            @step
            def train(self):
                self.next(self.join)

            @step
            def join(self, inputs):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            "6 start: step 'train' has @parallel, but step 'start' goes to it without num_parallel | "
            "write self.next(self.train, num_parallel=…) or remove @parallel",
        ],
    ),
    "gang_without_a_join": (
        """
        class Flow(FlowSpec):
            pass
            @step
            def start(self):
                self.next(self.train, num_parallel=2)

            @parallel
            @step
            def train(self):
                self.next(self.join)

            @step
            def join(self):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            "11 train: step 'train' has @parallel, but 'join' after it is not a join | "
            "write def join(self, inputs):",
        ],
    ),
    "gang_that_splits": (
        """
        class Flow(FlowSpec):
            pass
            @step
            def start(self):
                self.next(self.train, num_parallel=2)

            @parallel
            @step
            def train(self):
                self.next(self.join, self.end)

            @step
            def join(self, inputs):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            "11 train: step 'train' has @parallel, so it may only go on to a join | "
            "split, switch and join in steps of their own",
        ],
    ),
    "gang_first": (
        """
        class Flow(FlowSpec):
            @parallel
            @step
            def start(self):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            "5 start: step 'start' has @parallel, but it is the first step | "
            "put a step before it that goes to it with num_parallel",
        ],
    ),
    "gang_caught": (
        """
        class Flow(FlowSpec):
            @catch
            @step
            def start(self):
                self.next(self.train, num_parallel=2)

            @catch(var="problem")
            @parallel(gather_seconds=0)
            @step
            def train(self):
                self.next(self.join)

            @step
            def join(self, inputs):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            "3 start: step 'start' has @catch and num_parallel | "
            "let another step open the gang: after a failure nobody knows how many members it has",
            "8 train: step 'train' has @catch and @parallel | "
            "use @retry, which tries the gang again as a whole: its members cannot go on without one of them",
            "9 train: @parallel of step 'train': gather_seconds=0 is not between 0.001 and 31536000 | "
            "None",
        ],
    ),
    "gang_of_zero": (
        """
        class Flow(FlowSpec):
            pass
            @step
            def start(self):
                self.next(self.train, num_parallel=0)

            @parallel
            @step
            def train(self):
                self.next(self.join)

            @step
            def join(self, inputs):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            f"6 start: step 'start' has a wrong self.next(…): num_parallel must be a whole number from 1 to 500, not 0 | {WRITE}",
        ],
    ),
    "gang_of_negative": (
        """
        class Flow(FlowSpec):
            pass
            @step
            def start(self):
                self.next(self.train, num_parallel=-1)

            @parallel
            @step
            def train(self):
                self.next(self.join)

            @step
            def join(self, inputs):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            f"6 start: step 'start' has a wrong self.next(…): num_parallel must be a whole number from 1 to 500, not -1 | {WRITE}",
        ],
    ),
    "gang_of_fraction": (
        """
        class Flow(FlowSpec):
            pass
            @step
            def start(self):
                self.next(self.train, num_parallel=2.5)

            @parallel
            @step
            def train(self):
                self.next(self.join)

            @step
            def join(self, inputs):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            f"6 start: step 'start' has a wrong self.next(…): num_parallel must be a whole number from 1 to 500, not 2.5 | {WRITE}",
        ],
    ),
    "gang_of_text": (
        """
        class Flow(FlowSpec):
            pass
            @step
            def start(self):
                self.next(self.train, num_parallel='4')

            @parallel
            @step
            def train(self):
                self.next(self.join)

            @step
            def join(self, inputs):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            f"6 start: step 'start' has a wrong self.next(…): num_parallel must be a whole number from 1 to 500, not '4' | {WRITE}",
        ],
    ),
    "gang_of_boolean": (
        """
        class Flow(FlowSpec):
            pass
            @step
            def start(self):
                self.next(self.train, num_parallel=True)

            @parallel
            @step
            def train(self):
                self.next(self.join)

            @step
            def join(self, inputs):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            f"6 start: step 'start' has a wrong self.next(…): num_parallel must be a whole number from 1 to 500, not True | {WRITE}",
        ],
    ),
    "gang_of_too_many": (
        """
        class Flow(FlowSpec):
            pass
            @step
            def start(self):
                self.next(self.train, num_parallel=501)

            @parallel
            @step
            def train(self):
                self.next(self.join)

            @step
            def join(self, inputs):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            f"6 start: step 'start' has a wrong self.next(…): num_parallel must be a whole number from 1 to 500, not 501 | {WRITE}",
        ],
    ),
    "gang_of_none": (
        """
        class Flow(FlowSpec):
            pass
            @step
            def start(self):
                self.next(self.train, num_parallel=None)

            @parallel
            @step
            def train(self):
                self.next(self.join)

            @step
            def join(self, inputs):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            f"6 start: step 'start' has a wrong self.next(…): num_parallel must be a whole number from 1 to 500, not None | {WRITE}",
        ],
    ),
    "gang_and_foreach": (
        """
        class Flow(FlowSpec):
            pass
            @step
            def start(self):
                self.next(self.train, num_parallel=2, foreach='items')

            @parallel
            @step
            def train(self):
                self.next(self.join)

            @step
            def join(self, inputs):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            f"6 start: step 'start' has a wrong self.next(…): foreach and num_parallel cannot be combined | {WRITE}",
        ],
    ),
    "gang_of_two_steps": (
        """
        class Flow(FlowSpec):
            pass
            @step
            def start(self):
                self.next(self.train, self.join, num_parallel=2)

            @parallel
            @step
            def train(self):
                self.next(self.join)

            @step
            def join(self, inputs):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            f"6 start: step 'start' has a wrong self.next(…): num_parallel needs exactly one step | {WRITE}",
        ],
    ),
    "priority_out_of_range": (
        """
        @priority(level=101)
        class Flow(FlowSpec):
            @step
            def start(self):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            "None None: @priority of flow 'Flow': level=101 is no whole number from -100 to 100 | "
            "the higher, the earlier; 0 is ordinary",
        ],
    ),
    "decorator_below_step": (
        """
        class Flow(FlowSpec):
            @step
            @retry
            def start(self):
                pass
        """,
        [
            # Python 3.10 reports the line of the function for what happens in its decorators.
            f"{4 if sys.version_info >= (3, 11) else 5} None: InvalidFlowException: "
            "@retry is applied to 'start', which is not a step | put @retry on the line above @step"
        ],
    ),
    "unknown_attribute": (
        """
        class Flow(FlowSpec):
            @retry(tims=3)
            @step
            def start(self):
                pass
        """,
        ["3 None: InvalidDecoratorAttribute: @retry does not know the attribute 'tims' | did you mean 'times'?"],
    ),
    "catch_on_a_foreach_split": (
        """
        class Flow(FlowSpec):
            @catch(var="problem")
            @step
            def start(self):
                self.items = [1]
                self.next(self.work, foreach="items")

            @step
            def work(self):
                self.next(self.join)

            @step
            def join(self, inputs):
                self.next(self.end)

            @host(mode="thread")
            @retry(times=-1)
            @step
            def end(self):
                pass
        """,
        [
            "3 start: step 'start' has @catch and splits with foreach | "
            "let another step split: the items would be missing after a failure",
            "18 end: @retry of step 'end': times=-1 is not between 0 and 100 | None",
            "17 end: @host(mode='thread') of step 'end' is unknown | use one of fork, reuse, spawn",
        ],
    ),
    "syntax_error": (
        """
        class Flow(FlowSpec)
            pass
        """,
        ["2 None: SyntaxError: expected ':' | None"],
    ),
    "missing_package": (
        """
        import sklearn_is_absent
        """,
        [
            "2 None: ModuleNotFoundError: No module named 'sklearn_is_absent' | "
            "pip install sklearn_is_absent, or add it to the step's environment: @pypi(packages={'sklearn_is_absent': ''})"
        ],
    ),
    "name_that_is_not_offered": (
        """
        from metaflow import FlowSpec, S3
        """,
        ["2 None: ImportError: 'S3' of Metaflow is not offered by Causey yet | use boto3 in the step"],
    ),
    "no_flow": ("x = 1", ["None None: the file defines no flow | derive a class from FlowSpec"]),
    "several_flows": (
        """
        class A(FlowSpec):
            pass

        class B(FlowSpec):
            pass
        """,
        [
            "None None: the file defines several flows: A, B | "
            "instantiate the one to run at the end: if __name__ == '__main__': MyFlow()"
        ],
    ),
    "parameters": (
        """
        class Flow(FlowSpec):
            a = Parameter("tags")
            b = Parameter("x", type=list)
            c = Parameter("X")
            d = Parameter("ö")

            @step
            def start(self):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            "None None: parameter 'tags' has a reserved name | None",
            "None None: parameter 'x' has an unknown type <class 'list'>: use int, float, str, bool or JSONType | None",
            "None None: parameter 'X' is defined twice; upper and lower case count as the same | None",
            "None None: parameter 'ö' has a name that is not made of letters, digits, '_' and '-' | None",
        ],
    ),
    "trigger_fills_an_unknown_parameter": (
        """
        @trigger(event={"name": "data", "parameters": {"alhpa": "a"}})
        class Flow(FlowSpec):
            alpha = Parameter("alpha", default=1)

            @step
            def start(self):
                self.next(self.end)

            @step
            def end(self):
                pass
        """,
        [
            "2 None: @trigger of flow 'Flow': event 'data' fills parameter 'alhpa', which the flow does not have | "
            "did you mean 'alpha'?"
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_mistake_is_named(case, flow_file):
    body, expected = CASES[case]
    path = flow_file(body, head="from causey import *" if body.startswith("\n") else "")
    answer = peer.describe(path)
    problems = answer.get("problems") or [answer["problem"]]
    assert [f"{p['line']} {p['step']}: {p['message']} | {p['hint']}" for p in problems] == expected
    assert all(problem["file"] == str(path) for problem in problems)
