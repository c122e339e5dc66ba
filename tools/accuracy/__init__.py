"""What compression costs in accuracy, on real data.

>>> python -m tools.accuracy train
>>> python -m tools.accuracy measure
>>> python -m tools.accuracy qat
>>> python -m tools.accuracy trained
"""
