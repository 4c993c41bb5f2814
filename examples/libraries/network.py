"""TensorFlow's processor wheel in an environment that the steps bring along: a small network learns a line."""

from causey import FlowSpec, environment, pypi, step


class Network(FlowSpec):
    @environment(vars={"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""})
    @pypi(packages={"tensorflow-cpu": ""})
    @step
    def start(self):
        import numpy
        import tensorflow

        tensorflow.keras.utils.set_random_seed(0)
        values = numpy.linspace(-1, 1, 200, dtype="float32").reshape(-1, 1)
        model = tensorflow.keras.Sequential([tensorflow.keras.layers.Dense(1)])
        model.compile(optimizer=tensorflow.keras.optimizers.Adam(0.1), loss="mse")
        model.fit(values, 3 * values + 1, epochs=30, verbose=0)
        self.weight, self.bias = (float(each.numpy().ravel()[0]) for each in model.weights)
        self.next(self.end)

    @step
    def end(self):
        assert abs(self.weight - 3) < 0.2 and abs(self.bias - 1) < 0.2
        print(f"learnt {self.weight:.2f} x + {self.bias:.2f}")


if __name__ == "__main__":
    Network()
