using Espalier.Catalogue;
using Espalier.Methods.Pruning;
using Espalier.Methods.Retraining;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;

namespace Espalier.Tests.Catalogue;

public sealed class MethodCatalogueTests
{
    private static readonly MethodCatalogue Catalogue = MethodCatalogue.Default;

    [Fact]
    public void All_seventy_one_published_systems_are_listed_once_each()
    {
        Catalogue.Entries.Count(e => e.Listed).ShouldBe(71);
        Catalogue.Entries.Select(e => e.Slug).ShouldBeUnique();
        Catalogue.Entries.ShouldAllBe(e => e.Title.Length > 0 && e.Family.Length > 0);
    }

    [Fact]
    public void What_is_built_has_a_class_a_summary_and_a_source()
    {
        CatalogueEntry[] built = [.. Catalogue.Entries.Where(e => e.State is MethodState.Built)];
        built.ShouldAllBe(e => e.Implementation != null && e.Summary.Length > 0 && e.Source.Length > 0 && e.Fits.Length > 0);
        Catalogue["perp"].Implementation.ShouldBe(typeof(Perp));
        Catalogue["perp"].Listed.ShouldBeTrue();
        Catalogue["wanda"].Listed.ShouldBeFalse();
        built.Select(e => e.Slug).ShouldBeSubsetOf(built.Select(e => e.Slug).Order().Distinct());
    }

    [Fact]
    public void A_built_system_of_the_list_has_the_title_and_family_of_the_list()
    {
        foreach (CatalogueEntry entry in Catalogue.Entries.Where(e => e is { Listed: true, Implementation: not null }))
        {
            var method = (MethodAttribute)entry.Implementation!.GetCustomAttributes(typeof(MethodAttribute), false).Single();
            method.Title.ShouldBe(entry.Title);
            method.Family.ShouldBe(entry.Family);
        }
    }

    [Fact]
    public void Words_find_systems_by_slug_title_and_summary()
    {
        Catalogue.Search("wanda")[0].Slug.ShouldBe("wanda");
        Catalogue.Search("SOUPS averaging").Select(e => e.Slug).ShouldBe(["sms"]);
        Catalogue.Search("").Count.ShouldBe(Catalogue.Entries.Count);
        Catalogue.Search("no-such-word").ShouldBeEmpty();
    }

    [Fact]
    public void A_part_is_made_from_its_slug_and_options()
    {
        Catalogue.Create<ICriterion>("wanda").ShouldBeOfType<Wanda>().UseVariant.ShouldBeFalse();
        Catalogue.Create<ICriterion>("wanda", new Dictionary<string, object?> { ["use-variant"] = "true" }).ShouldBeOfType<Wanda>().UseVariant.ShouldBeTrue();
        Catalogue.Create<IJointPruner>("sparsegpt", new Dictionary<string, object?> { ["blocksize"] = "64" }).ShouldBeOfType<SparseGpt>().Blocksize.ShouldBe(64);
        var perp = (Perp)Catalogue.Create<IRetraining>("perp", new Dictionary<string, object?> { ["subset"] = new List<object> { "biases", "norms", "masklora" }, ["steps"] = 20L });
        perp.Subset.ShouldBe(Subset.Biases | Subset.Norms | Subset.MaskLora);
        perp.Steps.ShouldBe(20);
    }

    [Fact]
    public void Unknown_words_get_a_sentence_with_what_is_known()
    {
        Should.Throw<EspalierException>(() => Catalogue.Create<ICriterion>("wnada")).Message
            .ShouldSatisfyAllConditions(m => m.ShouldContain("magnitude"), m => m.ShouldContain("Did you mean 'wanda'?"));
        Should.Throw<EspalierException>(() => Catalogue.Create<ICriterion>("perp")).Message.ShouldContain("no criterion");
        Should.Throw<EspalierException>(() => Catalogue.Create<ICriterion>("wanda", new Dictionary<string, object?> { ["use_varient"] = true })).Message
            .ShouldSatisfyAllConditions(m => m.ShouldContain("'use_varient' is no option of wanda"), m => m.ShouldContain("use_variant"));
        Should.Throw<EspalierException>(() => Catalogue["nothing"]);
        CatalogueEntry? notYet = Catalogue.Entries.FirstOrDefault(e => e.State is MethodState.NotYet);
        if (notYet is not null)
        {
            Should.Throw<EspalierException>(() => Catalogue.Create<ICriterion>(notYet.Slug)).Message.ShouldContain("not built yet");
        }
    }
}
