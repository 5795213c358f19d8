"""From a model to what the native kernels run: folding, packing, the trial of kernels."""
