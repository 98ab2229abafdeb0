using Espalier.Catalogue;
using Espalier.Methods.Pruning;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Tests.Models;
using Espalier.Training;
using TorchSharp.Modules;
using static Espalier.Tests.Methods.Retraining.TinyRetraining;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Retraining;

public sealed class DistillationTests
{
    private const HiddenPlaces Everywhere = HiddenPlaces.Embedding | HiddenPlaces.AttentionInput | HiddenPlaces.MlpInput | HiddenPlaces.BlockOutput;

    [Theory]
    [InlineData("llama", LogitDistance.Kld, HiddenPlaces.None)]
    [InlineData("llama", LogitDistance.Cosine, Everywhere)]
    [InlineData("gpt2", LogitDistance.Rkld, HiddenPlaces.None)]
    [InlineData("gpt_neox", LogitDistance.Mse, HiddenPlaces.BlockOutput)]
    [InlineData("opt", LogitDistance.Kld, Everywhere)]
    public void A_pruned_student_comes_closer_to_its_teacher_and_keeps_its_zeros(string family, LogitDistance distance, HiddenPlaces places)
    {
        using var folder = new TemporaryFolder();
        using MemoryTensors tensors = TinyModels.Tensors(TinyModels.Config(family));
        using var dense = new StreamedModel(TinyModels.Config(family), tensors);
        using LanguageModel student = TinyModels.Create(family);
        Dictionary<string, SparsityMask> masks = Prune(student.Blocks);
        double before = Distance(student, dense);
        long live = Parameters.LiveTensors;
        RetrainingResult result = new Minitron { Steps = 40, LearningRate = 1e-2, Distance = distance, HiddenStates = places }.Retrain(Context(student, masks, folder.Path, dense: dense));
        (Parameters.LiveTensors - live).ShouldBeLessThanOrEqualTo(0, "native tensors outlived the distillation");
        result.Losses.TakeLast(3).Average().ShouldBeLessThan(result.Losses.Take(3).Average());
        Distance(student, dense).ShouldBeLessThan(0.7 * before);
        Revived(student, masks).ShouldBe(0);
        result.Trained.ShouldBe(student.ParameterCount);
        result.LossName.ShouldContain(distance.ToString().ToLowerInvariant());
        student.Blocks.SelectMany(b => b.Linears).ShouldAllBe(l => l.Linear.InputObserver == null);
    }

    [Fact]
    public void A_streamed_teacher_gives_the_bytes_of_a_resident_one()
    {
        using MemoryTensors tensors = TinyModels.Tensors(TinyModels.Config("llama"));
        using var dense = new StreamedModel(TinyModels.Config("llama"), tensors);
        Train(TeacherPlacement.Streamed).ShouldBe(Train(TeacherPlacement.Resident));

        byte[] Train(TeacherPlacement place)
        {
            using var folder = new TemporaryFolder();
            using LanguageModel student = TinyModels.Create("llama");
            var listener = new Listener();
            new Minitron { Steps = 5, HiddenStates = Everywhere, Teacher = place }.Retrain(Context(student, Prune(student.Blocks), folder.Path, listener, dense));
            listener.Said.ShouldContain(s => s.Contains(place == TeacherPlacement.Streamed ? "block by block" : "in memory"));
            return Bytes(student);
        }
    }

    [Fact]
    public void A_memory_budget_decides_where_the_teacher_is_kept()
    {
        Said(null).ShouldContain("in memory");
        Said(1).ShouldContain("block by block");
        Said(1L << 50).ShouldContain("in memory");

        static string Said(long? memory)
        {
            using var folder = new TemporaryFolder();
            using MemoryTensors tensors = TinyModels.Tensors(TinyModels.Config("llama"));
            using var dense = new StreamedModel(TinyModels.Config("llama"), tensors);
            using LanguageModel student = TinyModels.Create("llama", 1);
            RetrainingContext plain = Context(student, new Dictionary<string, SparsityMask>(), folder.Path);
            var listener = new Listener();
            new Minitron { Steps = 1 }.Retrain(new RetrainingContext
            {
                Model = student, Dense = dense, Masks = plain.Masks, Batches = plain.Batches, Memory = memory, Seed = plain.Seed, StateFolder = folder.Path, Progress = listener,
            });
            return listener.Said.Single(s => s.Contains("teacher"));
        }
    }

