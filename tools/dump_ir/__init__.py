"""Write the module after each pass of the lowering pipeline, to see what a pass did."""
