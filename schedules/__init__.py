"""How kernels map to hardware: compute definitions, schedule rules, the adapter to TVM."""