    [Theory]
    [InlineData(true, false, HiddenPlaces.None)]
    [InlineData(false, true, HiddenPlaces.None)]
    [InlineData(true, true, Everywhere)]
    public void Logits_in_parts_give_the_loss_and_gradients_of_all_at_once(bool tied, bool crossEntropy, HiddenPlaces places)
    {
        using var scope = NewDisposeScope();
        ModelConfig config = TinyModels.Config("llama", ("tie_word_embeddings", tied));
        using MemoryTensors tensors = TinyModels.Tensors(config);
        using var dense = new StreamedModel(config, tensors);
        using LanguageModel student = TinyModels.Create(config, 1);
        foreach ((_, Parameter value) in student.Tensors)
        {
            value.requires_grad = true;
        }

        Parameter projection = Parameters.Of(eye(24) * 0.9);
        using DistillationTeacher teacher = DistillationTeacher.Resident(dense, CPU, SilentProgress.Instance);
        Tensor ids = TinyModels.Ids(config, 2, 12);
        var options = new Minitron { Temperature = 2, UseCrossEntropy = crossEntropy, HiddenStates = places };

        // All at once, with the checked operation; the mean over places by hand.
        var seen = new HiddenStates();
        Tensor hidden = student.Blocks.Aggregate(seen.Through(student.Embedding, ids, places), (h, block) => seen.Through(block, h, places));
        (Tensor target, HiddenStates wanted) = teacher.Answer(ids, places);
        Tensor answers = zeros(1);
        teacher.WithHead(head => answers = head.Forward(target));
        MinitronLoss whole = options.Loss(student.Head.Forward(hidden), answers, labels: LanguageModelObjective.Next(ids));
        Tensor expected = whole.Loss;
        if (places is not HiddenPlaces.None)
        {
            seen.Kept.Count.ShouldBe(7);
            Tensor states = stack([.. seen.Kept.Select(k => (seen[k.Place, k.Block].matmul(projection.t()) - wanted[k.Place, k.Block]).square().mean())]).mean();
            expected = expected + (whole.Logits / states).detach() * states;
        }

        expected.backward();
        Dictionary<string, Tensor> gradients = student.Tensors.ToDictionary(t => t.Name, t => t.Value.grad!.clone());
        Tensor? ofProjection = projection.grad?.clone();
        foreach ((_, Parameter value) in student.Tensors)
        {
            value.grad = null;
        }

        projection.grad = null;
        Tensor loss = new MinitronObjective(options, student, teacher, (_, _) => ids, projection) { TokensAtOnce = 5 }.Loss(0, 0);
        loss.item<float>().ShouldBe(expected.item<float>(), 1e-5f);
        loss.backward();
        foreach ((string name, Parameter value) in student.Tensors)
        {
            value.grad!.allclose(gradients[name], 1e-4, 1e-6).ShouldBeTrue(name);
        }

        if (ofProjection is not null)
        {
            projection.grad!.allclose(ofProjection, 1e-4, 1e-6).ShouldBeTrue();
        }
    }

    [Fact]
    public void A_narrower_and_shallower_student_learns_through_the_projection()
    {
        using var folder = new TemporaryFolder();
        ModelConfig large = TinyModels.Config("llama", ("num_hidden_layers", 3));
        using MemoryTensors tensors = TinyModels.Tensors(large);
        using var dense = new StreamedModel(large, tensors);
        using LanguageModel student = TinyModels.Create(TinyModels.Config("llama", ("hidden_size", 16), ("intermediate_size", 20)), 4);
        double before = Distance(student, dense);
        RetrainingResult result = new Minitron { Steps = 60, LearningRate = 1e-2, HiddenStates = Everywhere }
            .Retrain(Context(student, new Dictionary<string, SparsityMask>(), folder.Path, dense: dense));
        Distance(student, dense).ShouldBeLessThan(0.5 * before);
        result.Losses[^1].ShouldBeLessThan(result.Losses[0]);
        MinitronObjective.Map(2, 3).ShouldBe([1, 2]);
        MinitronObjective.Map(3, 3).ShouldBe([0, 1, 2]);
        MinitronObjective.Map(4, 12).ShouldBe([2, 5, 8, 11]);
    }

