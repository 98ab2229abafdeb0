using Espalier.Models;
using Espalier.Runtime;
using TorchSharp;
using static TorchSharp.torch;

namespace Espalier.Tests.Models;

public sealed class StreamedModelTests
{
    public static TheoryData<string> Families => TinyModels.Families;

    [Theory]
    [MemberData(nameof(Families))]
    public void Part_by_part_gives_the_logits_of_the_whole(string family)
    {
        ModelConfig config = TinyModels.Config(family);
        using MemoryTensors tensors = TinyModels.Tensors(config);
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using LanguageModel whole = LanguageModel.Load(config, tensors);
        using var streamed = new StreamedModel(config, tensors);
        Tensor ids = TinyModels.Ids(config, 2, 7);
        Tensor x;
        using (Embedding embedding = streamed.LoadEmbedding())
        {
            x = embedding.Forward(ids, 0);
        }

        for (int i = 0; i < streamed.BlockCount; i++)
        {
            using DecoderBlock block = streamed.LoadBlock(i);
            block.Tensors.Select(t => t.Name).ShouldBe(streamed.BlockTensorNames(i));
            x = block.Forward(x);
        }

        using OutputHead head = streamed.LoadHead();
        head.Forward(x).equal(whole.Logits(ids)).all().item<bool>().ShouldBeTrue();
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Linears_come_in_calibration_order_under_their_checkpoint_names(string family)
    {
        ModelConfig config = TinyModels.Config(family);
        using MemoryTensors tensors = TinyModels.Tensors(config);
        using var streamed = new StreamedModel(config, tensors);
        using DecoderBlock block = streamed.LoadBlock(1);
        block.Linears.Select(l => l.Stage).ShouldBeInOrder();
        var order = new List<Espalier.Models.Linear>();
        foreach (BlockLinear linear in block.Linears)
        {
            tensors.Contains(linear.Name).ShouldBeTrue(linear.Name);
            tensors.Info(linear.Name).Shape.ShouldBe(linear.Linear.weight.shape);
            linear.Linear.InputObserver = _ => order.Add(linear.Linear);
        }

        using var scope = NewDisposeScope();
        block.Forward(randn(1, 4, config.HiddenSize));
        order.Count.ShouldBe(block.Linears.Count);
        order.Select(o => block.Linears.First(l => l.Linear == o).Stage).ShouldBeInOrder();
        block.Linears.Count.ShouldBe(block.Tensors.Count(t => t.Value.dim() == 2));
    }

    [Fact]
    public void Opening_takes_no_memory_and_loading_gives_it_back()
    {
        ModelConfig config = TinyModels.Config("llama", ("tie_word_embeddings", true));
        using MemoryTensors tensors = TinyModels.Tensors(config);
        DisposeScopeManager.Statistics.Reset();
        using (var streamed = new StreamedModel(config, tensors))
        {
            DisposeScopeManager.Statistics.ThreadTotalLiveCount.ShouldBe(0);
            streamed.LoadHead().Dispose();
            streamed.LoadBlock(0).Dispose();
            DisposeScopeManager.Statistics.ThreadTotalLiveCount.ShouldBe(0);
        }
    }

    [Theory]
    [InlineData(ScalarType.Float32, 1e-6f)]
    [InlineData(ScalarType.BFloat16, 0.02f)]
    [InlineData(ScalarType.Float16, 0.002f)]
    public void A_folder_is_read_in_whatever_type_it_is_stored(ScalarType type, float tolerance)
    {
        ModelConfig config = TinyModels.Config("gpt2");
        using var folder = new TemporaryFolder();
        TinyModels.Write(folder.Path, config, seed: 4, type);
        using LanguageModel expected = TinyModels.Create(config, seed: 4);
        using var streamed = StreamedModel.Open(folder.Path);
        using LanguageModel whole = LanguageModel.Load(folder.Path);
        using DecoderBlock block = streamed.LoadBlock(1);
        using var scope = NewDisposeScope();
        foreach (((string name, var a), (_, var b), (_, var c)) in block.Tensors.Zip(whole.Blocks[1].Tensors, expected.Blocks[1].Tensors))
        {
            a.dtype.ShouldBe(ScalarType.Float32);
            a.equal(b).all().item<bool>().ShouldBeTrue(name);
            (a - c).abs().max().item<float>().ShouldBeLessThan(tolerance, name);
        }
    }

    [Fact]
    public void A_folder_without_weights_is_a_sentence_and_leaves_no_file_open()
    {
        ModelConfig config = TinyModels.Config("opt");
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["config.json"], config.ToJsonText());
        Should.Throw<EspalierException>(() => StreamedModel.Open(folder.Path));
        TinyModels.Write(folder.Path, config);
        File.WriteAllText(folder["config.json"], config.With("num_hidden_layers", 3).ToJsonText());
        Should.Throw<EspalierException>(() => StreamedModel.Open(folder.Path)).Message.ShouldContain("16 tensors are missing");
    }

    [Fact]
    public void Faults_show_when_it_is_opened()
    {
        ModelConfig config = TinyModels.Config("gpt_neox");
        using MemoryTensors tensors = TinyModels.Tensors(config);
        tensors.Remove("gpt_neox.layers.1.attention.dense.bias");
        Should.Throw<EspalierException>(() => new StreamedModel(config, tensors)).Message.ShouldContain("1 tensor is missing (gpt_neox.layers.1.attention.dense.bias)");
    }
}
