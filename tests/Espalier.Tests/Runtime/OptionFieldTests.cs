using Espalier.Catalogue;
using Espalier.Methods.Retraining;
using Espalier.Pruning;
using Espalier.Runtime;

namespace Espalier.Tests.Runtime;

public sealed class OptionFieldTests
{
    [Flags]
    public enum Part
    {
        None = 0,
        Biases = 1,
        MaskLora = 2,
        Both = 3,
    }

    public enum Way
    {
        ToNearest,
        Sweep,
    }

    public sealed record Options
    {
        public int Steps { get; init; } = 3;

        public double? LearningRate { get; init; }

        public bool UseBias { get; init; } = true;

        public Way Way { get; init; } = Way.Sweep;

        public Part Subset { get; init; } = Part.Biases | Part.MaskLora;

        public IReadOnlyList<string> Targets { get; init; } = ["q_proj", "v_proj"];

        public string Computed => "no option";
    }

    [Fact]
    public void Every_option_has_its_name_kind_default_and_choices()
    {
        IReadOnlyList<OptionField> fields = OptionField.Of(typeof(Options));
        fields.Select(f => (f.Name, f.Kind, f.Default)).ShouldBe(
        [
            ("steps", OptionKind.Whole, "3"),
            ("learning_rate", OptionKind.Number, null),
            ("use_bias", OptionKind.Switch, "true"),
            ("way", OptionKind.Choice, "sweep"),
            ("subset", OptionKind.Choices, "both"),
            ("targets", OptionKind.Text, "q_proj,v_proj"),
        ]);
        fields[3].Choices.ShouldBe(["to_nearest", "sweep"]);
        fields[4].Choices.ShouldBe(["biases", "mask_lora"], "words for none and for several are made of these");
    }

    [Fact]
    public void A_default_given_back_as_a_word_binds_to_itself()
    {
        foreach (OptionField field in OptionField.Of(typeof(Options)).Where(f => f.Default is not null))
        {
            var bound = (Options)OptionsBinder.Bind(typeof(Options), new Dictionary<string, object?> { [field.Name] = field.Default }, "options");
            object? given = field.Property.GetValue(bound), meant = field.Property.GetValue(new Options());
            (given is IEnumerable<string> list ? string.Join('|', list) : given).ShouldBe(meant is IEnumerable<string> defaults ? string.Join('|', defaults) : meant, field.Name);
        }
    }

    [Fact]
    public void Systems_show_their_own_options_or_those_of_the_record_that_they_take()
    {
        foreach (string part in new[] { "criterion", "allocator", "repair", "quantiser", "retraining", "sparse-training", "vision", "optimizer", "adaptation" })
        {
            foreach (CatalogueEntry entry in PlanWords.Systems(part)!)
            {
                OptionField.OfSystem(entry.Implementation!).Select(f => f.Name).ShouldBeUnique($"{part} {entry.Slug}");
            }
        }

        OptionField.OfSystem(typeof(Perp)).Select(f => f.Name).ShouldContain("steps");
    }
}