    [Fact]
    public void An_interrupted_distillation_ends_with_the_same_bytes() => ResumesToTheByte((state, stop) =>
    {
        ModelConfig large = TinyModels.Config("llama", ("hidden_size", 32), ("num_attention_heads", 4));
        using MemoryTensors tensors = TinyModels.Tensors(large);
        using var dense = new StreamedModel(large, tensors);
        using LanguageModel student = TinyModels.Create("llama");
        new Minitron { Steps = 8, HiddenStates = HiddenPlaces.Embedding | HiddenPlaces.BlockOutput, LearningRate = 1e-2 }.Retrain(Context(student, Prune(student.Blocks), state, dense: dense, stop: stop));
        return Bytes(student);
    });

    [Fact]
    public void The_rate_warms_up_and_falls_to_the_final_one()
    {
        var minitron = new Minitron { Steps = 100, WarmupFraction = 0.1, LearningRate = 2e-4, FinalLearningRate = 4.5e-7 };
        minitron.Rate(0).ShouldBe(0);
        minitron.Rate(5).ShouldBe(1e-4, 1e-12);
        minitron.Rate(10).ShouldBe(2e-4, 1e-12);
        minitron.Rate(55).ShouldBe((2e-4 + 4.5e-7) / 2, 1e-12);
        minitron.Rate(100).ShouldBe(4.5e-7, 1e-12);
    }

    [Fact]
    public void Another_teacher_is_taken_from_a_folder_and_must_share_the_vocabulary()
    {
        using var scope = NewDisposeScope();
        using var folder = new TemporaryFolder();
        Directory.CreateDirectory(folder["same"]);
        Directory.CreateDirectory(folder["other"]);
        TinyModels.Write(folder["same"], TinyModels.Config("gpt2"), 3);
        TinyModels.Write(folder["other"], TinyModels.Config("gpt2", ("vocab_size", 41)), 3);
        using LanguageModel student = TinyModels.Create("llama");
        using StreamedModel teacher = StreamedModel.Open(folder["same"]);
        double before = Distance(student, teacher);
        var minitron = new Minitron { TeacherModel = folder["same"], Steps = 40, LearningRate = 1e-2 };
        minitron.Check(student.Config, student.Blocks[0], student.Head);
        minitron.Retrain(Context(student, new Dictionary<string, SparsityMask>(), folder["state"]));
        Distance(student, teacher).ShouldBeLessThan(0.7 * before);
        Should.Throw<EspalierException>(() => new Minitron { TeacherModel = folder["other"] }.Check(student.Config, student.Blocks[0], student.Head)).Message.ShouldContain("41 tokens");

        // The same number of tokens, cut otherwise.
        string[] characters = [.. Enumerable.Range(0, 37).Select(i => ((char)('a' + i)).ToString())];
        Directory.CreateDirectory(folder["model"]);
        TinyModels.Write(folder["model"], TinyModels.Config("llama"));
        WriteTokenizer(folder["same"], characters);
        WriteTokenizer(folder["model"], [.. characters.Reverse()]);
        ModelConfig own = ModelConfig.Load(folder["model"]);
        Should.Throw<EspalierException>(() => minitron.Check(own, student.Blocks[0], student.Head)).Message.ShouldContain("other tokens");
        WriteTokenizer(folder["model"], characters);
        minitron.Check(own, student.Blocks[0], student.Head);
    }

