def python(self):
    self.model
