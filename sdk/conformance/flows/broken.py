def values(self:
    pass
