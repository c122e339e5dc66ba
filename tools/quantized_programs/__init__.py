"""Small programs quantized by PT2E and torchao, for the tests of their import.

>>> python -m tools.quantized_programs tests/golden/quantized

needs torchao beside torch; what it writes needs neither torchao nor this tool.
"""
