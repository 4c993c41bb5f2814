import datetime
import decimal
from dataclasses import dataclass

from metaflow import FlowSpec, step


@dataclass
class Point:
    x: int
    y: int


class Objects(FlowSpec):
    """Instances of classes, some defined in the flow file, and a large value."""

    @step
    def start(self):
        self.point = Point(1, 2)
        self.points = [Point(n, n) for n in range(3)]
        self.when = datetime.datetime(2026, 11, 23, 7, 30)
        self.price = decimal.Decimal("1.10")
        self.numbers = {1, 2, 3}
        self.large = "x" * 2_000_000
        self.next(self.move)

    @step
    def move(self):
        self.point.x += 10
        self.length = len(self.large)
        self.next(self.end)

    @step
    def end(self):
        self.sum = self.point.x + self.points[2].y
        self.large = self.large[:3]


if __name__ == "__main__":
    Objects()
