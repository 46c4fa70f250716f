"""The mathematics of evaluation: features of images, distances between sets of features, intervals, audits, specs.

Everything takes and returns host arrays. What grows with the square of a set runs in JAX, in blocks; covariances and
their eigenvalues are float64 on the host, where an accelerator would have none.
"""
