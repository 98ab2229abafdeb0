using Espalier.Runtime;

namespace Espalier.Tests.Runtime;

public sealed class NearestWordTests
{
    private static readonly string[] Known = ["sparsity", "criterion", "repair", "pattern"];

    [Theory]
    [InlineData("sparsty", "sparsity")]
    [InlineData("Criterion", "criterion")]
    [InlineData("reapir", "repair")]
    [InlineData("patern", "pattern")]
    public void A_slip_finds_the_word_meant(string written, string meant) => NearestWord.To(written, Known).ShouldBe(meant);

    [Theory]
    [InlineData("frobnicate")]
    [InlineData("")]
    public void Something_else_finds_none(string written)
    {
        NearestWord.To(written, Known).ShouldBeNull();
        NearestWord.Suggest(written, Known).ShouldBeEmpty();
    }
}
