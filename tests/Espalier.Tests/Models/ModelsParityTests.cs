using Espalier.Models;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Tests.Models;

public sealed class ModelsParityTests
{
    [Theory]
    [InlineData("gpt-neox")]
    [InlineData("gpt2")]
    [InlineData("llama-gqa")]
    [InlineData("llama3-rope-scaled")]
    [InlineData("mistral-window")]
    [InlineData("opt-postnorm-projected")]
    [InlineData("opt-prenorm")]
    [InlineData("qwen2")]
    [InlineData("qwen3")]
    public void Logits_are_those_of_the_reference(string folder)
    {
        string path = TestPaths.RequireShared($"parity/models/{folder}");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using MemoryTensors reference = MemoryTensors.Read(Path.Combine(path, "logits.safetensors"));
        Tensor logits = ModelsParity.Logits(path, reference.Read("in.input_ids"));
        (logits - reference.Read("out.logits")).abs().max().item<float>().ShouldBeLessThan(1e-5f);
    }

    [Fact]
    public void Verification_runs_every_family()
    {
        ParityReport report = ParityVerifier.Run(Path.Combine(TestPaths.Repository, "tests", "parity", "models"));
        report.Results.Where(r => !r.Passed).Select(r => $"{r.Path}: {r.Failure}").ShouldBeEmpty();
        report.Results.Count.ShouldBe(9);
    }
}
