"""How MetaSchedule searches spaces of choices: generator, mutator, postprocessor, cost model."""
