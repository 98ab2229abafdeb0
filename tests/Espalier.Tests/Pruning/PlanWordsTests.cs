using Espalier.Methods.Pruning;
using Espalier.Pruning;
using Espalier.Runtime;

namespace Espalier.Tests.Pruning;

public sealed class PlanWordsTests
{
    private static readonly PlanFile plan = PlanFile.Parse(
        """
        model: m
        prune:
          criterion: gblm
          sparsity: 0.5
          allocator:
            method: rdprune
            samples: 4
          repair: [sparsegpt, perp]
        out: o
        """, "plan.yaml");

    [Fact]
    public void A_part_given_by_its_name_becomes_a_map_and_keeps_its_other_options()
    {
        PruneRequest request = PruneRequest.Read(new[] { "prune.criterion.scale=100", "prune.allocator.levels = 10", "prune.repair=dsnot", "retrain=perp", "retrain.steps=7" }.Aggregate(plan, PlanWords.Set));
        PruningPlan made = request.ToPlan();
        made.Criterion.ShouldBeOfType<Gblm>().Scale.ShouldBe(100);
        RdPrune allocator = made.Allocator.ShouldBeOfType<RdPrune>();
        (allocator.Levels, allocator.Samples).ShouldBe((10, 4));
        made.Repair.ShouldBeOfType<DSnoT>();
        made.Retraining!.Steps.ShouldBe(7);
        PruneRequest.Read(plan).ToPlan().Criterion.ShouldBeOfType<Gblm>().Scale.ShouldBeNull();
    }

    [Theory]
    [InlineData("prune.allocator.levls=10", "'levls' is no option of rdprune", "Did you mean 'levels'?")]
    [InlineData("prune.criterion.scale=many", "The option 'gblm.scale' takes a number, not 'many'", "")]
    [InlineData("prune.sparsty=0.6", "the command line: 'prune.sparsty' is no word of a plan under 'prune'", "Did you mean 'sparsity'?")]
    [InlineData("prune.sparsity=half", "the command line: The option 'prune.sparsity' takes a number, not 'half'", "")]
    [InlineData("prune.repair.steps=3", "'prune.repair' is a list", "write 'prune.repair' as a map")]
    [InlineData("prune.sparsity.x=3", "'prune.sparsity' is '0.5'", "")]
    [InlineData("retrain.steps=3", "'retrain' has options (steps) but names no method", "")]
    [InlineData("levels", "'levels' sets nothing", "--set prune.allocator.levels=20")]
    [InlineData("prune..levels=3", "sets nothing", "")]
    public void What_cannot_be_set_gets_a_sentence(string assignment, string says, string also)
    {
        string message = Should.Throw<EspalierException>(() => PruneRequest.Read(PlanWords.Set(plan, assignment)).ToPlan()).Message;
        message.ShouldContain(says);
        message.ShouldContain(also);
    }

    [Fact]
    public void Several_parts_in_one_word_are_not_guessed_between() =>
        Should.Throw<EspalierException>(() => PlanWords.Set(PlanFile.Empty.With("prune.repair", "sparsegpt,perp"), "prune.repair.steps=3")).Message.ShouldContain("several parts");

    [Theory]
    [InlineData("criterion: gblm", "criterion: { method: gblm, scal: 3 }", "plan.yaml, line 3: 'scal' is no option of gblm")]
    [InlineData("criterion: gblm", "criterion: gblmm", "plan.yaml, line 3: 'gblmm' is no criterion")]
    [InlineData("samples: 4", "samples: four", "plan.yaml, line 7: The option 'rdprune.samples' takes a whole number, not 'four'")]
    [InlineData("perp]", "{ method: perp, stps: 3 }]", "plan.yaml, line 8: 'stps' is no option of perp")]
    [InlineData("perp]", "prep]", "known are: dsnot, flap, lrmc, perp, sparsegpt. Did you mean 'perp'?")]
    [InlineData("sparsity: 0.5", "pattern: { method: structured, rond: 8 }", "plan.yaml, line 4: 'rond' is no option of structured")]
    [InlineData("method: rdprune", "method: { a: b }", "plan.yaml, line 5: 'prune.allocator' has options")]
    public void What_is_wrong_with_a_part_is_named_with_its_line(string right, string wrong, string says)
    {
        string yaml = "model: m\nprune:\n  criterion: gblm\n  sparsity: 0.5\n  allocator:\n    method: rdprune\n    samples: 4\n  repair: [sparsegpt, perp]\nout: o";
        Should.Throw<EspalierException>(() => PruneRequest.Read(PlanFile.Parse(yaml.Replace(right, wrong), "plan.yaml")).ToPlan()).Message.ShouldContain(says);
    }

    [Theory]
    [InlineData("{ method: ecoflap, max_sparsity: 0.4 }", "max_sparsity")]
    [InlineData("{ method: rdprune, max_amount: 0.4 }", "max_amount")]
    public void A_cap_below_the_sparsity_is_refused_before_anything_is_measured(string allocator, string option) =>
        Should.Throw<EspalierException>(() => PruneRequest.Read(PlanFile.Parse($"{{ model: m, out: o, prune: {{ criterion: wanda, sparsity: 0.5, allocator: {allocator} }} }}", "p")).ToPlan()).Message.ShouldContain(option);

    [Fact]
    public void A_plan_is_described_in_the_words_of_a_plan_file()
    {
        PruningPlan made = PruneRequest.Read(PlanFile.Parse("{ model: m, out: o, prune: { criterion: gblm, sparsity: 0.5 }, retrain: { method: perp, subset: [norms, masklora] } }", "p")).ToPlan();
        made.Describe().Single(p => p.Part == "criterion").Value.ShouldBe("gblm(mode=sum, norm=l2, use_variant=false)");
        made.Describe().Single(p => p.Part == "retraining").Value.ShouldBe("perp(alpha=32, batch=8, rank=16, steps=200, subset=norms+mask_lora, weight_decay=0)");
    }

    [Theory]
    [InlineData("criterion", "flap gblm magnitude minitron random sparsegpt wanda")]
    [InlineData("Allocator", "ecoflap erk flap global rdprune uniform")]
    [InlineData("repair", "dsnot flap lrmc perp sparsegpt")]
    [InlineData("quantiser", "rtn sparsegpt")]
    [InlineData("retraining", "minitron perp prosparse")]
    public void Parts_of_a_plan_list_the_systems_that_can_stand_there(string part, string systems) =>
        string.Join(' ', PlanWords.Systems(part)!.Select(e => e.Slug).Order(StringComparer.Ordinal)).ShouldBe(systems);

    [Fact]
    public void Another_word_is_no_part() => PlanWords.Systems("wanda").ShouldBeNull();
}
