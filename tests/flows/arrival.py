"""Started by an event; publishes a model."""

from causey import FlowSpec, Parameter, current, models, step, trigger


@trigger(event={"name": "numbers.arrived", "parameters": {"numbers": "values"}})
class Arrival(FlowSpec):
    numbers = Parameter("numbers", default="1,2")

    @step
    def start(self):
        self.event = current.trigger.event.id if current.trigger else None
        self.next(self.end)

    @step
    def end(self):
        values = [int(number) for number in self.numbers.split(",")]
        models.publish("mean", {"mean": sum(values) / len(values)}, metrics={"count": len(values)}, tags={"event": str(self.event)})


if __name__ == "__main__":
    Arrival()
