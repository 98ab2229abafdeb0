using Espalier.Checkpoints;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Tests.Checkpoints;

public sealed class CheckpointTests
{
    private static readonly string[] TensorNames = ["a", "b", "c", "d", "e"];

    [Fact]
    public void One_file_and_shards_come_back_the_same()
    {
        using var folder = new TemporaryFolder();
        foreach (long limit in new long[] { 1, 40, 80, 1000 })
        {
            Write(folder.Path, 1, limit).ShouldBe(limit switch { 1 or 40 => 5, 80 => 3, _ => 1 });
            ValueOf(folder.Path).ShouldBe(1);
            using var checkpoint = Checkpoint.Open(folder.Path);
            checkpoint.TotalBytes.ShouldBe(200);
            checkpoint.Names.ShouldBe(TensorNames);
            checkpoint.Metadata["format"].ShouldBe("pt");
            checkpoint.Folder.ShouldBe(folder.Path);
            string[] files = Directory.GetFiles(folder.Path).Select(f => Path.GetFileName(f)).Order().ToArray();
            files.ShouldBe(limit switch
            {
                80 => ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors", "model.safetensors.index.json"],
                1000 => ["model.safetensors"],
                _ => [.. Enumerable.Range(1, 5).Select(i => $"model-{i:D5}-of-00005.safetensors"), "model.safetensors.index.json"],
            });
        }
    }

