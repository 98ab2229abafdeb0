using Espalier.Catalogue;

namespace Espalier.Tests.Catalogue;

public sealed class DescriptionIndexTests
{
    private static readonly DescriptionIndex Index = Of(
        "Prunes weights by magnitude, layer after layer.",
        "Merges several fine-tuned models into one without retraining.",
        "Makes a model forget a concept after training.",
        "A low-rank adapter for fine-tuning language models.",
        "Quantizes weights to four bits.",
        "Reconstructs MRI images from few measurements.");

    [Theory]
    [InlineData("pruning", 0)]
    [InlineData("merged", 1)]
    [InlineData("unlearning", 2)]
    [InlineData("LoRA", 3)]
    [InlineData("quantisation", 4)]
    [InlineData("recon", 5)]
    [InlineData("How do I make it forget?", 2)]
    [InlineData("fine tuning with adapters", 3)]
    [InlineData("finetuned", 3)]
    [InlineData("lowrank", 3)]
    public void A_question_in_other_words_finds_what_is_meant(string question, int place) => Index.Find(question)[0].Place.ShouldBe(place);

    [Fact]
    public void What_nobody_speaks_of_finds_nothing()
    {
        Index.Find("zebra").ShouldBeEmpty();
        Index.Find("").ShouldBeEmpty();
        Index.Find("the of and").ShouldBeEmpty();
    }

    [Fact]
    public void A_word_as_written_counts_more_than_one_that_means_the_same()
    {
        DescriptionIndex index = Of("compression of nets", "pruning of nets");
        index.Find("prune").Select(f => f.Place).ShouldBe([1, 0]);
        index.Find("compress").Select(f => f.Place).ShouldBe([0, 1]);
    }

    [Fact]
    public void A_heavier_part_counts_more_and_equals_stay_in_their_order()
    {
        var index = new DescriptionIndex([[("rank", 1)], [("rank", 1)], [("rank", 4), ("matrix", 1)]]);
        index.Find("rank").Select(f => f.Place).ShouldBe([2, 0, 1]);
    }

    [Fact]
    public void Neighbours_share_telling_words_and_never_are_the_text_itself()
    {
        DescriptionIndex index = Of("sparse masks for transformers", "sparse masks for convolutions", "radiance fields of scenes", "masks in transformers, sparse");
        index.Like(0).Select(l => l.Place).ShouldBe([3, 1]);
        index.Like(2).ShouldBeEmpty();
    }

    [Fact]
    public void An_index_of_nothing_answers()
    {
        var index = new DescriptionIndex([]);
        index.Find("anything").ShouldBeEmpty();
    }

    private static DescriptionIndex Of(params string[] texts) => new(texts.Select(t => (IReadOnlyList<(string, double)>)[(t, 1)]));
}
