"""Pure tensor functions: affine quantization, ranges, rounding error."""
