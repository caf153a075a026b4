"""What each format costs and keeps: bits a weight, and the error it makes on normal weights."""

import numpy as np

from edgellama.quant import FORMATS

weights = np.random.default_rng(0).standard_normal((256, 4096), np.float32)

print("format   bits a weight   relative rms error")
for fmt in FORMATS:
    if not fmt.can_quantize:
        continue
    packed = fmt.quantize(weights)
    error = fmt.dequantize(packed) - weights
    bits = 8 * packed.nbytes / weights.size
    print(f"{fmt.name:8} {bits:13.1f}   {np.sqrt(np.mean(error**2) / np.mean(weights**2)):.2e}")
