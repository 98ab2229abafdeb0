using CsCheck;
using Espalier.Data;

namespace Espalier.Tests.Data;

public sealed class CanonicalFormsTests
{
    /// <summary>Examples of UAX #15: composed, excluded from composition, a singleton, marks out of order, blocked marks, Hangul.</summary>
    [Theory]
    [InlineData("e\u0301", "\u00E9", "e\u0301")]
    [InlineData("\u212B", "\u00C5", "A\u030A")]
    [InlineData("\u0958", "\u0915\u093C", "\u0915\u093C")]
    [InlineData("q\u0307\u0323", "q\u0323\u0307", "q\u0323\u0307")]
    [InlineData("\u1E0B\u0323", "\u1E0D\u0307", "d\u0323\u0307")]
    [InlineData("a\u0315\u0300\u05AE", "\u00E0\u05AE\u0315", "a\u05AE\u0300\u0315")]
    [InlineData("\u1112\u1161\u11AB", "\uD55C", "\u1112\u1161\u11AB")]
    [InlineData("\uAC00\u11A8", "\uAC01", "\u1100\u1161\u11A8")]
    [InlineData("\U0001D15E", "\U0001D157\U0001D165", "\U0001D157\U0001D165")]
    [InlineData("\u0301a", "\u0301a", "\u0301a")]
    [InlineData("plain", "plain", "plain")]
    public void Forms_are_those_of_the_standard(string text, string composed, string decomposed)
    {
        CanonicalForms.Compose(text).ShouldBe(composed);
        CanonicalForms.Decompose(text).ShouldBe(decomposed);
    }

    [Fact]
    public void Each_form_is_stable_and_one_leads_to_the_other() =>
        Gen.Char["aeAé\u0300\u0301\u0323\u0338\u1100\u1161\u11A8\uAC00\u212B\u0958한"].Array[0, 12].Select(c => new string(c)).Sample(text =>
        {
            string composed = CanonicalForms.Compose(text), decomposed = CanonicalForms.Decompose(text);
            return CanonicalForms.Compose(composed) == composed && CanonicalForms.Decompose(decomposed) == decomposed
                && CanonicalForms.Compose(decomposed) == composed && CanonicalForms.Decompose(composed) == decomposed;
        }, iter: 2000);

    [Fact]
    public void A_tokeniser_that_asks_for_composition_sees_composed_text()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["tokenizer.json"], """{"normalizer":{"type":"NFC"},"model":{"type":"BPE","unk_token":"?","vocab":{"?":0,"é":1},"merges":[]}}""");
        Tokenizer.Load(folder.Path).Encode("e\u0301é").ShouldBe([1, 1]);
    }
}
