"""Keys of the annotations that compute definitions leave on blocks for the schedule rules."""

#: Kind of the kernel that a block is the heart of; a rule is chosen by it.
KERNEL = "tilewright.kernel"
#: The choice that it is built with, JSON of a `schedules.space.Choice`.
CHOICE = "tilewright.choice"
#: Name of the tensor intrinsic that computes one vector of its accumulators, if one does.
DOT = "tilewright.dot"
#: Number of the innermost loops of its reduction that make up one step: an instruction's
#: products, the codes in a byte.
STEP = "tilewright.step"
#: Elements of the innermost loop of a micro-kernel's reduction.
SIZE = "tilewright.reduction"
#: LLVM IR of functions that a kernel calls.
LIBRARY = "tilewright.library"
#: Attribute of a canonical function: JSON of its `schedules.workload.Workload`.
WORKLOAD = "tilewright.workload"
#: Part of a kernel that a stage plays: ``pad``, ``pack``, ``row``, ``lanes``, ``fold``, ``start``.
ROLE = "tilewright.role"
#: Marks a function that a rule has scheduled; TVM's own tools look at it too.
IS_SCHEDULED = "tirx.is_scheduled"
#: Marks the scalar functions that the virtual machine computes symbolic sizes with.
IS_HOST_FUNCTION = "tirx.is_host_func"
#: Attribute of a function that packs a weight when a model is loaded.
PREPARES = "tilewright.prepares"
