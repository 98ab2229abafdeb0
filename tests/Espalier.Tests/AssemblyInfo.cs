// Native tensors are counted process-wide, and libtorch already uses every core: tests run one after the other.
[assembly: Xunit.v3.Parallelization(Mode = Xunit.Sdk.ParallelMode.None)]
