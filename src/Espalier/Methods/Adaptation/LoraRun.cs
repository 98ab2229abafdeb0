using System.Globalization;
using Espalier.Methods.Retraining;
using Espalier.Models;
using Espalier.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>A run of LoRA: draws what is dropped, and writes PEFT's files.</summary>
internal sealed class LoraRun(Lora method, AdaptationContext context, IReadOnlyList<NetWeight> targets, IReadOnlyList<ILinearAdapter> adapters, IReadOnlyList<(string Name, Parameter Value)> whole)
    : WeightAdaptationRun(method, context, targets, adapters, whole)
{
    private Generator? _drops;

    public override void BeforeStep(TrainingStep step)
    {
        if (method.Dropout > 0)
        {
            // By step, so that a resumed run draws the same.
            Drop(Context.Seed.Generator(string.Create(CultureInfo.InvariantCulture, $"dropout {step.Index}")));
        }
    }

    public override void AfterBackward(TrainingStep step) => Drop(null);

    public override void Save(string folder) => PeftFolder.Save(folder, this, method);

    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        _drops?.Dispose();
    }

    private void Drop(Generator? generator)
    {
        _drops?.Dispose();
        _drops = generator;
        foreach (LoraAdapter adapter in Adapters.OfType<LoraAdapter>())
        {
            adapter.Drops = generator;
        }
    }
}
