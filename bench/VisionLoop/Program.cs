using System.Diagnostics;
using System.Globalization;
using Espalier.Data;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using Espalier.VisionLoop;
using static TorchSharp.torch;

// Images per second of the training loop (with its batches, augmentation, checks and masks' upkeep) against a bare TorchSharp loop that trains the
// same ResNet on one ready batch, in turns. Processor time is compared too: on a busy machine it is the steadier figure. Arguments: depth, images a step, steps a round, rounds, threads.
int depth = Number(0, 20), batch = Number(1, 64), steps = Number(2, 10), rounds = Number(3, 7);
NativeLibraries.EnsureLoaded();
set_num_threads(Number(4, 1));
using ImageTensors images = Noise(512);
using VisionModel ours = VisionModel.Random(VisionConfig.Parse($$"""{"model_type": "cifar_resnet", "depth": {{depth}}}"""), new Seed(0));
using var bare = new BareResNet(depth);
bare.train();
var options = new TrainingOptions { Steps = steps, LearningRate = 0.01, Optimizer = "sgd", Momentum = 0.9, WeightDecay = 1e-4, Schedule = "constant" };
var training = new VisionTraining(options) { Batch = batch, Augmentation = ImageAugmentation.Cifar };
var pairs = new List<(Times Loop, Times Bare)>();
for (int round = 0; round <= rounds; round++)
{
    Times loop = Measure(() => training.Run(ours, images)), other = Measure(Bare);
    if (round > 0)
    {
        // The first round of each warms up.
        pairs.Add((loop, other));
    }
}

Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
    $"ResNet-{depth}, {batch} images a step, {get_num_threads()} threads, {rounds} pairs: the loop {batch * steps / Median(p => p.Loop.Wall):0} images/s, bare {batch * steps / Median(p => p.Bare.Wall):0} images/s"));
Show("time", p => p.Loop.Wall / p.Bare.Wall);
Show("processor time", p => p.Loop.Processor / p.Bare.Processor);

void Show(string what, Func<(Times Loop, Times Bare), double> ratio) => Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
    $"{what}, loop to bare: {Median(ratio):0.000} ({pairs.Min(ratio):0.000} to {pairs.Max(ratio):0.000})"));

static Times Measure(Action work)
{
    TimeSpan before = Environment.CpuUsage.TotalTime;
    var clock = Stopwatch.StartNew();
    work();
    return new Times(clock.Elapsed.TotalSeconds, (Environment.CpuUsage.TotalTime - before).TotalSeconds);
}

void Bare()
{
    using var scope = NewDisposeScope();
    using var optimizer = optim.SGD(bare.parameters(), 0.01, 0.9, weight_decay: 1e-4);
    (Tensor x, Tensor y) = new ImageBatches(images, batch).Shuffled(0);
    for (int step = 0; step < steps; step++)
    {
        using var inner = NewDisposeScope();
        optimizer.zero_grad();
        Tensor loss = nn.functional.cross_entropy(bare.forward(x), y);
        loss.backward();
        optimizer.step();
    }
}

int Number(int place, int standard) => args.Length > place ? int.Parse(args[place], CultureInfo.InvariantCulture) : standard;

double Median(Func<(Times Loop, Times Bare), double> figure) => pairs.Select(figure).Order().ElementAt(pairs.Count / 2);

static ImageTensors Noise(int count)
{
    using var scope = NewDisposeScope();
    using Generator generator = new Seed(0).Generator("images");
    Tensor pixels = (rand([count, 3, 32, 32], generator: generator) * 255).to(ScalarType.Byte);
    return new ImageTensors("noise", pixels, arange(count, ScalarType.Int64).remainder(10));
}

internal sealed record Times(double Wall, double Processor);
