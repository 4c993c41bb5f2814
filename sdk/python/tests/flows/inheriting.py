from inheriting_base import Base, Mixin
from metaflow import step


class Inheriting(Mixin, Base):
    """Steps, parameters and class variables of base classes in another file; one step replaced, one added."""

    version = "derived"

    @step
    def middle(self):
        self.middle_by = "derived middle"
        self.next(self.added)

    @step
    def added(self):
        self.items = list(range(self.size))
        self.next(self.end)


if __name__ == "__main__":
    Inheriting()
