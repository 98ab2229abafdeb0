using System.Text.Json.Nodes;
using Espalier.Checkpoints;
using Espalier.Methods.Adaptation;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Tests.Methods.Retraining;
using Espalier.Tests.Models;
using Espalier.Tests.Models.Vision;
using Espalier.Tests.Training;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Adaptation;

public sealed class DoraTests
{
    private const string Config = """{"peft_type": "LORA", "r": 2, "lora_alpha": 6, "use_dora": true, "use_rslora": false, "target_modules": ["q_proj"], "bias": "none", "runtime_config": {"ephemeral_gpu_offload": false}}""";

    private const string Query = "base_model.model.model.layers.0.self_attn.q_proj.";

    public static TheoryData<string> Families => TinyModels.Families;

    [Theory]
    [MemberData(nameof(Families))]
    public void What_is_saved_opens_with_the_same_answers_in_the_layout_of_peft(string family)
    {
        using var folder = new TemporaryFolder();
        using LanguageModel model = TinyModels.Create(family);
        using var scope = NewDisposeScope();
        Tensor ids = TinyModels.Ids(model.Config, 2, 12);
        using AdaptationResult result = AdaptationTests.Adapt(new Dora { Rank = 3, Alpha = 5, RankStabilised = true, Train = ["norms"] }, model);
        Tensor beside = AdaptationTests.Logits(model, ids);
        File.WriteAllText(folder["adapter.safetensors"], "of another adapter that was here before");
        result.Adapter.Save(folder.Path);

        File.Exists(folder["adapter.safetensors"]).ShouldBeFalse();
        using (SafeTensorsFile file = SafeTensorsFile.Open(folder["adapter_model.safetensors"]))
        {
            (string name, Linear map) = (model.Blocks[0].Linears[0].Name[..^".weight".Length], model.Blocks[0].Linears[0].Linear);
            file.Info($"base_model.model.{name}.lora_A.weight").Shape.ShouldBe([3, map.InFeatures]);
            file.Info($"base_model.model.{name}.lora_B.weight").Shape.ShouldBe([map.OutFeatures, 3]);
            file.Info($"base_model.model.{name}.lora_magnitude_vector").Shape.ShouldBe([map.OutFeatures]);
        }

        JsonObject config = JsonNode.Parse(File.ReadAllText(folder["adapter_config.json"]))!.AsObject();
        ((string?)config["peft_type"]).ShouldBe("LORA");
        ((bool)config["use_dora"]!).ShouldBeTrue();
        ((bool)config["use_rslora"]!).ShouldBeTrue();
        ((double)config["lora_alpha"]!).ShouldBe(5);
        config["alpha_pattern"]!.AsObject().Count.ShouldBe(0);

        AdapterFile.MethodOf(folder.Path).ShouldBeOfType<Dora>();
        foreach (IAdaptation method in new IAdaptation[] { AdapterFile.MethodOf(folder.Path), new Lora(), new Dora() })
        {
            using LanguageModel again = TinyModels.Create(family);
            using IAdaptationRun opened = method.Begin(AdaptationContext.Of(again) with { Saved = folder.Path });
            opened.Name.ShouldBe("dora");
            AdaptationTests.Largest(AdaptationTests.Logits(again, ids), beside).ShouldBeLessThan(1e-5);
            AdapterMerge.Fold(opened, () => AdaptationTests.Logits(again, ids)).Largest.ShouldBeLessThan(1e-4);
        }
    }

    [Theory]
    [InlineData("lora_magnitude_vector", false)]
    [InlineData("lora_magnitude_vector.weight", false)]
    [InlineData("lora_magnitude_vector.default.weight", true)]
    public void Files_of_peft_are_computed_by_its_formula(string magnitude, bool stabilised)
    {
        using var folder = new TemporaryFolder();
        using LanguageModel model = TinyModels.Create("llama");
        using var scope = NewDisposeScope();
        Tensor a = randn(2, 24), b = randn(24, 2), m = rand(24) + 0.5;
        LoraTests.Write(folder, Config.Replace("\"use_rslora\": false", $"\"use_rslora\": {(stabilised ? "true" : "false")}"), (Query + "lora_A.weight", a), (Query + "lora_B.weight", b), (Query + magnitude, m));
        NetWeight q = NetWeight.Of(model).First(w => w.Name.Contains("q_proj"));
        float[,] wanted = ByHand(q.Matrix(), a, b, m, stabilised ? 6 / Math.Sqrt(2) : 3);
        using IAdaptationRun opened = AdapterFile.MethodOf(folder.Path).Begin(AdaptationContext.Of(model) with { Saved = folder.Path });
        Tensor x = randn(3, 24), beside = q.Adapter!.Forward(x, q.Matrix(), null);
        opened.Merge();
        AdaptationTests.Largest(q.Matrix(), tensor(wanted)).ShouldBeLessThan(1e-5);
        AdaptationTests.Largest(beside, x.mm(tensor(wanted).t())).ShouldBeLessThan(1e-4);
    }

