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

public sealed class LoraTests
{
    private const string Config = """{"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", "peft_version": "0.17.1", "bias": "none", "inference_mode": true, "layer_replication": null, "use_dora": false, "use_qalora": false, "trainable_token_indices": null, "loftq_config": {}, "megatron_core": "megatron.core", "init_lora_weights": true}""";

    public static TheoryData<string> Families => TinyModels.Families;

    [Theory]
    [MemberData(nameof(Families))]
    public void What_is_saved_opens_with_the_same_answers_in_the_layout_of_peft(string family)
    {
        using var folder = new TemporaryFolder();
        using LanguageModel model = TinyModels.Create(family);
        using var scope = NewDisposeScope();
        Tensor ids = TinyModels.Ids(model.Config, 2, 12);
        using AdaptationResult result = AdaptationTests.Adapt(new Lora { Rank = 3, Alpha = 5, RankStabilised = true, Train = ["norms"] }, model);
        Tensor beside = AdaptationTests.Logits(model, ids);
        result.Adapter.Save(folder.Path);

        using (SafeTensorsFile file = SafeTensorsFile.Open(folder["adapter_model.safetensors"]))
        {
            string module = model.Blocks[0].Linears[0].Name[..^".weight".Length];
            file.Info($"base_model.model.{module}.lora_A.weight").Shape.ShouldBe([3, model.Blocks[0].Linears[0].Linear.InFeatures]);
            file.Info($"base_model.model.{module}.lora_B.weight").Shape.ShouldBe([model.Blocks[0].Linears[0].Linear.OutFeatures, 3]);
            file.Metadata["format"].ShouldBe("pt");
        }

        JsonObject config = JsonNode.Parse(File.ReadAllText(folder["adapter_config.json"]))!.AsObject();
        ((int)config["r"]!).ShouldBe(3);
        ((double)config["lora_alpha"]!).ShouldBe(5);
        ((bool)config["use_rslora"]!).ShouldBeTrue();
        ((bool)config["fan_in_fan_out"]!).ShouldBe(family == "gpt2");
        config["modules_to_save"]!.AsArray().Count.ShouldBe(model.Tensors.Count(t => t.Value.dim() == 1 && t.Name.EndsWith(".weight", StringComparison.Ordinal)));

        using LanguageModel again = TinyModels.Create(family);
        using IAdaptationRun opened = AdapterFile.MethodOf(folder.Path).Begin(AdaptationContext.Of(again) with { Saved = folder.Path });
        AdaptationTests.Largest(AdaptationTests.Logits(again, ids), beside).ShouldBeLessThan(1e-5);
    }

    [Fact]
    public void Files_of_peft_are_read_with_patterns_and_other_prefixes()
    {
        using var folder = new TemporaryFolder();
        using LanguageModel model = TinyModels.Create("llama");
        using var scope = NewDisposeScope();
        Tensor a0 = randn(2, 24), b0 = randn(24, 2), a1 = randn(4, 24), b1 = randn(24, 4);
        Write(folder, Config.Replace("\"bias\"", "\"rank_pattern\": {\"layers.1.self_attn.q_proj\": 4}, \"alpha_pattern\": {\"^model.layers.[1-9].*q_proj\": 2}, \"bias\""),
            ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", a0), ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", b0),
            ("base_model.model.model.layers.1.self_attn.q_proj.lora_A.default.weight", a1), ("base_model.model.model.layers.1.self_attn.q_proj.lora_B.default.weight", b1));
        NetWeight[] q = [.. NetWeight.Of(model).Where(w => w.Name.Contains("q_proj"))];
        Tensor[] wanted = [q[0].Matrix() + (b0.mm(a0) * 3), q[1].Matrix() + (b1.mm(a1) * 0.5)];
        using IAdaptationRun opened = new Lora().Begin(AdaptationContext.Of(model) with { Saved = folder.Path });
        opened.Merge();
        AdaptationTests.Largest(q[0].Matrix(), wanted[0]).ShouldBeLessThan(1e-5);
        AdaptationTests.Largest(q[1].Matrix(), wanted[1]).ShouldBeLessThan(1e-5);

