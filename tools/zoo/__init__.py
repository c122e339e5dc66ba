"""The model zoo: which networks import, compile and agree with PyTorch."""
