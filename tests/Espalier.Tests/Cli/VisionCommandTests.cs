using System.Text.Json;
using Espalier.Cli;

namespace Espalier.Tests.Cli;

public sealed class VisionCommandTests
{
    private const string Config = """{"model_type": "torchvision_vgg", "layers": [4, "M", 6], "head": "mean", "num_channels": 1, "image_size": 8, "num_classes": 2}""";

    [Fact]
    public async Task A_net_is_trained_stopped_and_gone_on_with_inspected_and_measured()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["config.json"], Config);
        WriteImages(folder, 48);
        string[] train = ["train", "--config", folder["config.json"], "--data", $"{folder.Path}:train", "--eval-data", $"{folder.Path}:train", "--batch", "8", "--steps", "40", "--lr", "0.1",
            "--optimizer", "sgd", "--momentum", "0.9", "--nesterov", "--schedule", "multistep", "--augment", "cifar", "--out", folder["net"], "--json"];
        Tool trained = await Tool.RunAsync(train);
        trained.Code.ShouldBe(ExitCode.Success, trained.Error);
        trained.Result.GetProperty("steps").GetInt32().ShouldBe(40);
        double accuracy = trained.Result.GetProperty("accuracy").GetDouble();
        accuracy.ShouldBeGreaterThan(90);

        JsonElement measured = (await Tool.RunAsync("eval", folder["net"], "--data", $"{folder.Path}:train", "--json")).Result;
        measured.GetProperty("accuracy").GetDouble().ShouldBe(accuracy);
        measured.GetProperty("images").GetInt32().ShouldBe(48);
        (await Tool.RunAsync("eval", folder["net"], "--data", $"{folder.Path}:train", "--limit", "10")).Output.ShouldContain("on 10 images");
        JsonElement inspected = (await Tool.RunAsync("inspect", folder["net"], "--json")).Result;
        inspected.GetProperty("modelType").GetString().ShouldBe("torchvision_vgg");
        inspected.GetProperty("macs").GetInt64().ShouldBe((4 * 9 * 64) + (6 * 36 * 16) + 12);

        train[2] = folder["net"];
        train[Array.IndexOf(train, folder["net"], 3)] = folder["more"];
        (await Tool.RunAsync(train)).Code.ShouldBe(ExitCode.Success);
    }

    [Fact]
    public async Task A_net_is_trained_sparse_keeps_its_zeros_later_and_its_channels_are_merged()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["config.json"], Config);
        WriteImages(folder, 48);
        string[] common = ["--data", $"{folder.Path}:train", "--batch", "8", "--steps", "40", "--lr", "0.05", "--json"];
        Tool trained = await Tool.RunAsync(["train", "--config", folder["config.json"], "--sparse-training", "granet", "--set", "sparsity=0.6", "--set", "update_every=4", "--out", folder["net"], .. common]);
        trained.Code.ShouldBe(ExitCode.Success, trained.Error);
        double sparsity = trained.Result.GetProperty("sparsity").GetDouble();
        sparsity.ShouldBeGreaterThan(0.55);
        trained.Result.GetProperty("trainingShare").GetDouble().ShouldBeInRange(0.2, 0.9);

        (await Tool.RunAsync(["train", "--config", folder["net"], "--out", folder["more"], .. common])).Code.ShouldBe(ExitCode.Success);
        using (var more = Espalier.Models.Vision.VisionModel.Load(folder["more"]))
        {
            ((double)more.Weights.Sum(w => w.Weight.numel() - w.Weight.count_nonzero().item<long>()) / more.Weights.Sum(w => w.Weight.numel())).ShouldBeGreaterThanOrEqualTo(sparsity - 1e-9);
        }

        Tool merged = await Tool.RunAsync("complexity", folder["more"], "--set", "beta=0.9", "--curve", "0.01,0.5", "--data", $"{folder.Path}:train", "--out", folder["merged"], "--json");
        merged.Code.ShouldBe(ExitCode.Success, merged.Error);
        merged.Result.GetProperty("curve").GetArrayLength().ShouldBe(2);
        JsonElement inspected = (await Tool.RunAsync("inspect", folder["merged"], "--json")).Result;
        inspected.GetProperty("macs").GetInt64().ShouldBe(merged.Result.GetProperty("after").GetProperty("macs").GetInt64());
        (await Tool.RunAsync("complexity", folder["more"])).Output.ShouldContain("features.0");
    }

    [Fact]
    public async Task A_ViT_is_rounded_measured_as_it_is_rounded_studied_and_distilled()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["config.json"], """{"model_type": "timm_vit", "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3, "num_channels": 1, "image_size": 8, "num_classes": 2}""");
        WriteImages(folder, 48);
        string[] common = ["--data", $"{folder.Path}:train", "--batch", "8", "--steps", "30", "--lr", "2e-3", "--json"];
        (await Tool.RunAsync(["train", "--config", folder["config.json"], "--out", folder["net"], .. common])).Code.ShouldBe(ExitCode.Success);
        Tool rounded = await Tool.RunAsync(["train", "--config", folder["net"], "--eval-data", $"{folder.Path}:train", "--method", "ofq", "--set", "bits=3", "--out", folder["rounded"], .. common]);
        rounded.Code.ShouldBe(ExitCode.Success, rounded.Error);
        double accuracy = rounded.Result.GetProperty("figures").GetProperty("accuracy of the rounded net").GetDouble();
        rounded.Result.GetProperty("accuracy").GetDouble().ShouldBe(accuracy);
        (await Tool.RunAsync("eval", folder["rounded"], "--data", $"{folder.Path}:train", "--json")).Result.GetProperty("accuracy").GetDouble().ShouldBe(accuracy);

        JsonElement study = (await Tool.RunAsync("attention", folder["net"], "--data", $"{folder.Path}:train", "--json")).Result;
        study.GetProperty("layers").GetArrayLength().ShouldBe(2);
        Tool student = await Tool.RunAsync(["train", "--config", folder["net"], "--method", "unip", "--set", "width=24", "--set", "heads=2", "--set", "depth=1", "--out", folder["student"], .. common]);
        student.Code.ShouldBe(ExitCode.Success, student.Error);
        student.Result.GetProperty("figures").GetProperty("layer taught").GetInt32().ShouldBe(study.GetProperty("chosen").GetInt32());
        (await Tool.RunAsync("eval", folder["student"], "--data", $"{folder.Path}:train")).Code.ShouldBe(ExitCode.Success);
    }

    [Fact]
    public async Task A_net_for_super_resolution_is_trained_on_a_folder_of_images_and_measured_beside_bicubic()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["config.json"], """{"model_type": "edsr", "features": 4, "blocks": 1, "scale": 2, "image_size": 8}""");
        for (int i = 0; i < 6; i++)
        {
            Data.OriginalsTests.Write(folder[$"photos/{i}.png"], 34 + i, 32 + (2 * i), (x, y) => (byte)(128 + (100 * Math.Sin((x + i) / 3.0) * Math.Cos(y / (2.0 + i)))));
        }

        Tool trained = await Tool.RunAsync("train", "--config", folder["config.json"], "--data", folder["photos"], "--eval-data", folder["photos"], "--batch", "4", "--steps", "60", "--lr", "1e-2", "--augment", "flip",
            "--sparse-training", "issp", "--set", "sparsity=0.5", "--out", folder["net"], "--json");
        trained.Code.ShouldBe(ExitCode.Success, trained.Error);
        double psnr = trained.Result.GetProperty("psnr").GetDouble();
        psnr.ShouldBeGreaterThan(15);
        trained.Result.GetProperty("sparsity").GetDouble().ShouldBe(0.5, 0.02);

        JsonElement measured = (await Tool.RunAsync("eval", folder["net"], "--data", folder["photos"], "--json")).Result;
        measured.GetProperty("psnr").GetDouble().ShouldBe(psnr);
        measured.GetProperty("images").GetInt32().ShouldBe(6);
        measured.GetProperty("bicubic").GetProperty("psnr").GetDouble().ShouldBeGreaterThan(15);
        (await Tool.RunAsync("eval", folder["net"], "--data", folder["photos"], "--limit", "1")).Output.ShouldContain("on 1 images made 2 times finer");

        (await Tool.RunAsync("train", "--config", folder["net"], "--data", folder["photos"], "--steps", "5", "--method", "sms", "--out", folder["soup"])).Error.ShouldContain("puts out finer images");
        (await Tool.RunAsync("adapt", folder["net"], "--data", folder["photos"], "--steps", "5", "--out", folder["adapter"])).Error.ShouldContain("puts out finer images");
        (await Tool.RunAsync("train", "--config", folder["config.json"], "--data", folder["net"], "--steps", "5", "--out", folder["none"])).Code.ShouldNotBe(ExitCode.Success);
    }

    [Fact]
    public async Task A_soup_is_made_by_workers_under_a_memory_limit_and_a_work_folder_is_left_empty()
    {
        int threads = TorchSharp.torch.get_num_threads();
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["config.json"], Config);
        WriteImages(folder, 48);
        string[] data = ["--data", $"{folder.Path}:train", "--batch", "8", "--lr", "0.05", "--steps", "6", "--threads", "1", "--json"];
        (await Tool.RunAsync(["train", "--config", folder["config.json"], "--out", folder["net"], .. data])).Code.ShouldBe(ExitCode.Success);
        string[] soup = ["train", "--config", folder["net"], "--method", "sms", "--set", "sparsity=0.5", "--set", "models=3", .. data];
        (await Tool.RunAsync([.. soup, "--out", folder["here"]])).Code.ShouldBe(ExitCode.Success);
        Tool apart = await Tool.RunAsync([.. soup, "--workers", "2", "--memory-limit", "8GiB", "--work-folder", folder["work"], "--out", folder["apart"]]);
        apart.Code.ShouldBe(ExitCode.Success, apart.Error);
        File.ReadAllBytes(Path.Combine(folder["apart"], "model.safetensors")).ShouldBe(File.ReadAllBytes(Path.Combine(folder["here"], "model.safetensors")));
        Directory.EnumerateFileSystemEntries(folder["work"]).Select(Path.GetFileName).Order(StringComparer.Ordinal).ShouldBe(["espalier-work.json", "run.lock"]);
        Directory.Exists(Path.Combine(folder["apart"], "training-state")).ShouldBeFalse();

        (await Tool.RunAsync("work", folder["work"], "--json")).Result.GetProperty("trained").GetInt32().ShouldBe(0);
        (await Tool.RunAsync("work", folder["net"])).Error.ShouldContain("no folder of trainings");
        (await Tool.RunAsync("work", folder["work"], "--wait", "-1")).Error.ShouldContain("--wait -1");
        (await Tool.RunAsync([.. soup, "--memory-limit", "1GiB", "--out", folder["none"]])).Error.ShouldContain("add --workers N");
        (await Tool.RunAsync([.. soup, "--workers", "2", "--memory-limit", "much", "--out", folder["none"]])).Error.ShouldContain("'much' is no size");
        (await Tool.RunAsync(["train", "--config", folder["net"], "--workers", "2", "--out", folder["none"], .. data])).Error.ShouldContain("--method sms or oracle");
        (await Tool.RunAsync([.. soup, "--workers", "2", "--work-folder", folder["config.json"], "--out", folder["none"]])).Code.ShouldBe(ExitCode.UserError);
        TorchSharp.torch.set_num_threads(threads);
    }

    [Fact]
    public async Task A_method_makes_another_net_of_a_trained_one()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["config.json"], Config);
        WriteImages(folder, 48);
        string[] data = ["--data", $"{folder.Path}:train", "--batch", "8", "--lr", "0.05", "--optimizer", "sgd", "--momentum", "0.9", "--json"];
        (await Tool.RunAsync(["train", "--config", folder["config.json"], "--steps", "30", "--out", folder["net"], .. data])).Code.ShouldBe(ExitCode.Success);

        string[] soupWords = ["train", "--config", folder["net"], "--steps", "6", "--method", "sms", "--set", "sparsity=0.5", "--set", "models=2", "--out", folder["soup"], .. data];
        (await Tool.RunAsync([.. soupWords, "--resume"])).Error.ShouldContain("no unfinished training");
        Tool soup = await Tool.RunAsync(["train", "--config", folder["net"], "--steps", "6", "--method", "sms", "--set", "sparsity=0.5", "--set", "models=2", "--eval-data", $"{folder.Path}:train", "--out", folder["soup"], .. data]);
        soup.Code.ShouldBe(ExitCode.Success, soup.Error);
        soup.Result.GetProperty("sparsity").GetDouble().ShouldBe(0.5, 0.01);
        soup.Result.GetProperty("figures").GetProperty("largest angle of two models, degrees").GetDouble().ShouldBeGreaterThan(0);
        JsonElement inspected = (await Tool.RunAsync("inspect", folder["soup"], "--json")).Result;
        inspected.GetProperty("unitsWithoutWeights").GetInt64().ShouldBeGreaterThanOrEqualTo(0);
        long zeros = inspected.GetProperty("zeros").GetInt64();
        (await Tool.RunAsync(["train", "--config", folder["soup"], "--steps", "4", "--out", folder["more"], .. data])).Code.ShouldBe(ExitCode.Success);
        (await Tool.RunAsync("inspect", folder["more"], "--json")).Result.GetProperty("zeros").GetInt64().ShouldBeGreaterThanOrEqualTo(zeros);

        File.WriteAllText(folder["ftwt.yaml"], "method: ftwt\nratio: 0.8\n");
        Tool gated = await Tool.RunAsync(["train", "--config", folder["net"], "--steps", "12", "--method", folder["ftwt.yaml"], "--set", "mode=joint", "--eval-data", $"{folder.Path}:train", "--out", folder["gated"], .. data]);
        gated.Code.ShouldBe(ExitCode.Success, gated.Error);
        double saving = gated.Result.GetProperty("figures").GetProperty("saving, %").GetDouble();
        JsonElement measured = (await Tool.RunAsync("eval", folder["gated"], "--data", $"{folder.Path}:train", "--json")).Result;
        measured.GetProperty("gates").GetProperty("saving").GetDouble().ShouldBe(saving, 1e-9);
        measured.GetProperty("gates").GetProperty("predictors").GetInt64().ShouldBe((4 * 1) + (6 * 4));
        measured.GetProperty("accuracy").GetDouble().ShouldBe(gated.Result.GetProperty("accuracy").GetDouble());
        measured.GetProperty("deadNeurons").GetProperty("total").GetDouble().ShouldBeInRange(0, 100);
        (await Tool.RunAsync("eval", folder["gated"], "--data", $"{folder.Path}:train")).Output.ShouldContain("closed filters skipped");
        (await Tool.RunAsync("inspect", folder["gated"])).Output.ShouldContain("2 gates");
        (await Tool.RunAsync(["train", "--config", folder["gated"], "--steps", "4", "--out", folder["later"], .. data])).Code.ShouldBe(ExitCode.Success);
    }

    [Theory]
    [InlineData("is none; set activation_bits=0", "train", "--config", "NET", "--data", "IMAGES:train", "--method", "ofq", "--out", "OUT")]
    [InlineData("give a ViT", "attention", "NET", "--data", "IMAGES:train")]
    [InlineData("would not say which", "train", "--config", "NET", "--data", "IMAGES:train", "--method", "sms", "--stop-after", "3", "--out", "OUT")]
    [InlineData("use one of them", "train", "--config", "NET", "--data", "IMAGES:train", "--method", "sms", "--sparse-training", "granet", "--out", "OUT")]
    [InlineData("at least 2", "train", "--config", "NET", "--data", "IMAGES:train", "--method", "sms", "--set", "models=1", "--out", "OUT")]
    [InlineData("works on a trained vision net", "train", "--config", "ONE", "--data", "IMAGES:train", "--method", "ftwt", "--out", "OUT")]
    [InlineData("at most 1", "train", "--config", "NET", "--data", "IMAGES:train", "--method", "ftwt", "--set", "ratio=1.5", "--out", "OUT")]
    [InlineData("or --sparse-training", "train", "--config", "NET", "--data", "IMAGES:train", "--set", "sparsity=0.9", "--out", "OUT")]
    [InlineData("no change of the masks", "train", "--config", "NET", "--data", "IMAGES:train", "--steps", "50", "--sparse-training", "granet", "--out", "OUT")]
    [InlineData("is no beta", "complexity", "NET", "--curve", "0.1,x")]
    [InlineData("answers no tasks", "eval", "NET", "--tasks", "piqa", "--task-data", "piqa=IMAGES/piqa.jsonl")]
    [InlineData("A limit of 0", "eval", "NET", "--data", "IMAGES:train", "--limit", "0")]
    [InlineData("no split \"test\"", "eval", "NET", "--data", "IMAGES:test")]
    [InlineData("one --data", "train", "--config", "NET", "--data", "IMAGES:train", "--data", "IMAGES:train", "--out", "OUT")]
    [InlineData("class 1, but the net tells only 1", "train", "--config", "ONE", "--data", "IMAGES:train", "--out", "OUT")]
    public async Task Bad_words_are_answered_with_a_sentence(string says, params string[] words)
    {
        using var folder = new TemporaryFolder();
        WriteImages(folder, 4);
        File.WriteAllText(folder["piqa.jsonl"], """{"goal": "a", "sol1": "b", "sol2": "c", "label": 0}""");
        Directory.CreateDirectory(folder["net"]);
        File.WriteAllText(Path.Combine(folder["net"], "config.json"), Config);
        File.WriteAllText(folder["one.json"], Config.Replace("\"num_classes\": 2", "\"num_classes\": 1", StringComparison.Ordinal));
        using (var model = Espalier.Models.Vision.VisionModel.Random(Espalier.Models.Vision.VisionConfig.Parse(Config), new Espalier.Runtime.Seed(0)))
        {
            model.Save(folder["net"]);
        }

        Tool tool = await Tool.RunAsync([.. words.Select(w => w.Replace("NET", folder["net"]).Replace("IMAGES", folder.Path).Replace("ONE", folder["one.json"]).Replace("OUT", folder["out"]))]);
        tool.Code.ShouldBe(ExitCode.UserError);
        tool.Error.ShouldContain(says);
    }

    // Grey noise; class 1 has bright stripes. As idx files.
    internal static void WriteImages(TemporaryFolder folder, int count)
    {
        var random = new Random(1);
        byte[] pixels = new byte[count * 64], labels = [.. Enumerable.Range(0, count).Select(i => (byte)(i % 2))];
        random.NextBytes(pixels);
        for (int i = 0; i < pixels.Length; i++)
        {
            int row = i / 8 % 8;
            pixels[i] = (byte)((pixels[i] / 4) + ((labels[i / 64] == 1 && row % 2 == 0) ? 180 : 0));
        }

        File.WriteAllBytes(folder["train-images-idx3-ubyte"], [0, 0, 8, 3, 0, 0, 0, (byte)count, 0, 0, 0, 8, 0, 0, 0, 8, .. pixels]);
        File.WriteAllBytes(folder["train-labels-idx1-ubyte"], [0, 0, 8, 1, 0, 0, 0, (byte)count, .. labels]);
    }
}