        using var copy = new TemporaryFolder();
        opened.Save(copy.Path);
        string config = File.ReadAllText(copy["adapter_config.json"]);
        config.ShouldContain("\"model.layers.1.self_attn.q_proj\": 4");
        config.ShouldContain("\"model.layers.1.self_attn.q_proj\": 2");
    }

    [Fact]
    public void Biases_of_adapted_maps_lie_where_peft_keeps_them()
    {
        using var folder = new TemporaryFolder();
        using LanguageModel model = TinyModels.Create("opt");
        using var scope = NewDisposeScope();
        Tensor ids = TinyModels.Ids(model.Config, 2, 12);
        using AdaptationResult result = AdaptationTests.Adapt(new Lora { Rank = 2, Targets = ["q_proj"], Train = ["biases"] }, model);
        result.Adapter.Save(folder.Path);
        using (SafeTensorsFile file = SafeTensorsFile.Open(folder["adapter_model.safetensors"]))
        {
            file.Names.Count(n => n.EndsWith(".q_proj.base_layer.bias", StringComparison.Ordinal)).ShouldBe(2);
            file.Names.Count(n => n.EndsWith(".k_proj.bias", StringComparison.Ordinal)).ShouldBe(2);
        }

        File.ReadAllText(folder["adapter_config.json"]).ShouldContain("\"bias\": \"all\"");
        using LanguageModel again = TinyModels.Create("opt");
        using IAdaptationRun opened = new Lora().Begin(AdaptationContext.Of(again) with { Saved = folder.Path });
        AdaptationTests.Largest(AdaptationTests.Logits(again, ids), AdaptationTests.Logits(model, ids)).ShouldBeLessThan(1e-5);
    }

    [Fact]
    public void A_convolution_is_stored_as_peft_stores_it()
    {
        using var folder = new TemporaryFolder();
        using VisionModel net = TinyVision.Make(TinyVision.ResNet);
        using var scope = NewDisposeScope();
        using IAdaptationRun run = new Lora { Rank = 2 }.Begin(AdaptationContext.Of(net));
        using (no_grad())
        {
            foreach ((string name, var value) in run.Trainable)
            {
                value.copy_(randn(value.shape) * 0.2);
            }
        }

        run.Save(folder.Path);
        Tensor beside = AdapterMerge.Probe(net)();
        using (SafeTensorsFile file = SafeTensorsFile.Open(folder["adapter_model.safetensors"]))
        {
            file.Info("base_model.model.conv1.lora_A.weight").Shape.ShouldBe([2, 3, 3, 3]);
            file.Info("base_model.model.conv1.lora_B.weight").Shape.ShouldBe([4, 2, 1, 1]);
        }

        run.Dispose();
        using IAdaptationRun opened = new Lora().Begin(AdaptationContext.Of(net) with { Saved = folder.Path });
        AdaptationTests.Largest(AdapterMerge.Probe(net)(), beside).ShouldBe(0);
    }

    [Theory]
    [InlineData("\"use_dora\": false", "\"use_dora\": true", "no lora_magnitude_vector")]
    [InlineData("\"use_dora\": false", "\"use_dora\": \"yes\"", "must be true or false")]
    [InlineData("\"peft_type\": \"LORA\"", "\"peft_type\": \"IA3\"", "IA3")]
    [InlineData("\"layer_replication\": null", "\"layer_replication\": [[0, 2]]", "layer_replication")]
    [InlineData("\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa\"", "pissa")]
    [InlineData("\"r\": 2", "\"r\": 3", "rank 3")]
    [InlineData("\"r\": 2", "\"r\": \"two\"", "must be a number")]
    [InlineData("\"r\": 2", "\"r\": 2, \"new_thing\": 5", "new_thing")]
    [InlineData("{\"peft", "{peft", "not readable JSON")]
    public void Descriptions_that_mean_something_else_are_refused(string from, string to, string says)
    {
        using var folder = new TemporaryFolder();
        using LanguageModel model = TinyModels.Create("llama");
        using var scope = NewDisposeScope();
        Write(folder, Config.Replace(from, to), ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", randn(2, 24)), ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", randn(24, 2)));
        Should.Throw<EspalierException>(() => new Lora().Begin(AdaptationContext.Of(model) with { Saved = folder.Path })).Message.ShouldContain(says);
        NetWeight.Of(model).All(w => w.Adapter is null).ShouldBeTrue();
    }

    [Theory]
    [InlineData("model.layers.0.self_attn.q_proj.lora_A.weight", "has only lora_A for model.layers.0.self_attn.q_proj")]
    [InlineData("model.layers.7.self_attn.q_proj.lora_A.weight|model.layers.7.self_attn.q_proj.lora_B.weight", "belongs to another one")]
    [InlineData("model.embed_tokens.lora_embedding_A", "lora_embedding_A")]
    [InlineData("model.layers.0.self_attn.q_proj.lora_magnitude_vector", "lora_magnitude_vector")]
    [InlineData("model.what.weight", "no parameter of this net")]
    public void Files_that_do_not_fit_are_refused(string names, string says)
    {
        using var folder = new TemporaryFolder();
        using LanguageModel model = TinyModels.Create("llama");
        using var scope = NewDisposeScope();
        Write(folder, Config, [.. names.Split('|').Select(n => ($"base_model.model.{n}", n.Contains("_B") ? randn(24, 2) : randn(2, 24)))]);
        Should.Throw<EspalierException>(() => new Lora().Begin(AdaptationContext.Of(model) with { Saved = folder.Path })).Message.ShouldContain(says);
    }

    [Fact]
    public void On_a_pruned_base_training_is_masked_and_a_foreign_adapter_is_not_merged()
    {
        using var folder = new TemporaryFolder();
        using LanguageModel model = TinyModels.Create("llama");
        Dictionary<string, SparsityMask> masks = TinyRetraining.Prune(model.Blocks);
        using var scope = NewDisposeScope();
        Tensor ids = TinyModels.Ids(model.Config, 2, 12);
        using (AdaptationResult result = AdaptationTests.Adapt(new Lora { Rank = 2 }, model, masks))
        {
            result.Adapter.Save(folder.Path);
        }

        Should.Throw<EspalierException>(() => new Lora().Begin(AdaptationContext.Of(model) with { Saved = folder.Path })).Message.ShouldContain("has no masks");
        using (IAdaptationRun own = new Lora().Begin(AdaptationContext.Of(model, masks) with { Saved = folder.Path }))
        {
            AdapterMerge.Fold(own, () => AdaptationTests.Logits(model, ids)).Largest.ShouldBeLessThan(1e-4);
            NetWeight.Of(model).All(w => masks[w.Name].Revived(w.Matrix()) == 0).ShouldBeTrue();
        }

        using var foreign = new TemporaryFolder();
        Write(foreign, Config, ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", randn(2, 24)), ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", randn(24, 2)));
        using IAdaptationRun other = new Lora().Begin(AdaptationContext.Of(model, masks) with { Saved = foreign.Path });
        byte[] before = AdaptationTests.Bytes(model);
        Should.Throw<EspalierException>(other.Merge).Message.ShouldContain("pruned weights");
        AdaptationTests.Bytes(model).ShouldBe(before);
    }

    [Fact]
    public void Adapters_are_switched_and_added_by_weight()
    {
        using TemporaryFolder one = new(), two = new();
        using LanguageModel model = TinyModels.Create("gpt2");
        using var scope = NewDisposeScope();
        byte[] start = AdaptationTests.Bytes(model);
        Tensor ids = TinyModels.Ids(model.Config, 2, 12);
        Tensor[] own = [Saved(one, new Lora { Rank = 2 }), Saved(two, new Lora { Rank = 3, Targets = ["attn.c_attn"] })];
        NetWeight shared = NetWeight.Of(model).First(w => w.Name.Contains("c_attn"));
        Tensor w0 = shared.Matrix().clone();
        using (var shelf = new AdapterShelf(AdaptationContext.Of(model)))
        {
            shelf.Add("one", one.Path);
            shelf.Add("two", two.Path, AdapterMerge.Probe(model))!.Largest.ShouldBeLessThan(1e-3);
            AdaptationTests.Bytes(model).ShouldBe(start);
            shelf.Use(("one", 1));
            Tensor w1 = shared.Matrix().clone();
            AdaptationTests.Largest(AdaptationTests.Logits(model, ids), own[0]).ShouldBeLessThan(1e-4);
            shelf.Use(("two", 1));
            Tensor w2 = shared.Matrix().clone();
            AdaptationTests.Largest(AdaptationTests.Logits(model, ids), own[1]).ShouldBeLessThan(1e-4);
            shelf.Use(("one", 0.5), ("two", -2));
            AdaptationTests.Largest(shared.Matrix(), w0 + ((w1 - w0) * 0.5) - ((w2 - w0) * 2)).ShouldBeLessThan(1e-5);
            Should.Throw<EspalierException>(() => shelf.Use(("three", 1))).Message.ShouldContain("one, two");
            Should.Throw<EspalierException>(() => shelf.Add("one", one.Path)).Message.ShouldContain("already");
        }

        AdaptationTests.Bytes(model).ShouldBe(start);

        Tensor Saved(TemporaryFolder folder, Lora method)
        {
            using AdaptationResult result = AdaptationTests.Adapt(method, model);
            result.Adapter.Save(folder.Path);
            return AdaptationTests.Logits(model, ids);
        }
    }

    [Fact]
    public void Options_out_of_range_are_answered_with_a_sentence()
    {
        Should.Throw<EspalierException>(() => new Lora { Rank = 0 }).Message.ShouldBe("A rank of 0 is not possible for lora; it must be at least 1.");
        Should.Throw<EspalierException>(() => new Lora { Alpha = -1 });
        Should.Throw<EspalierException>(() => new Lora { Dropout = 1 });
    }

    internal static void Write(TemporaryFolder folder, string config, params (string Name, Tensor Value)[] tensors)
    {
        File.WriteAllText(folder["adapter_config.json"], config);
        SafeTensorsFile.Save(folder["adapter_model.safetensors"], tensors, new Dictionary<string, string> { ["format"] = "pt" });
    }
}