    [Fact]
    public void A_convolution_is_stored_and_computed_as_by_peft()
    {
        using TemporaryFolder folder = new(), copy = new();
        using VisionModel net = TinyVision.Make(TinyVision.ResNet);
        using var scope = NewDisposeScope();
        Tensor a = randn(2, 3, 3, 3), b = randn(4, 2, 1, 1), m = rand(1, 4, 1, 1) + 0.5;
        const string conv = "base_model.model.conv1.";
        LoraTests.Write(folder, Config, (conv + "lora_A.weight", a), (conv + "lora_B.weight", b), (conv + "lora_magnitude_vector", m));
        NetWeight first = NetWeight.Of(net)[0];
        float[,] wanted = ByHand(first.Matrix(), a.flatten(1), b.flatten(1), m.flatten(), 3);
        using (IAdaptationRun opened = new Lora().Begin(AdaptationContext.Of(net) with { Saved = folder.Path }))
        {
            opened.Save(copy.Path);
            Tensor used = first.Adapter!.Weight(first.Matrix());
            AdaptationTests.Largest(used, tensor(wanted)).ShouldBeLessThan(1e-5);
            AdapterMerge.Fold(opened, AdapterMerge.Probe(net)).Largest.ShouldBeLessThan(1e-4);
            opened.Unmerge();
        }

        using SafeTensorsFile one = SafeTensorsFile.Open(folder["adapter_model.safetensors"]), two = SafeTensorsFile.Open(copy["adapter_model.safetensors"]);
        two.Names.Order().ShouldBe(one.Names.Order());
        one.Names.ShouldAllBe(n => two.Info(n).Shape.SequenceEqual(one.Info(n).Shape) && two.Read(n).eq(one.Read(n)).all().item<bool>());
    }

    [Fact]
    public void Ranks_and_strengths_of_single_modules_are_kept()
    {
        using TemporaryFolder folder = new(), copy = new();
        using LanguageModel model = TinyModels.Create("llama");
        using var scope = NewDisposeScope();
        LoraTests.Write(folder, Config.Replace("\"bias\"", "\"rank_pattern\": {\"q_proj\": 4}, \"alpha_pattern\": {\"q_proj\": 2}, \"bias\""), (Query + "lora_A.weight", randn(4, 24)), (Query + "lora_B.weight", randn(24, 4)), (Query + "lora_magnitude_vector", rand(24)));
        using IAdaptationRun opened = new Dora().Begin(AdaptationContext.Of(model) with { Saved = folder.Path });
        ((DoraAdapter)NetWeight.Of(model)[0].Adapter!).Scaling.ShouldBe(0.5);
        opened.Save(copy.Path);
        string config = File.ReadAllText(copy["adapter_config.json"]);
        config.ShouldContain("\"model.layers.0.self_attn.q_proj\": 4");
        config.ShouldContain("\"model.layers.0.self_attn.q_proj\": 2");
    }

    [Fact]
    public void On_a_pruned_base_training_is_masked_and_a_foreign_adapter_is_not_merged()
    {
        using TemporaryFolder folder = new(), foreign = new();
        using LanguageModel model = TinyModels.Create("llama");
        Dictionary<string, SparsityMask> masks = TinyRetraining.Prune(model.Blocks);
        using var scope = NewDisposeScope();
        Tensor ids = TinyModels.Ids(model.Config, 2, 12), beside;
        using (AdaptationResult result = AdaptationTests.Adapt(new Dora { Rank = 2 }, model, masks))
        {
            beside = AdaptationTests.Logits(model, ids);
            result.Adapter.Save(folder.Path);
        }

        Should.Throw<EspalierException>(() => new Dora().Begin(AdaptationContext.Of(model) with { Saved = folder.Path })).Message.ShouldContain("has no masks");
        using (IAdaptationRun own = new Dora().Begin(AdaptationContext.Of(model, masks) with { Saved = folder.Path }))
        {
            AdaptationTests.Largest(AdaptationTests.Logits(model, ids), beside).ShouldBeLessThan(1e-6);
            AdapterMerge.Fold(own, () => AdaptationTests.Logits(model, ids)).Largest.ShouldBeLessThan(1e-4);
            NetWeight.Of(model).All(w => masks[w.Name].Revived(w.Matrix()) == 0).ShouldBeTrue();
            own.Unmerge();
        }

        Tensor a = randn(2, 24), b = randn(24, 2), m = rand(24);
        LoraTests.Write(foreign, Config, (Query + "lora_A.weight", a), (Query + "lora_B.weight", b), (Query + "lora_magnitude_vector", m));
        NetWeight q = NetWeight.Of(model)[0];
        byte[] before = AdaptationTests.Bytes(model);
        using (IAdaptationRun other = new Dora().Begin(AdaptationContext.Of(model, masks) with { Saved = foreign.Path }))
        {
            AdaptationTests.Largest(q.Adapter!.Weight(q.Matrix()), tensor(ByHand(q.Matrix(), a, b, m, 3))).ShouldBeLessThan(1e-5);
            Should.Throw<EspalierException>(other.Merge).Message.ShouldContain("pruned weights");
            AdaptationTests.Bytes(model).ShouldBe(before);
        }

        using IAdaptationRun filled = new Dora().Begin(AdaptationContext.Of(model) with { Saved = foreign.Path });
        filled.Merge();
        AdaptationTests.Bytes(model).ShouldNotBe(before);
    }

