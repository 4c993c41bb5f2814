def start(self):
    self.fine = [1, 2]
    self.odd = {1, 2}
