"""One training step of prototxt/mnc5_tiny written a second time, in plain NumPy.

Forward and backward of every layer of the train net, the solvers' update, and the random draws in the order MNC makes
them, from the rules in tests/reference/MNC.md. Nothing of caffe_bridge is used. Everything is computed in float64;
samples of RoIs are taken one by one, so the arithmetic can be read off.

A function that has a gradient returns its result and a function from the result's gradient to its arguments'.
"""