    [Fact]
    public void Folders_of_the_first_layout_open()
    {
        using TemporaryFolder folder = new(), copy = new();
        using LanguageModel model = TinyModels.Create("llama");
        using var scope = NewDisposeScope();
        Tensor a = randn(2, 24), b = randn(24, 2), m = rand(24);
        const string module = "model.layers.0.self_attn.q_proj";
        AdapterFile.Save(folder.Path, new Dora { Rank = 2, Alpha = 6 }, [($"{module}.lora_A", a), ($"{module}.lora_B", b), ($"{module}.magnitude", m)], new Dictionary<string, string> { ["targets"] = module });
        NetWeight q = NetWeight.Of(model)[0];
        float[,] wanted = ByHand(q.Matrix(), a, b, m, 3);
        using IAdaptationRun opened = AdapterFile.MethodOf(folder.Path).Begin(AdaptationContext.Of(model) with { Saved = folder.Path });
        AdaptationTests.Largest(q.Adapter!.Weight(q.Matrix()), tensor(wanted)).ShouldBeLessThan(1e-5);
        opened.Save(copy.Path);
        File.Exists(copy["adapter_config.json"]).ShouldBeTrue();
    }

    [Theory]
    [InlineData("lora_A.weight 2 24|lora_B.weight 24 2", "sets use_dora")]
    [InlineData("lora_magnitude_vector 24", "not both of lora_A and lora_B")]
    [InlineData("lora_A.weight 2 24|lora_B.weight 24 2|lora_magnitude_vector 2", "of model.layers.0.self_attn.q_proj is [2]; this linear map needs [24]")]
    [InlineData("lora_A.weight 2 24|lora_B.weight 24 2|lora_magnitude_vector 1 24 1 1", "this linear map needs [24]")]
    [InlineData("lora_A.weight 2 12|lora_B.weight 24 2|lora_magnitude_vector 24", "needs [r, 24] and [24, r]")]
    [InlineData("lora_A.weight 3 24|lora_B.weight 24 3|lora_magnitude_vector 24", "the rank 2")]
    [InlineData("lora_A.weight 2 24|lora_B.weight 24 2|lora_magnitude_vector 24|lora_magnitude_vector.weight 24", "several adapters")]
    public void Files_that_do_not_fit_are_refused(string tensors, string says)
    {
        using var folder = new TemporaryFolder();
        using LanguageModel model = TinyModels.Create("llama");
        using var scope = NewDisposeScope();
        LoraTests.Write(folder, Config, [.. tensors.Split('|').Select(t => t.Split(' ')).Select(t => (Query + t[0], randn([.. t.Skip(1).Select(long.Parse)])))]);
        Should.Throw<EspalierException>(() => new Dora().Begin(AdaptationContext.Of(model) with { Saved = folder.Path })).Message.ShouldContain(says);
        NetWeight.Of(model).All(w => w.Adapter is null).ShouldBeTrue();
    }

    [Fact]
    public void A_magnitude_of_a_linear_map_does_not_fit_a_convolution()
    {
        using var folder = new TemporaryFolder();
        using VisionModel net = TinyVision.Make(TinyVision.ResNet);
        using var scope = NewDisposeScope();
        const string conv = "base_model.model.conv1.";
        LoraTests.Write(folder, Config, (conv + "lora_A.weight", randn(2, 3, 3, 3)), (conv + "lora_B.weight", randn(4, 2, 1, 1)), (conv + "lora_magnitude_vector", rand(4)));
        Should.Throw<EspalierException>(() => new Dora().Begin(AdaptationContext.Of(net) with { Saved = folder.Path })).Message.ShouldContain("this convolution needs [1, 4, 1, 1]");
    }

    /// <summary>W' row by row in double precision: m·(W + s·B·A)/‖W + s·B·A‖.</summary>
    private static float[,] ByHand(Tensor w, Tensor a, Tensor b, Tensor m, double s)
    {
        long rows = w.shape[0], columns = w.shape[1], rank = a.shape[0];
        float[] wv = [.. w.contiguous().data<float>()], av = [.. a.contiguous().data<float>()], bv = [.. b.contiguous().data<float>()], mv = [.. m.contiguous().data<float>()];
        var result = new float[rows, columns];
        for (long i = 0; i < rows; i++)
        {
            double[] row = [.. Enumerable.Range(0, (int)columns).Select(j => wv[(i * columns) + j] + (s * Enumerable.Range(0, (int)rank).Sum(k => (double)bv[(i * rank) + k] * av[(k * columns) + j])))];
            double norm = Math.Sqrt(row.Sum(v => v * v));
            for (int j = 0; j < columns; j++)
            {
                result[i, j] = (float)(mv[i] * row[j] / norm);
            }
        }

        return result;
    }
}
