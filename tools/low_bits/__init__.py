"""Speed and sizes of kernels on weights of one and two bits, beside float32 and int8."""