    [Fact]
    public void Bad_input_is_named()
    {
        using var folder = new TemporaryFolder();
        using LanguageModel student = TinyModels.Create("llama");
        Sentence(() => new Minitron { Temperature = 0 }).ShouldContain("temperature");
        Sentence(() => new Minitron { Steps = 0 }).ShouldContain("steps");
        Sentence(() => new Minitron { LearningRate = -1 }).ShouldContain("learning rate");
        Sentence(() => new Minitron { LearningRate = 1e-7 }.Check(student.Config, student.Blocks[0], student.Head)).ShouldContain("above the peak");
        Sentence(() => new Minitron().Retrain(Context(student, new Dictionary<string, SparsityMask>(), folder.Path))).ShouldContain("teacher_model");
        Sentence(() => new Minitron { TeacherModel = folder["nothing"] }.Check(student.Config, student.Blocks[0], student.Head)).ShouldContain("nothing");

        static string Sentence(Action act) => Should.Throw<EspalierException>(act).Message;
    }

    [Fact]
    public void A_plan_says_it_in_words()
    {
        var minitron = (Minitron)MethodCatalogue.Default.Create<IRetraining>("minitron", new Dictionary<string, object?>
        {
            ["steps"] = 100L, ["learning_rate"] = "1e-3", ["hidden_states"] = new List<object> { "embedding", "block_output" }, ["teacher"] = "streamed", ["distance"] = "rkld", ["use_cross_entropy"] = "true",
        });
        minitron.HiddenStates.ShouldBe(HiddenPlaces.Embedding | HiddenPlaces.BlockOutput);
        minitron.Teacher.ShouldBe(TeacherPlacement.Streamed);
        minitron.Distance.ShouldBe(LogitDistance.Rkld);
        (minitron.Steps, minitron.UseCrossEntropy).ShouldBe((100, true));
        ((Minitron)MethodCatalogue.Default.Create<IRetraining>("minitron", new Dictionary<string, object?> { ["hidden_states"] = "none" })).HiddenStates.ShouldBe(HiddenPlaces.None);
    }

    [Fact]
    public async Task A_plan_distils_the_dense_model_into_the_pruned_one_and_keeps_its_zeros()
    {
        using var folder = new TemporaryFolder();
        PruningJob job = Espalier.Tests.Pruning.PrunerTests.Job(folder, "qwen2", new Wanda(), Pattern.SemiStructured(2, 4));
        job = job with
        {
            Plan = job.Plan with { Retraining = new Minitron { Steps = 10, Batch = 2, Length = 12, LearningRate = 1e-2 } },
            RetrainingText = (batch, length) => (step, _) => TinyModels.Ids(TinyModels.Config("qwen2"), batch, length, step),
        };
        PruningReport report = await Pruner.RunAsync(job, SilentProgress.Instance);
        report.Losses.Count.ShouldBe(10);
        report.LossName.ShouldBe("distance to the teacher (kld)");
        report.ReopenedDifference.ShouldBe(0);
        using LanguageModel output = LanguageModel.Load(job.Out);
        Revived(output, SparsityMasks.Load(job.Out)).ShouldBe(0);
        PruningReportPage.Make(report).ToHtml().ShouldContain("distance to the teacher");
    }

    private static double Distance(LanguageModel student, StreamedModel dense)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using LanguageModel teacher = LanguageModel.Load(dense.Config, dense.Source);
        Tensor ids = TinyModels.Ids(student.Config, 2, 12, 0);
        return Minitron.LogitLoss(student.Logits(ids), teacher.Logits(ids)).item<float>();
    }

    private static void WriteTokenizer(string folder, string[] tokens) => File.WriteAllText(Path.Combine(folder, "tokenizer.json"), $$"""
        { "model": { "type": "BPE", "vocab": { {{string.Join(", ", tokens.Select((t, i) => $"{System.Text.Json.JsonSerializer.Serialize(t)}: {i}"))}} }, "merges": [] },
          "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "use_regex": true }, "decoder": { "type": "ByteLevel" }, "added_tokens": [] }
        """);
}