    [Fact]
    public void Written_over_the_folder_it_is_read_from_the_reader_sees_the_old_and_the_next_the_new()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        foreach ((long before, long after) in new[] { (1000L, 1000L), (1000L, 80L), (80L, 80L), (80L, 40L), (40L, 1000L) })
        {
            Write(folder.Path, 1, before);
            using (var source = Checkpoint.Open(folder.Path))
            using (var target = CheckpointWriter.Create(folder.Path, source.Names.Select(source.Info).ToArray(), after))
            {
                _ = source.FileOf("a").Bytes("a");
                foreach (string name in source.Names.Reverse())
                {
                    target.Write(name, source.Read(name) + 1);
                }

                target.Commit();
                source.Read("e").sum().item<float>().ShouldBe(10f);
                source.FileOf("a").Bytes("a").Length.ShouldBe(40);
            }

            ValueOf(folder.Path).ShouldBe(2);
            Directory.GetFiles(folder.Path, "*tmp*").ShouldBeEmpty();
            Directory.GetFiles(folder.Path, ".*").ShouldBeEmpty();
        }
    }

    /// <summary>The machine dies, or the disk fills, at every call in turn: the folder holds the old checkpoint or the new, never a mixture.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Whatever_call_fails_the_folder_holds_one_whole_checkpoint(bool machineDies)
    {
        foreach ((long before, long after) in new[] { (1000L, 1000L), (1000L, 80L), (80L, 80L), (80L, 40L), (40L, 1000L) })
        {
            for (int k = 0; ; k++)
            {
                using var folder = new TemporaryFolder();
                Write(folder.Path, 1, before);
                var layer = new FailingFileLayer(k, FailingFileLayer.DiskFull, machineDies);
                bool committed = false;
                try
                {
                    using var writer = CheckpointWriter.Create(folder.Path, Plan(), after, layer);
                    Fill(writer, 2);
                    writer.Commit();
                    committed = true;
                }
                catch (EspalierException sentence)
                {
                    sentence.Message.ShouldContain(folder.Path);
                }

                float value = ValueOf(folder.Path);
                value.ShouldBeOneOf(1f, 2f);
                if (committed)
                {
                    value.ShouldBe(2f);
                }

                // And the next writer sets everything right, whatever was left behind.
                Write(folder.Path, 3, after);
                ValueOf(folder.Path).ShouldBe(3f);
                Directory.GetFiles(folder.Path, "*.safetensors").Count(f => !Path.GetFileName(f).StartsWith('.'))
                    .ShouldBe(after == 1000 ? 1 : after == 80 ? 3 : 5);
                if (committed && layer.Calls <= k)
                {
                    break;
                }
            }
        }
    }

    [Fact]
    public void A_writer_disposed_without_commit_changes_nothing()
    {
        using var folder = new TemporaryFolder();
        Write(folder.Path, 1, 80);
        string[] before = Directory.GetFiles(folder.Path).Order().ToArray();
        using (var writer = CheckpointWriter.Create(folder.Path, Plan(), 80))
        {
            using Tensor t = ones(10);
            writer.Write("a", t);
        }

        Directory.GetFiles(folder.Path).Order().ToArray().ShouldBe(before);
        ValueOf(folder.Path).ShouldBe(1);
    }

    [Fact]
    public void Other_files_of_the_folder_stay()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["config.json"], "{}");
        File.WriteAllText(folder["adapter_model.safetensors"], "another's");
        File.WriteAllText(folder["my-model-00001-of-00002.safetensors"], "another's");
        Write(folder.Path, 1, 80);
        Write(folder.Path, 2, 1000);
        File.Exists(folder["config.json"]).ShouldBeTrue();
        File.Exists(folder["adapter_model.safetensors"]).ShouldBeTrue();
        File.Exists(folder["my-model-00001-of-00002.safetensors"]).ShouldBeTrue();
    }

    [Fact]
    public void A_tensor_is_copied_unchanged_from_another_checkpoint()
    {
        using var folder = new TemporaryFolder();
        Write(folder["in"], 7, 80);
        using var source = Checkpoint.Open(folder["in"]);
        using (var writer = CheckpointWriter.Create(folder["out"], source.Names.Select(source.Info).ToArray()))
        {
            foreach (string name in source.Names)
            {
                writer.Copy(name, source);
            }

            writer.Commit();
        }

        ValueOf(folder["out"]).ShouldBe(7);
    }

    [Fact]
    public void Any_single_safetensors_file_is_a_checkpoint_and_so_is_a_file_by_its_path()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        SafeTensorsFile.Save(folder["adapter_model.safetensors"], [("a", ones(1))]);
        using (var checkpoint = Checkpoint.Open(folder.Path))
        {
            checkpoint.Contains("a").ShouldBeTrue();
        }

        SafeTensorsFile.Save(folder["second.safetensors"], [("b", ones(1))]);
        Should.Throw<EspalierException>(() => Checkpoint.Open(folder.Path)).Message.ShouldContain("2 safetensors files");
        using var second = Checkpoint.Open(folder["second.safetensors"]);
        second.Names.ShouldBe(["b"]);
        Should.Throw<EspalierException>(() => second.Read("a")).Message.ShouldContain("'a'");
    }

    [Fact]
    public void A_folder_of_pickles_an_empty_one_and_a_missing_one_get_sentences()
    {
        using var folder = new TemporaryFolder();
        Should.Throw<EspalierException>(() => Checkpoint.Open(folder.Path)).Message.ShouldContain("no *.safetensors");
        File.WriteAllText(folder["pytorch_model.bin"], "x");
        Should.Throw<EspalierException>(() => Checkpoint.Open(folder.Path)).Message.ShouldContain("pickle");
        Should.Throw<EspalierException>(() => Checkpoint.Open(folder["nowhere"])).Message.ShouldContain("nowhere");
    }

    [Theory]
    [InlineData("not json", "not valid JSON")]
    [InlineData("[]", "not a JSON object")]
    [InlineData("{}", "no tensors")]
    [InlineData("""{"weight_map":[]}""", "one object")]
    [InlineData("""{"weight_map":{}}""", "no tensors")]
    [InlineData("""{"weight_map":{"a":1}}""", "no file name")]
    [InlineData("""{"weight_map":{"a":"s.safetensors","a":"s.safetensors"}}""", "twice")]
    [InlineData("""{"weight_map":{"a":"../s.safetensors"}}""", "plain name")]
    [InlineData("""{"weight_map":{"a":"sub/s.safetensors"}}""", "plain name")]
    [InlineData("""{"weight_map":{"a":"sub\\s.safetensors"}}""", "plain name")]
    [InlineData("""{"weight_map":{"a":"/etc/s.safetensors"}}""", "plain name")]
    [InlineData("""{"weight_map":{"a":"C:s.safetensors"}}""", "plain name")]
    [InlineData("""{"weight_map":{"a":"pytorch_model.bin"}}""", "plain name")]
    [InlineData("""{"weight_map":{"a":""}}""", "plain name")]
    [InlineData("""{"weight_map":{"a":"gone.safetensors"}}""", "lacks 1 of the 1")]
    [InlineData("""{"weight_map":{"a":"s.safetensors","z":"s.safetensors"}}""", "'z' lies in s.safetensors")]
    public void An_index_that_lies_gets_a_sentence(string index, string says)
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        SafeTensorsFile.Save(folder["s.safetensors"], [("a", ones(1))]);
        File.WriteAllText(folder[Checkpoint.IndexFileName], index);
        string message = Should.Throw<EspalierException>(() => Checkpoint.Open(folder.Path).Dispose()).Message;
        message.ShouldContain(says);
        message.ShouldContain(folder.Path);
    }

    [Fact]
    public void A_tensor_that_the_index_does_not_name_is_no_part_of_the_model()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        SafeTensorsFile.Save(folder["s.safetensors"], [("a", ones(1)), ("extra", ones(1))]);
        File.WriteAllText(folder[Checkpoint.IndexFileName], """{"metadata":{"total_size":4},"weight_map":{"a":"s.safetensors"}}""");
        using var checkpoint = Checkpoint.Open(folder.Path);
        checkpoint.Names.ShouldBe(["a"]);
        checkpoint.TotalBytes.ShouldBe(4);
    }

    private static TensorInfo[] Plan() => TensorNames.Select(name => ElementTypes.Plan(name, ScalarType.Float32, 10)).ToArray();

    private static int Write(string folder, float value, long shardBytes)
    {
        // A layer that never fails, and that does not wait for the disk.
        using var writer = CheckpointWriter.Create(folder, Plan(), shardBytes, new FailingFileLayer(int.MaxValue, FailingFileLayer.DiskFull));
        Fill(writer, value);
        writer.Commit();
        return writer.ShardCount;
    }

    private static void Fill(CheckpointWriter writer, float value)
    {
        using Tensor tensor = full(10, value);
        foreach (string name in TensorNames)
        {
            writer.Write(name, tensor);
        }
    }

    /// <summary>The one value that all tensors of the folder's checkpoint have.</summary>
    private static float ValueOf(string folder)
    {
        using var scope = NewDisposeScope();
        using var checkpoint = Checkpoint.Open(folder);
        return TensorNames.SelectMany(name => checkpoint.Read(name).data<float>().ToArray()).Distinct().ShouldHaveSingleItem();
    }
}
